"""Waiting for a key: each step once, on time, whatever else waits."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from dev.launcher import Process
from dev.process_group import members
from dev.stack import Stack
from dev.waiting import wait_until
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


def memory_kib(pid: int) -> int:
    """Resident memory of a process and its children, in KiB."""
    total = 0
    for group_member in members(pid):
        with open(f"/proc/{group_member}/status") as status:  # noqa: PTH123 - procfs
            total += next((int(line.split()[1]) for line in status if line.startswith("VmRSS")), 0)
    return total


def test_a_request_that_never_gets_a_key_waits_each_step_once_then_fails(make_stack: MakeStack):
    """F23: four waits in order, none cut short, then exactly one error envelope."""
    delays = (0.3, 0.4, 0.5, 0.6)
    stack, fake = make_stack(QUEUE_RETRY_DELAYS=",".join(map(str, delays)), LOG_FORMAT="json")
    fake.script([{"status": 429, "headers": {"Retry-After": "3600"}}])
    worker = stack.start_worker()
    stack.publish({"request_id": "r-1", "prompt": "Hello"})
    (answer,) = stack.answers(1)
    assert answer["error"] == "Rate limit exceeded after all retries"
    assert answer["error_code"] == "rate_limit"
    assert len(fake.calls()) == 1
    wait_for_attempts(worker, "r-1", len(delays) + 1)
    assert len(waits := attempts(worker, "r-1", delays)) == len(delays) + 1
    # From the beginning of one attempt to that of the next; the log knows milliseconds.
    assert all(
        later.delivered - earlier.delivered > delay - 0.002
        for delay, earlier, later in zip(delays, waits[:-1], waits[1:], strict=True)
    )
    assert stack.depth("gemini.responses") == 0


def lateness(worker: Process, name: str, delays: Sequence[float]) -> list[float]:
    """How much longer than its delay each wait of a request was, in seconds; it begins before its line in the log."""
    found = attempts(worker, name, delays)
    steps = zip(delays, found[:-1], found[1:], strict=False)
    return [later.delivered - earlier.settled - delay for delay, earlier, later in steps]


def attempts(worker: Process, name: str, delays: Sequence[float]) -> "list[Attempt]":
    """All attempts of a request that has had these waits, by the worker's log (JSON)."""
    scheduled = [line["message"] for line in told(worker, name) if line["message"].startswith("Waiting up to")]
    expected = [f"Waiting up to {delay:g} s " for delay in delays]
    assert [message.split("(")[0] for message in scheduled[: len(delays)]] == expected
    return [attempt for line in told(worker, name) if (attempt := Attempt.of(line)) is not None]


def told(worker: Process, name: str) -> list[dict[str, Any]]:
    """The worker's log about a request (JSON); a last line may be half written."""
    return [json.loads(line) for line in worker.output().rpartition("\n")[0].splitlines() if f'"{name}"' in line]


def wait_for_attempts(worker: Process, name: str, count: int) -> None:
    wait_until(
        lambda: sum(line.get("event") == "settled" for line in told(worker, name)) >= count,
        timeout_s=60,
        what=f"{count} attempts of {name}",
    )


@dataclass(frozen=True)
class Attempt:
    """When an attempt began and when it was settled, in epoch seconds, by the worker's log."""

    delivered: float
    settled: float

    @classmethod
    def of(cls, line: dict[str, Any]) -> "Attempt | None":
        settled = datetime.fromisoformat(line["time"]).timestamp()
        return cls(settled - line["elapsed_ms"] / 1000, settled) if line.get("event") == "settled" else None


def test_a_short_wait_is_served_behind_long_ones(make_stack: MakeStack):
    """F22: waits of different length have queues of their own, and none is in worker memory."""
    behind_long_waits(make_stack, 500)


def behind_long_waits(make_stack: MakeStack, count: int) -> list[float]:
    """How late three short waits are behind so many long ones, in seconds."""
    stack, fake = make_stack(QUEUE_RETRY_DELAYS="1,3600", LOG_FORMAT="json")
    fake.script([{"status": 429, "headers": {"Retry-After": "3600"}}])
    worker = stack.start_worker()
    stack.publish({"request_id": "first", "prompt": "Hello"})
    wait_for_attempts(worker, "first", 2)  # from here on the key rests: nobody is released early
    before = memory_kib(worker.popen.pid)
    park(stack, "gemini.generate.delay.3600s", count, beside=1)
    late = []
    for number in range(3):
        stack.publish({"request_id": f"r-{number}", "prompt": "Hello"})
        wait_for_attempts(worker, f"r-{number}", 2)
        late += lateness(worker, f"r-{number}", (1,))
    stack.wait_for_depth("gemini.generate.delay.3600s", count + 4)
    assert memory_kib(worker.popen.pid) - before < 20_000
    return late


def park(stack: Stack, queue: str, count: int, *, beside: int) -> None:
    """Put requests into a wait, as the worker would have, beside those that are there."""
    stack.put(queue, *(parked(number) for number in range(count)))
    stack.wait_for_depth(queue, count + beside)


def parked(number: int) -> bytes:
    """A request in its third wait, as a Dramatiq message."""
    job = {
        "v": 1,
        "request": {"request_id": f"parked-{number}", "prompt": "x" * 200, "callback_queue": "gemini.responses"},
        "received_at": time.time(),
        "retry_count": 2,
    }
    message = {
        "queue_name": "gemini.generate",
        "actor_name": "generate",
        "args": [job],
        "kwargs": {},
        "options": {},
        "message_id": f"parked-{number}",
        "message_timestamp": 1,
    }
    return json.dumps(message).encode()
