"""Follows the file of keys: new ones are used, those that are gone are not, and nothing is started anew."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.errors import GatewayError
from gateway.reporting import sentry
from gateway.secrets import ApiKey

#: How often the file is looked at, in seconds. One that has changed is read when it is the same at the next look: not
#: every editor writes a file in one step.
LOOK_EVERY_S = 1.0

logger = logging.getLogger(__name__)

#: What tells one state of a file from another: a file that was put in its place has another number.
_Seen = tuple[int, int, int] | None


class KeyReload:
    """A thread that has the keys read by `load` when the file changes, and hands them to `use`.

    `load` makes all the checks of a start and raises GatewayError; then the keys stay as they are, and an operator is
    told, once for each state of the file.
    """

    def __init__(
        self,
        path: Path,
        load: Callable[[], Sequence[ApiKey]],
        use: Callable[[Sequence[ApiKey]], None],
        *,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._path = path
        self._load = load
        self._use = use
        self._every_s = every_s
        self._known: _Seen | str = "not read"  # it may have changed since the start
        self._before: _Seen | str = "not seen"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key-reload", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Look no more; whether the thread has ended within `timeout_s` seconds. Idempotent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def look(self) -> None:
        """Read the file when it has changed, and does not change now."""
        seen = _seen(self._path)
        before, self._before = self._before, seen
        if seen == self._known or seen != before:
            return
        self._known = seen
        try:
            keys = self._load()
        except GatewayError as error:
            text = f"The keys stay as they are: {' '.join(str(error).split())}"
            logger.error("%s", text)  # noqa: TRY400 - the text says it all
            sentry.tell_operator("keys_file", text)
        else:
            self._use(keys)

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                self.look()
            except Exception:
                logger.exception("A fault while the keys were read; they stay as they are")


def _seen(path: Path) -> _Seen:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
