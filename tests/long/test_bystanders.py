"""Other people's trouble, by the hundreds: how late it makes a request that has none."""

import statistics
import time

import pytest

from tests.system.conftest import MakeStack
from tests.system.stack import Stack

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

MISSING, HEALTHY = 1000, 50


def test_requests_to_missing_callback_queues_delay_nobody(make_stack: MakeStack, capsys: pytest.CaptureFixture[str]):
    """F63: a healthy one among a thousand; no queue is made, and all are delivered when the queues appear."""
    stack, _fake = make_stack(WORKER_THREADS=4, per_minute=100_000)
    stack.start_worker()
    alone = [answered_after_s(stack, f"alone-{number}") for number in range(HEALTHY)]
    names = [f"missing.{number}" for number in range(MISSING)]
    among = []
    share = MISSING // HEALTHY
    for number in range(HEALTHY):
        batch = names[number * share : (number + 1) * share]
        stack.publish(*({"request_id": name, "prompt": "Hello", "callback_queue": name} for name in batch))
        among.append(answered_after_s(stack, f"among-{number}"))
    later_s = statistics.median(among) - statistics.median(alone)
    with capsys.disabled():
        print(f"\n{1000 * later_s:+.0f} ms at the median, {max(among):.2f} s at most")  # noqa: T201 - a figure
    assert later_s < 0.05
    assert max(among) < 1
    with stack.channel() as channel:
        for name in names:
            channel.queue_declare(name, durable=True)
    for name in names:
        assert stack.answers(1, queue=name, timeout_s=700)[0]["status"] == "success"


def answered_after_s(stack: Stack, name: str) -> float:
    began = time.monotonic()
    stack.publish({"request_id": name, "prompt": "Hello"})
    (answer,) = stack.answers(1)
    assert answer["request_id"] == name
    return time.monotonic() - began
