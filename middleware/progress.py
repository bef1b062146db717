"""Whether deliveries are settled, as long as there are any."""

import threading
import time
from collections.abc import Callable


class Progress:
    """Counts what is unsettled, and since when nothing has been settled. Thread-safe; times are seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._unsettled = 0
        self._moved_at = 0.0

    def begun(self) -> None:
        """There is one delivery more."""
        with self._lock:
            if not self._unsettled:
                self._moved_at = self._clock()
            self._unsettled += 1

    def settled(self) -> None:
        """There is one delivery less."""
        with self._lock:
            self._unsettled -= 1
            self._moved_at = self._clock()

    @property
    def unsettled(self) -> int:
        return self._unsettled

    def still_for_s(self) -> float:
        """How long none has been settled; 0 while there is none to settle."""
        with self._lock:
            return self._clock() - self._moved_at if self._unsettled else 0.0
