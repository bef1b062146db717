"""Signs of life that the processes of one machine, or one container, give each other: a small file for each.

A probe reads them within milliseconds: this imports next to nothing, and asks neither RabbitMQ nor a store. Who is
there is what the system says: each file is locked, and the lock ends with its process. Whether it still works is what
it writes: a beat every few seconds, on the clock of the machine that nobody sets, and its trouble, if it has any.
"""

import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: How often a process writes, and how old its last beat may be before it is taken for hung, in seconds.
BEAT_EVERY_S, LIFE_S = 5.0, 30.0

#: What a file is long, in bytes: always the same, so that a full disk stops no beat.
SIZE = 512

#: Of the setting STATE_PATH, beside which the files are.
USUAL_STATE_PATH = ".state/worker.sqlite3"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sign:
    """A process that is there: how old its last beat is, and why it should be started again; None when it is well."""

    pid: int
    age_s: float
    trouble: str | None

    @property
    def is_well(self) -> bool:
        return self.trouble is None and self.age_s <= LIFE_S


class Heartbeat:
    """Gives a sign of life every `every_s` seconds, on a thread of its own, with what `trouble` says of the process.

    A folder that cannot be written is said once, in the log; the process goes on without.
    """

    def __init__(self, folder: Path, trouble: Callable[[], str | None], *, every_s: float = BEAT_EVERY_S) -> None:
        self._path = folder / f"{socket.gethostname()}-{os.getpid()}"
        self._trouble = trouble
        self._every_s = every_s
        self._file: int | None = None
        self._has_complained = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """The first sign is there when this returns."""
        self.beat()
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> bool:
        """No more signs, and none is left; whether the thread has ended within `timeout_s` seconds. Idempotent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._close()
        return not self._thread.is_alive()

    def beat(self) -> None:
        try:
            if self._file is None or not self._path.exists():  # the first one, or somebody has cleaned up
                self._close()
                self._file = self._made()
            os.pwrite(self._file, _written(time.monotonic(), self._trouble()), 0)
        except OSError as error:
            if not self._has_complained:
                logger.warning("No sign of life for `gemini health`: %s. See STATE_PATH", error)
            self._has_complained = True

    def _made(self) -> int:
        """A file that is locked when it appears. Those of processes that have died are removed."""
        folder = self._path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.iterdir():
            if _of_this_host(left) and not _is_locked(left):
                left.unlink(missing_ok=True)
        new = folder / f".{uuid.uuid4().hex}"
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.pwrite(file, _written(time.monotonic(), None), 0)
            new.rename(self._path)
        except BaseException:
            os.close(file)
            new.unlink(missing_ok=True)
            raise
        return file

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self.beat()


def signs(folder: Path) -> list[Sign]:
    """Those of the processes of this machine that are there. Raises OSError when the folder cannot be read."""
    with suppress(FileNotFoundError):
        return list(_signs(folder))
    return []


def folder_of(environment: Mapping[str, str]) -> Path:
    """Where they are: beside STATE_PATH, as the settings read it, but without the time that these take to load."""
    path = environment.get("STATE_PATH", "").strip().strip("\"'").strip() or _from_the_file() or USUAL_STATE_PATH
    return Path(f"{path}-beats")


def _from_the_file() -> str | None:
    if not Path(".env").is_file():
        return None
    from dotenv import dotenv_values  # noqa: PLC0415 - where there is such a file

    with suppress(OSError, UnicodeDecodeError):
        return (dotenv_values(".env").get("STATE_PATH") or "").strip().strip("\"'").strip()
    return None


def _signs(folder: Path) -> Iterator[Sign]:
    now = time.monotonic()
    for path in sorted(folder.iterdir()):
        if not _of_this_host(path) or not _is_locked(path):
            continue
        with suppress(FileNotFoundError, ValueError):
            beat_at, _, trouble = path.read_text("utf-8", "replace").strip().partition(" ")
            yield Sign(int(path.name.rpartition("-")[2]), max(0.0, now - float(beat_at)), trouble or None)


def _written(beat_at: float, trouble: str | None) -> bytes:
    return f"{beat_at:.3f} {trouble or ''}".encode()[: SIZE - 1].ljust(SIZE - 1) + b"\n"


def _of_this_host(path: Path) -> bool:
    host, _, pid = path.name.rpartition("-")
    return host == socket.gethostname() and pid.isdecimal()


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
