"""Counts in memory what a process does, until it is reported."""

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping

from gateway.usage.store import Count, Waiting

#: How many different names are counted of each kind, in the life of a process; producers choose the names of models.
MOST_NAMES = 2000
OTHER = "other"

#: Of how many waits details, and of how many the end, are noted between two reports.
MOST_WAITS, MOST_ENDS = 200, 5000

#: A report takes so many counts at a time, so that it holds up nobody who writes beside it.
COUNTS_AT_ONCE = 200


class Meter:
    """What has happened since it was taken; an addition costs some microseconds and waits for nothing. Thread-safe."""

    def __init__(self, *, most_names: int = MOST_NAMES) -> None:
        self._most_names = most_names
        self._lock = threading.Lock()
        self._names: defaultdict[str, set[str]] = defaultdict(set)
        self._counts: Counter[Count] = Counter()
        self._waits: dict[str, Waiting] = {}
        self._ended: dict[str, None] = {}
        self.in_flight = 0

    def begun(self) -> None:
        with self._lock:
            self.in_flight += 1

    def ended(self) -> None:
        with self._lock:
            self.in_flight -= 1

    def add(self, about: str, name: str, facts: Mapping[str, int]) -> None:
        """Add to the facts of a name; a name beyond the limit counts as "other"."""
        with self._lock:
            name = self._known(about, name)
            for fact, value in facts.items():
                if value:
                    self._counts[Count(about, name, fact)] += value

    def waits(self, waiting: Waiting) -> None:
        """A request has begun to wait."""
        with self._lock:
            if len(self._waits) < MOST_WAITS:
                self._waits[waiting.id] = waiting

    def waits_no_more(self, delivery_id: str) -> None:
        """It is taken up again; what is not said of it ends with its time."""
        with self._lock:
            self._waits.pop(delivery_id, None)
            if len(self._ended) < MOST_ENDS:
                self._ended[delivery_id] = None

    def take(self) -> tuple[dict[Count, int], list[Waiting], list[str], bool]:
        """Some of what has happened since the last time, and whether there is more."""
        with self._lock:
            taken = dict(list(self._counts.items())[:COUNTS_AT_ONCE])
            for count in taken:
                del self._counts[count]
            ended = list(self._ended)[:COUNTS_AT_ONCE]
            for one in ended:
                del self._ended[one]
            waits, self._waits = list(self._waits.values()), {}
            return taken, waits, ended, bool(self._counts or self._ended)

    def _known(self, about: str, name: str) -> str:
        names = self._names[about]
        if name in names:
            return name
        if len(names) >= self._most_names:
            return OTHER
        names.add(name)
        return name
