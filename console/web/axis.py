"""Waits on a logarithmic axis, from now to a day: a row for each queue, a dot for those that are due together."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from console.screen import number, span
from console.state import QueueState, State
from gateway.usage.store import Waiting

#: The end of the axis, in seconds.
DAY_S = 86_400.0

#: So many dots stand side by side at most; those that are due closer together are one, which is larger.
PLACES = 120

_NAMES = {0: "now", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 21_600: "6 h", 86_400: "24 h"}

#: Of how many queues there are rows.
MOST_ROWS = 16


@dataclass(frozen=True)
class Dot:
    """So many that are due at this place of the axis, 0 to 1. `size` is 1 for one, and grows with the logarithm."""

    at: float
    count: int
    size: float


@dataclass(frozen=True)
class Row:
    """A queue: `waiting` lie in it, the dots are those that are known; `end`: the last of the others is due then."""

    queue: str
    what: str
    waiting: int
    dots: Sequence[Dot]
    known: int
    end: float | None
    told: str


def place(seconds: float) -> float:
    """Where a time from now is on the axis, 0 to 1."""
    return min(1.0, math.log1p(max(0.0, seconds)) / math.log1p(DAY_S))


#: The places that have a name.
TICKS = [(place(seconds), name) for seconds, name in _NAMES.items()]


def rows(state: State) -> list[Row]:
    """The queues in which somebody waits, the shortest wait first."""
    waiting = [queue for queue in state.queues or () if queue.role in {"key wait", "provider wait"} and queue.messages]
    by_queue: dict[str, list[Waiting]] = {queue.name: [] for queue in waiting}
    for wait in state.waits:
        if wait.queue in by_queue:
            by_queue[wait.queue].append(wait)
    found = [_row(queue, by_queue[queue.name]) for queue in waiting]
    return sorted(found, key=lambda row: (length_s(row.queue) or 0.0, row.queue))[:MOST_ROWS]


def length_s(queue: str) -> float | None:
    """How long a wait in it is, in seconds: it is in the name."""
    found = re.search(r"\.(\d+(?:\.\d+)?)s$", queue)
    return float(found[1]) if found else None


def _row(queue: QueueState, known: Sequence[Waiting]) -> Row:
    waiting, length = queue.messages or 0, length_s(queue.name)
    known = known[:waiting]  # RabbitMQ counts: what has left was known a moment ago
    unnamed = waiting - len(known)
    last = f", the last in {span(known[-1].due_in_s)}" if len(known) > 1 else ""
    due = f"; the next one is due in {span(known[0].due_in_s)}{last}" if known else ""
    others = f"; {number(unnamed)} without details, due within {span(length)}" if unnamed and length else ""
    return Row(
        queue=queue.name,
        what="for a key" if queue.role == "key wait" else "for the provider",
        waiting=waiting,
        dots=dots([wait.due_in_s for wait in known]),
        known=len(known),
        end=place(length) if unnamed and length else None,
        told=f"{number(waiting)} waiting{due}{others}",
    )


def dots(dues_s: Sequence[float]) -> list[Dot]:
    """One for each place where somebody is due."""
    counts = Counter(round(place(due_s) * PLACES) for due_s in dues_s)
    return [Dot(at / PLACES, count, 1 + math.log2(count) / 4) for at, count in sorted(counts.items())]
