"""Counts in memory what a process does, until it is reported."""

import threading
from collections import Counter
from collections.abc import Mapping

from gateway.reporting.redaction import escape_controls
from gateway.usage.store import Count, Waiting

#: How many different names are counted of each kind, in the life of a process; producers choose the names of models.
MOST_NAMES = 2000
OTHER = "other"

#: How long a name may be, in characters.
LONGEST_NAME = 80

#: Of how many waits details, and of how many the end, are noted between two reports.
MOST_WAITS, MOST_ENDS = 200, 5000

#: A report takes about so many counts at a time: it holds up those who write beside it, and on greenlets everybody, for
#: the millisecond that it takes to store them.
COUNTS_AT_ONCE = 50


class Meter:
    """What has happened since it was taken; an addition costs some microseconds and waits for nothing. Thread-safe."""

    def __init__(self, *, most_names: int = MOST_NAMES) -> None:
        self._most_names = most_names
        self._lock = threading.Lock()
        self._names: Counter[str] = Counter()
        self._known: dict[tuple[str, str], tuple[str, str]] = {}
        self._sums: dict[tuple[str, str], dict[str, int]] = {}
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
            known = self._known.get((about, name)) or self._make_known(about, name)
            sums = self._sums.get(known)
            if sums is None:
                sums = self._sums[known] = {}
            for fact, value in facts.items():
                sums[fact] = sums.get(fact, 0) + value

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
            taken: dict[Count, int] = {}
            while self._sums and len(taken) < COUNTS_AT_ONCE:
                (about, name), sums = self._sums.popitem()
                taken |= {Count(about, name, fact): value for fact, value in sums.items() if value}
            ended = list(self._ended)[:COUNTS_AT_ONCE]
            for one in ended:
                del self._ended[one]
            waits, self._waits = list(self._waits.values()), {}
            return taken, waits, ended, bool(self._sums or self._ended)

    def _make_known(self, about: str, name: str) -> tuple[str, str]:
        """What a name is counted under that comes for the first time; those beyond the limit are not remembered."""
        if self._names[about] >= self._most_names:
            return about, OTHER
        self._names[about] += 1
        return self._known.setdefault((about, name), (about, escape_controls(name, LONGEST_NAME)))
