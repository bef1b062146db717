"""A request that is cancelled while its answer is streamed: the call is ended."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.errors import StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.providers.live import Listener

#: How often the ledger is asked, in seconds: once for all streams of a process.
LOOK_EVERY_S = 1.0

logger = logging.getLogger(__name__)


class StreamCancels:
    """Ends the call of a stream whose request is cancelled, soon after. Thread-safe.

    The ledger is asked on a thread of its own, which lives as long as there are streams: who reads one does not wait.
    """

    def __init__(self, ledger: Callable[[], Ledger], *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._ledger = ledger
        self._look_every_s = look_every_s
        self._lock = threading.Lock()
        self._streams: dict[Listener, str] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def watched(self, request_id: str, listener: Listener) -> Iterator[None]:
        """As long as this is entered, `listener` ends its call when the request is cancelled."""
        with self._lock:
            self._streams[listener] = request_id
            self._ensure_running()
        try:
            yield
        finally:
            with self._lock:
                del self._streams[listener]

    def _ensure_running(self) -> None:
        # Not alive also after a fork, which takes over the object and not its thread.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="stream-cancels", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        pause.wait(self._look_every_s)
        while streams := self._watched_now():
            cancelled = self._cancelled(set(streams.values()))
            for listener, request_id in streams.items():
                if request_id in cancelled:
                    listener.end()
            pause.wait(self._look_every_s)

    def _cancelled(self, request_ids: set[str]) -> set[str]:
        try:
            return self._ledger().cancelled(request_ids)
        except StoreUnavailable as away:
            logger.debug("No cancel is seen: %s", away)
            return set()

    def _watched_now(self) -> dict[Listener, str]:
        """A copy; when there are none, this thread ends, and the next stream has another one."""
        with self._lock:
            if not self._streams:
                self._thread = None
            return dict(self._streams)
