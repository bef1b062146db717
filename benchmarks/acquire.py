"""What an `acquire` costs: `python -m benchmarks.acquire [--rounds N]`.

A table of microseconds for each store, number of keys, state of the keys and number of processes, and of ratios to the
row with ten keys. Every round measures every row once, in an order of its own, and the medians of the rounds are
shown: what else the machine does then meets all rows alike. The ratios say more than the microseconds.
"""

import argparse
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

from dev.redis import installed, redis_server
from gateway.errors import AuthenticationFailed, Scope
from gateway.keys.pool import KeyPool, Lease
from gateway.keys.redis import RedisKeyStore
from gateway.keys.sqlite import SqliteKeyStore
from gateway.secrets import ApiKey
from gateway.stores.redis_server import RedisServer
from gateway.stores.state_file import StateFile

STORES = ("sqlite", "redis")
KEYS = (10, 100, 1000)
STATES = ("free", "used up", "refused")
PROCESSES = (1, 4)
MODEL = "google/gemini-2.5-flash"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Case:
    """A set of keys in a store of its own; `where` is a file or a URL."""

    store: str
    keys: int
    state: str
    where: str

    @contextmanager
    def pool(self) -> Iterator[KeyPool]:
        keys = [ApiKey(f"sk-or-v1-benchmark-{n:06}", label="one account") for n in range(self.keys)]
        # Free: a window so short that a set of ten does not gather more uses a key than the limits of real life allow.
        limit, window_s = (1_000_000, 0.1) if self.state == "free" else (1, 86_400.0)
        with closing(StateFile(Path(self.where)) if self.store == "sqlite" else RedisServer(self.where)) as opened:
            store = SqliteKeyStore(opened) if isinstance(opened, StateFile) else RedisKeyStore(opened)
            yield KeyPool(keys, store, max_per_window=limit, window_s=window_s, margin_s=0.0)

    def prepare(self) -> None:
        """Bring the keys into their state."""
        with self.pool() as pool:
            last = [pool.acquire(MODEL) for _ in range(self.keys)][-1]
            if self.state == "refused" and isinstance(last, Lease):
                error = AuthenticationFailed("HTTP 402", reason="x", scope=Scope.ACCOUNT, retry_after_s=86_400.0)
                pool.cool(last, error)


def measure(case: Case, steps: int, barrier: "Barrier | None" = None) -> float:
    """Microseconds of one step, the mean of many; processes that share a barrier measure together."""
    with case.pool() as pool:
        granted = isinstance(pool.acquire(MODEL), Lease)  # opens the store, and sends the script
        if granted != (case.state == "free"):
            raise RuntimeError(f"{case} is not in its state")
        if barrier is not None:
            barrier.wait(PATIENCE_S)
        start = time.perf_counter()
        for _ in range(steps):
            pool.acquire(MODEL)
        seconds = time.perf_counter() - start
        if barrier is not None:
            barrier.wait(PATIENCE_S)  # nobody measures an emptier machine than the others
    return seconds / steps * 1e6


_barrier: "Barrier | None" = None


def keep(barrier: "Barrier") -> None:
    """In a process of the pool, once: a barrier cannot be sent later."""
    global _barrier  # noqa: PLW0603 - what a process is born with
    _barrier = barrier


def measure_together(case: Case, steps: int) -> float:
    return measure(case, steps, _barrier)


def run(cases: Sequence[Case], *, rounds: int, steps: int) -> dict[tuple[Case, int], float]:
    """The median of each case, by its number of processes."""
    found: dict[tuple[Case, int], list[float]] = {}
    together = max(PROCESSES)
    context = get_context("spawn")
    with context.Pool(together, keep, (context.Barrier(together),)) as children:
        for number in range(rounds):
            rows = [(case, processes) for case in cases for processes in PROCESSES]
            random.Random(number).shuffle(rows)
            for case, processes in rows:
                if processes == 1:
                    us = measure(case, steps)
                else:
                    us = statistics.mean(children.starmap(measure_together, [(case, steps)] * together, chunksize=1))
                found.setdefault((case, processes), []).append(us)
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return {row: statistics.median(times) for row, times in found.items()}


def table(medians: dict[tuple[Case, int], float]) -> Iterator[str]:
    """Lines of Markdown, the rows in groups of equal store, state and processes."""
    yield "| store | processes | keys are | keys | µs | against ten keys |"
    yield "|---|---:|---|---:|---:|---:|"
    few = {(case.store, case.state, n): us for (case, n), us in medians.items() if case.keys == min(KEYS)}
    order = {text: n for n, text in enumerate((*STORES, *STATES))}
    rows = sorted(medians, key=lambda row: (order[row[0].store], row[1], order[row[0].state], row[0].keys))
    for case, processes in rows:
        us = medians[case, processes]
        ratio = us / few[case.store, case.state, processes]
        yield f"| {case.store} | {processes} | {case.state} | {case.keys} | {us:.0f} | {ratio:.2f} |"


@contextmanager
def redis_if_installed() -> Iterator[str | None]:
    """The URL of a Redis of our own; None where there is no redis-server."""
    if not installed():
        print("redis-server is not installed: SQLite alone is measured", file=sys.stderr)
        yield None
        return
    with redis_server() as url:
        yield url


def cases(folder: Path, redis_url: str | None) -> list[Case]:
    """Each with an own file, or an own database of the server."""
    states = list(itertools.product(KEYS, STATES))
    found = [Case("sqlite", n, state, str(folder / f"{number}.sqlite3")) for number, (n, state) in enumerate(states)]
    if redis_url is not None:
        found += [Case("redis", n, state, f"{redis_url}?db={number}") for number, (n, state) in enumerate(states)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What an acquire costs, by store and number of keys.")
    parser.add_argument("--rounds", type=int, default=7, help="how often each row is measured (7)")
    parser.add_argument("--steps", type=int, default=300, help="acquires of one measurement (300)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="acquire-") as name, redis_if_installed() as url:
        to_measure = cases(Path(name), url)
        for case in to_measure:
            case.prepare()
        medians = run(to_measure, rounds=options.rounds, steps=options.steps)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load}; medians of {options.rounds} rounds of {options.steps} acquires\n")
    print("\n".join(table(medians)))


if __name__ == "__main__":
    main()
