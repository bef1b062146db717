"""Bursts, backlogs and outages in real time: how late, how fast, and what is left when it has passed."""

import re
import threading

import pytest

from dev.launcher import Process
from dev.rabbitmq import Node
from dev.stack import Stack
from tests.system.conftest import MakeStack
from tests.system.test_faults import lose_nothing_while_rabbitmq_is_away
from tests.system.test_waiting import behind_long_waits, lateness

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

#: The usual window and the usual schedule, twenty times as fast.
WINDOW_S, DELAYS = 3.0, "3.5,30,180,4320"


def test_a_burst_goes_out_as_fast_as_its_keys_allow(make_stack: MakeStack, capsys: pytest.CaptureFixture[str]):
    """100 requests, two keys, ten a window: five windows, no error, and one counted wait for each at most."""
    stack, fake = make_stack(keys=2, per_minute=10, window=WINDOW_S, QUEUE_RETRY_DELAYS=DELAYS)
    worker = burst(stack)
    answers = stack.answers(100, timeout_s=60)
    times = [call["time"] for call in fake.calls()]
    windows = (max(times) - min(times)) / WINDOW_S
    retries = counted_waits(worker.output())
    with capsys.disabled():
        print(f"\n100 requests, 2 keys, 10 a window: all answered in {windows:.1f} windows")  # noqa: T201 - a figure
    assert {answer["status"] for answer in answers} == {"success"}
    assert fake.stats()["limited"] == 0
    assert max(retries.values(), default=0) <= 1  # most wait in the request queue, at no cost
    assert windows >= 4  # the last of five begins after four; a crowded machine adds to it


def test_without_early_release_a_burst_climbs_the_schedule(make_stack: MakeStack, capsys: pytest.CaptureFixture[str]):
    """After one window all come back at once; those who find no key then wait for ten windows, and longer."""
    stack, _fake = make_stack(keys=2, per_minute=10, window=WINDOW_S, QUEUE_RETRY_DELAYS=DELAYS, QUEUE_EARLY_RELEASE=0)
    burst(stack)
    stack.wait_for_depth("gemini.generate.delay.30s", 60)
    with capsys.disabled():
        print("\nwithout early release: 60 of them wait for ten windows after the first")  # noqa: T201 - a figure
    assert len(stack.answers(40)) == 40


def burst(stack: Stack) -> Process:
    stack.publish(*({"request_id": f"r-{number}", "prompt": f"Question {number}"} for number in range(100)))
    return stack.start_worker()


def counted_waits(output: str) -> dict[str, int]:
    """How many waits count for each request that has waited; one that was ended early does not."""
    counts: dict[str, int] = {}
    for found in re.finditer(r"\[(r-\d+)\] (?:Waiting up to .* \(retry_count=(\d+)|Released early)", output):
        name, count = found.groups()
        counts[name] = int(count) if count else counts[name] - 1
    return counts


def test_a_rabbitmq_that_is_away_for_20_s_loses_nothing(own_rabbitmq: Node, stack_at: MakeStack):
    """F8: longer than any heartbeat."""
    lose_nothing_while_rabbitmq_is_away(own_rabbitmq, stack_at, while_away=lambda: threading.Event().wait(20))


def test_a_short_wait_is_on_time_behind_20000_long_ones(make_stack: MakeStack):
    """F22: within a second. Of three, the one that is most on time counts: a crowded machine makes some late."""
    assert min(behind_long_waits(make_stack, 20_000)) <= 1


def test_every_step_of_the_schedule_is_on_time(make_stack: MakeStack):
    """Within a second of due; of three requests, the one that is most on time counts at each step."""
    delays = (1.0, 1.5, 2.0, 2.5)
    stack, fake = make_stack(QUEUE_RETRY_DELAYS=",".join(map(str, delays)), LOG_FORMAT="json")
    fake.script([{"status": 429, "headers": {"Retry-After": "3600"}}])
    worker = stack.start_worker()
    names = ("r-1", "r-2", "r-3")
    for name in names:
        stack.publish({"request_id": name, "prompt": "Hello"})
        worker.wait_for_output(f'"{name}", "message": "Waiting up to')
    assert {answer["error_code"] for answer in stack.answers(3)} == {"rate_limit"}
    worker.wait_for_output('"event": "settled"', count=3 * (len(delays) + 1))
    late = [lateness(worker, name, delays) for name in names]
    assert max(min(step) for step in zip(*late, strict=True)) <= 1
