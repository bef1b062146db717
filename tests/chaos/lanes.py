"""Cases of the failpoint matrix side by side: most of their time they wait for a process to start or a lease to end."""

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fake_openrouter.client import FakeClient
from tests.chaos.arena import Arena
from tests.chaos.matrix import Case, Cell, play
from tests.chaos.node import ChaosNode
from tests.chaos.round import arena_on

#: Of an arena in which exactly one thing goes wrong at a time: nothing else may, on a crowded machine either.
SETTINGS: dict[str, object] = {
    "REQUEST_TIMEOUT_SECONDS": 2,
    "WORKER_PROCESSES": 1,
    "WORKER_THREADS": 2,
    "KEYS_MAX_PER_MINUTE": 1000,
    "CHAOS_PUBLISH_TIMEOUT_S": 60,
}


def play_all(
    cases: Sequence[Case],
    node: ChaosNode,
    fake: FakeClient,
    folder: Path,
    *,
    lanes: int,
    tell: Callable[[Cell], None] = lambda _cell: None,
) -> list[Cell]:
    """Play each case in one of `lanes` arenas; `tell` hears of each as it ends."""
    fake.script([rule for case in cases for rule in case.request.rules])
    waiting, cells = deque(cases), list[Cell]()

    def run(arena: Arena) -> None:
        while (case := _next(waiting)) is not None:
            cell = _attempt(case, arena, node)
            cells.append(cell)
            tell(cell)

    with _arenas(node, fake, folder, min(lanes, len(cases))) as arenas, ThreadPoolExecutor(len(arenas)) as pool:
        list(pool.map(run, arenas))
    return sorted(cells, key=lambda cell: cell.case.number)


def _next(waiting: deque[Case]) -> Case | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _attempt(case: Case, arena: Arena, node: ChaosNode) -> Cell:
    """A harness that breaks is a failed cell."""
    started = time.monotonic()
    try:
        return play(case, arena, node)
    except Exception:  # noqa: BLE001 - one line for each cell, whatever happens
        arena.disarm()
        return Cell(case, time.monotonic() - started, 0, 0, 0, 0, (traceback.format_exc(limit=-3),))


@contextmanager
def _arenas(node: ChaosNode, fake: FakeClient, folder: Path, count: int) -> Iterator[list[Arena]]:
    with ExitStack() as cleanup:
        made = []
        for number in range(count):
            url = cleanup.enter_context(node.fresh_vhost())
            arena = arena_on(url, node, fake, folder / f"lane-{number}", **SETTINGS)
            made.append(cleanup.enter_context(arena))
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(Arena.start, made))
        yield made
