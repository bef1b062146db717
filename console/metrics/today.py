"""What was counted since midnight UTC: sums that only grow, as counters must, wherever and however often they are read.

A sum over the last hours or days shrinks whenever a piece of time leaves it, and Prometheus would take that for a
counter that has started anew and count all of it once more. This one starts anew at midnight, and then really does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from console.figures import Figures, by_name
from gateway.usage.meter import OTHER
from gateway.usage.store import CALLS, ERROR, KEY, MODEL, OUTCOME, SPANS, Cell, UsageStore

#: How many models have counters of their own; producers choose their names.
MOST_MODELS = 50


@dataclass(frozen=True)
class Today:
    """Figures by model, by digest of a key, by error code and by outcome."""

    models: Mapping[str, Figures]
    keys: Mapping[str, Figures]
    errors: Mapping[str, Figures]
    outcomes: Mapping[str, Figures]


class Names:
    """Which names have counters of their own: who has come first keeps that, so no counter ever goes back."""

    def __init__(self, most: int = MOST_MODELS) -> None:
        self._most = most
        self._known = {OTHER: OTHER}

    def bounded(self, cells: Iterable[Cell]) -> dict[str, Figures]:
        """Figures of each known name, with the rest as "other"."""
        cells = list(cells)
        calls = {cell.name: cell.value for cell in cells if cell.fact == CALLS}
        for name in sorted(calls, key=lambda name: (-calls[name], name)):
            if len(self._known) <= self._most:
                self._known.setdefault(name, name)
        found = by_name(cell._replace(name=self._known.get(cell.name, OTHER)) for cell in cells)
        return {name: found.get(name, Figures()) for name in self._known}


def today(usage: UsageStore, models: Names) -> Today:
    """Raises StoreUnavailable."""
    model, key, error, outcome = (usage.cells(SPANS[-1], about, 0.0) for about in (MODEL, KEY, ERROR, OUTCOME))
    return Today(models.bounded(model), by_name(key), by_name(error), by_name(outcome))
