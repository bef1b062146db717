"""A process that ends at any step loses nothing, and costs a second call at one step only."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from fake_openrouter.client import FakeClient
from tests.chaos.arena import Arena
from tests.chaos.matrix import Case, Cell, cases, play, table
from tests.chaos.node import ChaosNode
from tests.chaos.round import arena_on

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq, pytest.mark.timeout(600)]

#: How many cases run side by side: most of their time they wait for a process to start, or for a lease to end.
LANES = 4


@pytest.fixture
def lanes(chaos_node: ChaosNode, chaos_fake: FakeClient, tmp_path: Path) -> Iterator[list[Arena]]:
    with ExitStack() as cleanup:
        made = []
        for number in range(LANES):
            url = cleanup.enter_context(chaos_node.fresh_vhost())
            arena = arena_on(
                url,
                chaos_node,
                chaos_fake,
                tmp_path / f"lane-{number}",
                REQUEST_TIMEOUT_SECONDS=2,
                WORKER_PROCESSES=1,
                WORKER_THREADS=2,
                KEYS_MAX_PER_MINUTE=1000,
            )
            made.append(cleanup.enter_context(arena))
        with ThreadPoolExecutor(LANES) as pool:
            list(pool.map(Arena.start, made))
        yield made


def test_each_step_is_a_safe_place_to_die(
    lanes: list[Arena], chaos_node: ChaosNode, chaos_fake: FakeClient, capsys: pytest.CaptureFixture[str]
):
    """F6, F21, F32, F44: every step, first delivery and the next one, final outcomes and waits."""
    todo = cases()
    chaos_fake.script([rule for case in todo for rule in case.request.rules])

    def run(lane: int) -> list[Cell]:
        return [play(case, lanes[lane], chaos_node) for case in todo[lane::LANES]]

    with ThreadPoolExecutor(LANES) as pool:
        cells = [cell for part in pool.map(run, range(LANES)) for cell in part]
    with capsys.disabled():
        print(f"\n\n{table(cells)}\n\nA cell: how many crashes there were, and what they cost.")
    wrong = {_name(cell.case): cell.faults for cell in cells if cell.faults}
    assert not wrong
    assert all(cell.crashes >= 1 for cell in cells)


def _name(case: Case) -> str:
    return f"f{case.number}: {case.kind.name}, {case.step}, {case.times} x"
