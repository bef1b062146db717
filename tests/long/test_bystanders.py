"""Other people's trouble, by the hundreds: how late it makes a request that has none."""

import statistics
import time

import pytest

from dev.stack import Stack
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

MISSING, HEALTHY = 1000, 50

#: How many requests to missing queues stand before each healthy one.
SHARE = MISSING // HEALTHY


def test_requests_to_missing_callback_queues_delay_nobody(make_stack: MakeStack, capsys: pytest.CaptureFixture[str]):
    """F63: a healthy one among a thousand; no queue is made, and all are delivered when the queues appear."""
    stack, _fake = make_stack(WORKER_THREADS=4, per_minute=100_000)
    stack.start_worker()
    with stack.channel() as channel:
        channel.queue_declare("there", durable=True)
    names = [f"missing.{number}" for number in range(MISSING)]
    among_healthy, among_missing = [], []
    for number in range(HEALTHY):
        batch = names[number * SHARE : (number + 1) * SHARE]
        among_healthy.append(answered_after_s(stack, f"healthy-{number}", *(["there"] * SHARE)))
        among_missing.append(answered_after_s(stack, f"missing-{number}", *batch))
    later_s = statistics.median(among_missing) - statistics.median(among_healthy)
    with capsys.disabled():
        print(f"\n{1000 * later_s:+.0f} ms at the median, {max(among_missing):.2f} s at most")  # noqa: T201 - a figure
    assert later_s < 0.05
    assert max(among_missing) < 1
    with stack.channel() as channel:
        for name in names:
            channel.queue_declare(name, durable=True)
    for name in names:
        stack.answers(1, queue=name, timeout_s=700)


def answered_after_s(stack: Stack, name: str, *queues: str) -> float:
    """How long a request takes that was published behind one to each of these callback queues."""
    others = [{"request_id": f"{name}-{n}", "prompt": "Hello", "callback_queue": q} for n, q in enumerate(queues)]
    began = time.monotonic()
    stack.publish(*others, {"request_id": name, "prompt": "Hello"})
    (answer,) = stack.answers(1)
    assert answer["request_id"] == name
    return time.monotonic() - began


def test_one_whose_model_rests_holds_up_nobody(make_stack: MakeStack):
    """F66: it waits first of eighteen, and for far longer. The others have the key's places as they come back."""
    stack, fake = make_stack(per_minute=3, window=3.0, QUEUE_RETRY_DELAYS="600,3600", OPENROUTER_MODEL="vendor/model")
    busy = {"code": 429, "message": "Provider returned error", "metadata": {"provider_name": "Vendor", "raw": "busy"}}
    rests = {"status": 429, "headers": {"Retry-After": "3600"}, "body": {"error": busy}}
    fake.script([{"model": "vendor/resting", **rests}])
    worker = stack.start_worker()
    stack.publish({"request_id": "resting", "prompt": "Hello", "model": "vendor/resting"})
    worker.wait_for_output("[resting] Waiting up to 600 s")
    others = [f"r-{number}" for number in range(17)]
    stack.publish(*({"request_id": name, "prompt": "Hello"} for name in others))
    answers = stack.answers(17, timeout_s=60)
    assert sorted(answer["request_id"] for answer in answers if answer["status"] == "success") == sorted(others)
    assert stack.depth("gemini.generate.delay.600s") == 1
