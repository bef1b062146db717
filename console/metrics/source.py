"""The stores of a process that starts while they are away."""

import threading

from console.opened import Opened
from gateway.resources import open_stores
from gateway.settings import Settings


class OpenedLater:
    """Called, it gives the settings and the stores, which it opens when it is first asked. Thread-safe.

    Raises StoreUnavailable as long as these cannot be opened.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._opened: Opened | None = None

    def __call__(self) -> Opened:
        with self._lock:
            if self._opened is None:
                self._opened = Opened(self._settings, open_stores(self._settings))
            return self._opened

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._opened is not None:
                self._opened.stores.close()
                self._opened = None
