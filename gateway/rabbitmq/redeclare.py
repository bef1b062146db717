"""Makes queues that have gone missing, on a thread of its own: declaring takes a connection and time."""

import logging
import queue
import threading
from collections.abc import Callable

#: In which order it is done.
_END, _FIRST, _THEN = range(3)

logger = logging.getLogger(__name__)


class Redeclarer:
    """Asks `redeclare` for one queue after the other, and reports each answer to `answered(queue, made)`."""

    def __init__(self, redeclare: Callable[[str], bool], answered: Callable[[str, bool], None]) -> None:
        self._redeclare = redeclare
        self._answered = answered
        self._missing: queue.PriorityQueue[tuple[int, str]] = queue.PriorityQueue()
        self._asked: set[str] = set()
        self._thread: threading.Thread | None = None

    def ask(self, name: str, *, first: bool) -> None:
        """Have a queue made, once at a time. For one thread; the answer comes on another."""
        if name in self._asked:
            return
        self._asked.add(name)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="redeclare", daemon=True)
            self._thread.start()
        self._missing.put((_FIRST if first else _THEN, name))

    def stop(self) -> None:
        """End the thread after what it is doing. Idempotent; nobody waits for it, its work may take long."""
        self._missing.put((_END, ""))

    def _run(self) -> None:
        while (item := self._missing.get())[0] != _END:
            name = item[1]
            made = self._made(name)
            self._asked.discard(name)  # before the answer: who asks after it asks anew
            self._answered(name, made)

    def _made(self, name: str) -> bool:
        try:
            made = self._redeclare(name)
        except Exception as error:  # noqa: BLE001 - whatever it was: the messages that wait for the queue need an answer
            logger.warning("The queue %s is missing and cannot be declared (%s)", name, type(error).__name__)
            return False
        if made:
            logger.warning("The queue %s was missing and has been declared", name)
        return made
