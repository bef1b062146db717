"""How many calls a key has in its sliding window."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call too many: `limit` calls are in the window, the oldest leaves it in `wait_s` seconds."""

    limit: int
    wait_s: float


class Windows:
    """Admits at most `limit` calls a key within any `window_s` seconds; a refused call takes no place."""

    def __init__(self, limit: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._times: dict[str, deque[float]] = {}

    def admit(self, key: str) -> Refusal | None:
        """None, and a place is taken; else why not."""
        now = self._clock()
        times = self._times.setdefault(key, deque())
        self._forget_old(times, now)
        if len(times) >= self._limit:
            return Refusal(self._limit, times[0] + self._window_s - now if times else self._window_s)
        times.append(now)
        return None

    def used(self) -> int:
        """Calls that are in their windows now, of all keys."""
        now = self._clock()
        for times in self._times.values():
            self._forget_old(times, now)
        return sum(map(len, self._times.values()))

    def clear(self) -> None:
        self._times.clear()

    def _forget_old(self, times: deque[float], now: float) -> None:
        while times and now - times[0] >= self._window_s:
            times.popleft()
