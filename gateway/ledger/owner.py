"""Who holds work, and whether it lives: a process proves it, so that the work of a dead one is taken over at once."""

import fcntl
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import StoreUnavailable

if TYPE_CHECKING:
    from gateway.stores.redis_server import RedisServer

#: How often a process says in Redis that it lives, how long it waits for the answer, and for how long that is believed,
#: in seconds.
BEAT_S, BEAT_TIMEOUT_S, LIFE_S = 1.0, 1.0, 6.0

#: How long a process has to have shown no life before it is taken for dead, in seconds. When Redis itself was silent
#: all signs of life have ended together; those who live show the next one within BEAT_S and BEAT_TIMEOUT_S.
GRACE_S = 3.0

#: An answer that is older than this, in seconds, says nothing of the time in between.
STALE_S = 5.0


class Owner:
    """This process as a holder of work: it gives out tokens, and knows of any token whether its holder lives.

    Of this process only a token lives that has not been dropped. Thread-safe. This class alone knows of no other
    process: their work is left to them until its lease ends.
    """

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self._held: set[str] = set()

    def start(self) -> None:
        """From now on this process proves that it lives. Raises StoreUnavailable."""

    def stop(self) -> None:
        """No more. Idempotent."""

    def take(self, deaths: int = 0) -> str:
        """A new token, held until it is dropped; so many processes have died at the same work before."""
        token = f"{self.id}.{deaths}.{uuid.uuid4().hex}"
        self._held.add(token)
        return token

    def drop(self, token: str) -> None:
        """The token holds nothing any more. Idempotent."""
        self._held.discard(token)

    def lives(self, token: str) -> bool:
        """Whether who holds this token may still be at work. Raises StoreUnavailable."""
        owner, has_owner, _ = token.partition(".")
        if not has_owner:
            return True  # it is of an older version of the worker, which says nothing of its life
        return token in self._held if owner == self.id else self._is_alive(owner)

    def deaths(self, token: str) -> int:
        """How many processes have died at the work of a token, when that does not live: with its own, if it is dead."""
        owner, *deaths, _ = token.split(".")
        before = int(deaths[0]) if deaths and deaths[0].isdecimal() else 0
        return before if owner == self.id else before + 1

    def _is_alive(self, _owner: str) -> bool:
        return True


class FileOwner(Owner):
    """For the processes of one machine: each holds the lock of a file, which the system drops when it dies.

    A process that was only stopped holds its lock: its work is taken over when its leases end.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._path = os.fspath(folder / self.id)  # looked for at every request
        self._file: int | None = None

    def start(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in list(self._folder.iterdir()):
                self._is_alive(left.name)
            while self._file is None:
                self._file = _locked(self._folder / self.id)
        except OSError as error:
            raise StoreUnavailable(f"{self._folder} cannot be used: {error}. See STATE_PATH") from error

    def take(self, deaths: int = 0) -> str:
        if self._file is not None and not os.path.exists(self._path):  # noqa: PTH110 - Path.exists takes thrice the time
            os.close(self._file)  # somebody has cleaned up: for the others this process would be dead
            self._file = None
            self.start()
        return super().take(deaths)

    def stop(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            (self._folder / self.id).unlink(missing_ok=True)
            os.close(file)

    def _is_alive(self, owner: str) -> bool:
        """Whether the owner's file is locked; one that is not is removed."""
        try:
            file = os.open(path := self._folder / owner, os.O_RDWR)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # it cannot be known
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:
            return True
        finally:
            os.close(file)
        return False


class RedisOwner(Owner):
    """For the processes of many machines: each says every second that it lives; a thread of its own does.

    One that is stopped for longer than LIFE_S and GRACE_S is taken for dead, and its work is taken over. When it goes
    on, the ledger keeps the first answer of the two, and both calls are paid for.
    """

    def __init__(self, server: "RedisServer", *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._server = server
        self._clock = clock
        self._missed: dict[str, tuple[float, float]] = {}  # who shows no life: since when, and when it was asked last
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._server.show_life(self.id, LIFE_S)
        self._thread = threading.Thread(target=self._beat, name="life", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            thread.join(BEAT_S)
            with suppress(StoreUnavailable):
                self._server.show_life(self.id, 0.0)

    def _beat(self) -> None:
        while not self._stopping.wait(BEAT_S):
            with suppress(StoreUnavailable):  # whoever needs the store says so
                self._server.show_life(self.id, LIFE_S)

    def _is_alive(self, owner: str) -> bool:
        lives, now = self._server.lives(owner), self._clock()
        self._missed = {one: when for one, when in self._missed.items() if now - when[1] < STALE_S}
        since, _ = self._missed.pop(owner, (now, now))
        if not lives:
            self._missed[owner] = since, now
        return lives or now - since < GRACE_S


def _locked(path: Path) -> int | None:
    """The file, made and locked; None when somebody took it for a dead one's before it was locked."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.stat(path).st_ino == os.fstat(file).st_ino:  # noqa: PTH116 - beside fstat
            return file
    os.close(file)
    return None
