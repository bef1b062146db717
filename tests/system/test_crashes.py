"""A process that ends at the worst moment: the cells of the failpoint matrix that the promises hang on.

`script/chaos failpoints` plays all of them, and `script/chaos` adds what RabbitMQ and the network can do.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.waiting import wait_until
from fake_openrouter.client import FakeClient
from tests.chaos.checker import judge
from tests.chaos.ground import ground
from tests.chaos.lanes import SETTINGS, play_all
from tests.chaos.matrix import Cell, cases, evidence_of
from tests.chaos.node import USER, ChaosNode
from tests.chaos.round import arena_on
from tests.chaos.workload import Kind, Producer, Request

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

#: How many cells run side by side; each has a worker of its own.
LANES = 4

#: The slow ones, in which a lease has to end, come first.
PLAYED = (
    "answered, before call, once",
    "answered, after call, once",
    "waits for a key, copy confirmed, once",
    "answered, envelope sent, once",
    "answered, confirmed, once",
    "answered, stored, once",
    "answered, before ack, once",
    "answered, relayed, once",
)


@pytest.fixture(scope="module")
def playground(
    rabbitmq_installed: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ChaosNode, FakeClient]]:
    with ground(tmp_path_factory.mktemp("crashes")) as made:
        yield made


@pytest.fixture(scope="module")
def cells(playground: tuple[ChaosNode, FakeClient], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    """All the cells, played once, for the tests below to look at."""
    node, fake = playground
    named = {case.name: case for case in cases()}
    played = play_all([named[name] for name in PLAYED], node, fake, tmp_path_factory.mktemp("lanes"), lanes=LANES)
    return {cell.case.name: cell for cell in played}


def test_a_worker_that_ends_before_its_call_makes_it_the_next_time(cells: dict[str, Cell]):
    """F6: when the lease of the dead process has ended, and once."""
    cell = cells["answered, before call, once"]
    assert cell.faults == ()
    assert (cell.crashes, cell.calls, cell.copies) == (1, 1, 0)


def test_a_worker_that_ends_after_its_call_pays_once_more(cells: dict[str, Cell]):
    """P3, F32: the one step that can cost a second call, and it costs one."""
    cell = cells["answered, after call, once"]
    assert cell.faults == ()
    assert (cell.crashes, cell.calls, cell.copies) == (1, 2, 0)


def test_a_stored_answer_is_published_after_a_crash_without_a_call(cells: dict[str, Cell]):
    """P3: the redelivery finds it in the ledger."""
    cell = cells["answered, stored, once"]
    assert cell.faults == ()
    assert (cell.crashes, cell.calls, cell.copies) == (1, 1, 0)


@pytest.mark.parametrize("step", ["envelope sent", "confirmed"])
def test_copies_of_an_envelope_share_their_message_id(cells: dict[str, Cell], step: str):
    """P2: one envelope was in RabbitMQ when the worker ended; the second is its copy, and cost no call."""
    cell = cells[f"answered, {step}, once"]
    assert cell.faults == ()
    assert (cell.crashes, cell.calls, cell.copies) == (1, 1, 1)


def test_of_a_request_and_its_waiting_copy_one_runs(cells: dict[str, Cell]):
    """F21: the worker ended between the confirmed copy and the ack; both come, and one makes the call."""
    cell = cells["waits for a key, copy confirmed, once"]
    assert cell.faults == ()
    assert (cell.crashes, cell.calls, cell.copies) == (1, 2, 0)


def test_an_answer_whose_ack_was_never_sent_is_not_sent_again(cells: dict[str, Cell]):
    """F44: the redelivery finds that it is published: no call, no second envelope."""
    cell = cells["answered, before ack, once"]
    assert cell.faults == ()
    assert (cell.crashes, cell.calls, cell.copies) == (1, 1, 0)


def test_a_request_that_a_dead_worker_has_relayed_is_answered_once(cells: dict[str, Cell]):
    """Relayed and not acked, it is relayed again, and the ledger knows it."""
    cell = cells["answered, relayed, once"]
    assert cell.faults == ()
    assert (cell.crashes, cell.calls, cell.copies) == (2, 1, 0)


def test_a_worker_that_acks_whatever_happens_is_found_out(playground: tuple[ChaosNode, FakeClient], tmp_path: Path):
    """F20: with the settlement of stock job systems, a request whose copy no delay queue takes is lost.

    The queue is gone, and the worker may not make it again; so the copy is refused whatever the moment is.
    """
    node, fake = playground
    request = Request("r-1", Kind("500", 1, rule={"status": 500}), "canary-prompt")
    fake.script(request.rules)
    with (
        node.fresh_vhost() as url,
        arena_on(url, node, fake, tmp_path, **SETTINGS, CHAOS_STOCK_SETTLEMENT=1) as arena,
    ):
        arena.start()
        node.permit(url, user=USER, configure=r"^(?!gemini\.generate\.backoff)")
        with arena.direct.channel() as channel:
            channel.queue_delete("gemini.generate.backoff.0.2s")
        producer = Producer(url, [request], seconds=0.01)
        producer.start()
        wait_until(lambda: any(line["step"] == "ack asked" for line in arena.journal()), timeout_s=120, what="an ack")
        wait_until(lambda: not node.ours(url), timeout_s=120, what="nothing to be left in RabbitMQ")
        verdict = judge(evidence_of(request, arena, node, producer, (0, 0)))
    assert verdict.faults == ["lost: r-1 (500)"]
