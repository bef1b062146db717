"""Waiting for a key: each step once, on time, whatever else waits."""

import json
import re
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pika
import pytest

from tests.system.conftest import MakeStack
from tests.system.stack import Stack, wait_until

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


def memory_kib(pid: int) -> int:
    """Resident memory of a process and its children, in KiB."""
    total = 0
    for group_member in pids_of_group(pid):
        with open(f"/proc/{group_member}/status") as status:  # noqa: PTH123 - procfs
            total += next((int(line.split()[1]) for line in status if line.startswith("VmRSS")), 0)
    return total


def pids_of_group(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            found.append(int(stat.parent.name))
    return found


def test_a_request_that_never_gets_a_key_waits_each_step_once_then_fails(make_stack: MakeStack):
    """Four waits on time within a second, then exactly one error envelope.

    Of three requests, the one that is most on time counts: a crowded machine makes some late, the schedule all.
    """
    delays = (1.0, 1.5, 2.0, 2.5)
    stack, fake = make_stack(QUEUE_RETRY_DELAYS=",".join(map(str, delays)), LOG_FORMAT="json")
    fake.script([{"status": 429, "headers": {"Retry-After": "3600"}}])
    worker = stack.start_worker()
    stack.start_bridge()
    names = ("r-1", "r-2", "r-3")
    for name in names:
        stack.publish({"request_id": name, "prompt": "Hello"})
        worker.wait_for_output(f'"{name}", "message": "Waiting up to')
    for answer in stack.answers(3):
        assert answer["error"] == "Rate limit exceeded after all retries"
        assert answer["error_code"] == "rate_limit"
    assert len(fake.calls()) == 1
    worker.wait_for_output("Settled", count=3 * (len(delays) + 1))

    late = []
    for name in names:
        lines = [json.loads(line) for line in worker.output().splitlines() if f'"{name}"' in line]
        scheduled = [line["message"] for line in lines if line["message"].startswith("Waiting up to")]
        assert [message.split("(")[0] for message in scheduled] == [f"Waiting up to {delay:g} s " for delay in delays]
        attempts = [attempt for line in lines if (attempt := Attempt.of(line)) is not None]
        steps = list(zip(delays, attempts[:-1], attempts[1:], strict=True))
        assert all(later.delivered - earlier.delivered >= delay for delay, earlier, later in steps)
        late.append([later.delivered - earlier.settled - delay for delay, earlier, later in steps])
    assert max(min(step) for step in zip(*late, strict=True)) <= 1
    assert stack.depth("gemini.responses") == 0


@dataclass(frozen=True)
class Attempt:
    """When an attempt began and when it was settled, in epoch seconds, by the worker's log."""

    delivered: float
    settled: float

    @classmethod
    def of(cls, line: dict[str, str]) -> "Attempt | None":
        found = re.fullmatch(r"Settled: \w+ after (\d+) ms", line["message"])
        settled = datetime.fromisoformat(line["time"]).timestamp()
        return cls(settled - int(found[1]) / 1000, settled) if found else None


def test_a_short_wait_is_on_time_behind_20000_long_ones(make_stack: MakeStack):
    """F22: waits of different length have queues of their own, and none is in worker memory."""
    stack, fake = make_stack(QUEUE_RETRY_DELAYS="1,3600", LOG_FORMAT="json")
    fake.script([{"status": 429, "headers": {"Retry-After": "3600"}}])
    worker = stack.start_worker()
    stack.start_bridge()
    before = memory_kib(worker.popen.pid)
    park(stack, "gemini.generate.delay.3600s", 20_000)

    late = []
    for number in range(3):
        stack.publish({"request_id": f"r-{number}", "prompt": "Hello"})
        worker.wait_for_output("Settled", count=2 * (number + 1))
        lines = [json.loads(line) for line in worker.output().splitlines() if f'"r-{number}"' in line]
        first, second = (attempt for line in lines if (attempt := Attempt.of(line)) is not None)
        late.append(second.delivered - first.settled - 1)
    assert min(late) <= 1
    wait_until(lambda: stack.depth("gemini.generate.delay.3600s") == 20_003, what="three more in the long wait")
    assert memory_kib(worker.popen.pid) - before < 20_000


def park(stack: Stack, queue: str, count: int) -> None:
    """Put requests into a wait, as the worker would have."""
    with stack.channel() as channel:
        for number in range(count):
            job = {
                "v": 1,
                "request": {
                    "request_id": f"parked-{number}",
                    "prompt": "x" * 200,
                    "callback_queue": "gemini.responses",
                },
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
            channel.basic_publish("", queue, json.dumps(message).encode(), pika.BasicProperties(delivery_mode=2))
    wait_until(lambda: stack.depth(queue) == count, what=f"{count} messages in {queue}", timeout_s=60)
