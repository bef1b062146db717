"""A short run of `script/chaos`; and a product that acks too early, which it finds out."""

from pathlib import Path

import pytest

from fake_openrouter.client import FakeClient
from tests.chaos.__main__ import HEADER, attempt, line
from tests.chaos.faults import no_permission_for_long
from tests.chaos.node import ChaosNode
from tests.chaos.round import Plan, play

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

#: Seeds whose plans are unlike one another.
SEEDS = (2, 4, 10, 11, 13)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_is_paid_twice(
    seed: int, chaos_node: ChaosNode, chaos_fake: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """P1 to P4, while RabbitMQ, the network and our own processes fail."""
    result = attempt(Plan.of(seed), chaos_node, chaos_fake, tmp_path)
    with capsys.disabled():
        print(f"\n{HEADER}\n{line(result)}")
    assert not result.verdict.faults


def test_a_worker_that_acks_whatever_happens_is_found_out(
    chaos_node: ChaosNode, chaos_fake: FakeClient, tmp_path: Path
):
    """With the settlement of stock job systems an answer that RabbitMQ refuses, for a moment, is lost."""
    plan = Plan(1, (no_permission_for_long, no_permission_for_long))
    verdict = play(plan, chaos_node, chaos_fake, tmp_path, CHAOS_STOCK_SETTLEMENT=1).verdict
    assert any(fault.startswith("lost") for fault in verdict.faults)
