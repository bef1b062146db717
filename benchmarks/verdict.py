"""What must be shown beside the peers, and what is: a row for each figure that was promised.

`script/bench` prints it after each run, `script/bench verdict` for the last run of each scenario on this machine, and
for what is published where there was none.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import PUBLISHED, RESULTS, load
from benchmarks.tables import Figures, markdown, shown

Medians = Mapping[str, Mapping[str, Figures]]

ASYNCIO, DRAMATIQ, CELERY = "plain asyncio", "stock Dramatiq", "Celery"
OURS = "this project"

#: Worker processes of a contender.
PROCESSES = 2


@dataclass(frozen=True)
class Promise:
    """A figure and the bounds that it must keep and should; `None` where there is none. `least`: more is better."""

    title: str
    scenario: str
    measured: Callable[[Mapping[str, Figures]], float]
    must: float | None
    goal: float | None
    least: bool = False

    def row(self, medians: Medians) -> list[str]:
        bounds = [self._bound(self.must), self._bound(self.goal)]
        value = self.value(medians)
        if value is None:
            return [self.title, "not measured", *bounds, ""]
        return [self.title, shown(value), *bounds, self.outcome(value)]

    def value(self, medians: Medians) -> float | None:
        """As it is shown, so that what is told as equal is judged as equal; None where nobody has measured it."""
        try:
            return round(self.measured(medians[self.scenario]), 2)
        except (KeyError, ZeroDivisionError):
            return None

    def outcome(self, value: float) -> str:
        if self.goal is not None and self._keeps(value, self.goal):
            return "goal"
        if self.must is not None and self._keeps(value, self.must):
            return "must"
        return "**not reached**"

    def _keeps(self, value: float, bound: float) -> bool:
        return value >= bound if self.least else value <= bound

    def _bound(self, bound: float | None) -> str:
        return "" if bound is None else f"{'≥' if self.least else '≤'} {bound:g}"


def _against(figure: str, *peers: str) -> Callable[[Mapping[str, Figures]], float]:
    """Ours against the best of these peers, where less is better."""
    return lambda found: _of(found, OURS, figure) / min(_of(found, peer, figure) for peer in peers)


def _ours(figure: str, each: int = 1) -> Callable[[Mapping[str, Figures]], float]:
    return lambda found: _of(found, OURS, figure) / each


def _of(found: Mapping[str, Figures], name: str, figure: str) -> float:
    """What never came is endless."""
    value = found[name][figure]
    return math.inf if value is None else value


P50, P99, RATE, CPU, WALL = "p50 ms at 100/s", "p99 ms at 100/s", "requests/s", "CPU ms/request", "wall / ideal"
PARKED = "100,000 parked"

PROMISES = (
    Promise("throughput / plain asyncio", "throughput", _against(RATE, ASYNCIO), 0.8, 1.0, least=True),
    Promise("throughput / stock Dramatiq", "throughput", _against(RATE, DRAMATIQ), 2.2, 3.0, least=True),
    Promise("throughput / Celery", "throughput", _against(RATE, CELERY), 2.2, 3.0, least=True),
    Promise("CPU ms a request / plain asyncio", "throughput", _against(CPU, ASYNCIO), 2.0, 1.5),
    Promise("p50 at 100/s / plain asyncio", "overhead", _against(P50, ASYNCIO), 1.5, 1.25),
    Promise(
        "p99 at 100/s / the better of Dramatiq and Celery", "overhead", _against(P99, DRAMATIQ, CELERY), 0.99, None
    ),
    Promise("p99 at 100/s / the best peer", "overhead", _against(P99, ASYNCIO, DRAMATIQ, CELERY), None, 0.99),
    Promise("1,000 in flight, wall / plain asyncio's", "inflight", _against(WALL, ASYNCIO), 1.1, 1.0),
    Promise("memory a call in flight, kB", "inflight", _ours("kB/call"), 30, 20),
    Promise("RabbitMQ connections a worker process", "inflight", _ours("RabbitMQ connections", PROCESSES), 2, 2),
    Promise(f"{PARKED}: memory of the worker, MB", "parked", _ours("MB more"), 0.5, 0.5),
    Promise(f"{PARKED}: a short wait is late by, s", "parked", _ours("s late"), 0.01, 0.01),
)


SCENARIOS = ("throughput", "overhead", "inflight", "start", "parked")


def kept(*folders: Path) -> dict[str, Mapping[str, Figures]]:
    """The medians of each scenario, from the first folder that has them."""
    found = {name: [one for folder in folders if (one := load(folder, name))] for name in SCENARIOS}
    return {name: files[0]["medians"] for name, files in found.items() if files}


def verdict(medians: Medians) -> str:
    """A table of Markdown: what was measured, what it must be, what it should be, and which of these it is."""
    return markdown(["", "measured", "must", "goal", "reached"], _rows(medians))


def _rows(medians: Medians) -> Iterator[list[str]]:
    for promise in PROMISES:
        yield promise.row(medians)


if __name__ == "__main__":
    print(verdict(kept(RESULTS, PUBLISHED)))
