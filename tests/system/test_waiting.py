"""Waiting for a key: each step once, on time, whatever else waits."""

import json
import time
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
    """Four waits on time within a second, then exactly one error envelope."""
    delays = (1.0, 1.5, 2.0, 2.5)
    stack, fake = make_stack(QUEUE_RETRY_DELAYS=",".join(map(str, delays)), LOG_FORMAT="json")
    fake.script([{"status": 429, "headers": {"Retry-After": "3600"}}])
    worker = stack.start_worker()
    stack.start_bridge()
    stack.publish({"request_id": "r-1", "prompt": "Hello"})
    (answer,) = stack.answers(1)
    assert answer["error"] == "Rate limit exceeded after all retries"
    assert answer["error_code"] == "rate_limit"
    assert len(fake.calls()) == 1
    worker.wait_for_output("Settled", count=len(delays) + 1)

    lines = [json.loads(line) for line in worker.output().splitlines() if line.startswith("{")]
    scheduled = [
        line for line in lines if line.get("request_id") == "r-1" and line["message"].startswith("Waiting up to")
    ]
    settled = [line for line in lines if line.get("request_id") == "r-1" and line["message"].startswith("Settled")]
    assert [line["message"].split("(")[0] for line in scheduled] == [f"Waiting up to {d:g} s " for d in delays]
    times = [seconds(line["time"]) for line in settled]
    for delay, left, came_back in zip(delays, times[:-1], times[1:], strict=True):
        assert delay - 0.1 <= came_back - left <= delay + 1
    assert stack.depth("gemini.responses") == 0


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_a_short_wait_is_on_time_behind_20000_long_ones(make_stack: MakeStack):
    """F22: waits of different length have queues of their own, and none is in worker memory."""
    stack, fake = make_stack(QUEUE_RETRY_DELAYS="1,3600")
    fake.script([{"status": 429, "headers": {"Retry-After": "3600"}}])
    worker = stack.start_worker()
    stack.start_bridge()
    before = memory_kib(worker.popen.pid)
    park(stack, "gemini.generate.delay.3600s", 20_000)

    started = time.time()
    stack.publish({"request_id": "r-1", "prompt": "Hello"})
    wait_until(lambda: stack.depth("gemini.generate.delay.1s") == 1, what="the request in its short wait")
    wait_until(lambda: stack.depth("gemini.generate.delay.3600s") == 20_001, what="the request in its long wait")
    assert time.time() - started < 1 + 1 + 1  # the wait, its allowance, and the way through the bridge
    assert memory_kib(worker.popen.pid) - before < 20_000
    assert stack.depth("gemini.generate.delay.3600s") == 20_001


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
