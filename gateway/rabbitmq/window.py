"""The bounds on what a publisher holds: messages that were submitted and have no outcome yet."""

import threading
from collections import Counter


class Window:
    """At most `messages` messages of `size` bytes together are inside; others wait before it. Thread-safe.

    A message that is larger than the whole window enters when nothing else is inside.
    """

    def __init__(self, *, messages: int, size: int) -> None:
        self._messages = messages
        self._size = size
        self._inside = 0
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition(threading.Lock())

    def enter(self, size: int, timeout_s: float) -> bool:
        """Take a place for `size` bytes, waiting up to `timeout_s` seconds; False when there was none, or it closed."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._fits(size), timeout_s) or self._closed:
                return False
            self._inside += 1
            self._bytes += size
            return True

    def leave(self, size: int) -> None:
        """Give a place back, once for each `enter` that was granted."""
        with self._changed:
            self._inside -= 1
            self._bytes -= size
            self._changed.notify_all()

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until nothing is inside, at most `timeout_s` seconds; whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._inside == 0, timeout_s)

    def close(self) -> None:
        """Let nobody in any more; those who wait are turned away at once. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._inside == 0 or (self._inside < self._messages and self._bytes + size <= self._size)


class Quota:
    """At most `messages` messages of `size` bytes together for each queue, and `queues` times that for all.

    Nobody waits. Thread-safe.
    """

    def __init__(self, *, messages: int, size: int, queues: int) -> None:
        self._messages, self._size, self._queues = messages, size, queues
        self._inside: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, queue: str, size: int) -> bool:
        """Take a place for `size` bytes; False when there is none."""
        with self._lock:
            if self._is_full(self._inside[queue] + 1, self._bytes[queue] + size):
                return False
            if self._is_full(self._inside.total() + 1, self._bytes.total() + size, times=self._queues):
                return False
            self._inside[queue] += 1
            self._bytes[queue] += size
            return True

    def leave(self, queue: str, size: int) -> None:
        """Give a place back, once for each `enter` that was granted."""
        with self._lock:
            self._inside[queue] -= 1
            self._bytes[queue] -= size
            if not self._inside[queue]:
                del self._inside[queue], self._bytes[queue]

    def _is_full(self, messages: int, size: int, *, times: int = 1) -> bool:
        return messages > self._messages * times or size > self._size * times
