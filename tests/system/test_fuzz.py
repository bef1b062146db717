"""Bodies that nobody should send: each is answered or kept, and a good one behind them is served.

A few hundred of them here; `script/chaos fuzz` sends ten thousand.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from dev.launcher import Process
from dev.process_group import members
from dev.rabbitmq import Server, vhost_of
from dev.stack import Stack
from dev.waiting import wait_until
from fake_openrouter.client import FakeClient
from tests.system.conftest import MakeStack
from tests.system.hostile import bodies, forged, properties

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

SEED = 20261123

#: The part of ten thousand that is sent every day.
SHARE = 0.03

#: What a process may grow by, in bytes: its share of what is on the way, with the largest body in several forms.
GROWTH = 200_000_000


def test_hostile_bodies_are_answered_or_kept(make_stack: MakeStack, rabbitmq_server: Server):
    """F1, F2, S1, S2, S6, S8: none lost, no thread lost, no memory lost, nothing of them in the log."""
    send_hostile_bodies(make_stack, rabbitmq_server, share=SHARE)


def test_forged_messages_are_kept_and_run_nothing(make_stack: MakeStack):
    """F3: in each queue that we consume, and in a wait, from which they come back; no call, no thread lost."""
    forge_messages(make_stack, count=20)


def send_hostile_bodies(make_stack: MakeStack, server: Server, *, share: float) -> None:
    stack, fake = make_stack(
        per_minute=1_000_000, QUEUE_RETRY_DELAYS="1,2", WORKER_PROCESSES=1, CALLBACK_QUEUE_CREATE=1
    )
    worker = stack.start_worker()
    warm_up(stack)
    memory = memory_of(worker)

    sent = bodies(SEED, share=share)
    publish(stack, sent)
    ends = Ends(stack, server)
    wait_until(lambda: ends.count() >= len(sent), timeout_s=200, pause_s=0.3, what=f"{len(sent)} ends")

    assert good_request_is_answered(stack)
    assert ends.count() == len(sent)
    assert ends.unlike_an_envelope == []
    assert worker.popen.poll() is None
    assert_every_thread_of_the_worker_makes_a_call(stack, fake)
    for pid, size in memory_of(worker).items():
        assert size - memory[pid] < GROWTH
    assert stack.depth("hostile.smuggled") == 0
    assert len(fake.calls()) < len(sent) / 2  # what cannot be right costs nothing
    assert "Traceback" not in worker.output()
    assert "Hello Hello" not in worker.output()  # a prompt; names, such as a model's, are shown escaped
    assert "\x1b" not in worker.output()


def forge_messages(make_stack: MakeStack, *, count: int) -> None:
    """Put so many into each queue."""
    stack, fake = make_stack(QUEUE_RETRY_DELAYS="1,2", WORKER_PROCESSES=1)
    stack.start_worker()
    warm_up(stack)
    calls = len(fake.calls())
    rng, queues = random.Random(SEED), ("gemini.generate", "gemini.callbacks", "gemini.generate.delay.1s")
    for queue in queues:
        stack.put(queue, *(forged(rng, queue) for _ in range(count)))
    total = count * len(queues)
    stack.wait_for_depth("gemini.generate.dead", total)
    assert good_request_is_answered(stack)
    assert len(fake.calls()) == calls + 1
    assert_every_thread_of_the_worker_makes_a_call(stack, fake)


class Ends:
    """Where the bodies have come to: envelopes, taken as they come, and what lies in the dead queues."""

    def __init__(self, stack: Stack, server: Server) -> None:
        self._stack = stack
        self._server = server
        self.envelopes = 0
        self.unlike_an_envelope: list[bytes] = []

    def callback_queues(self) -> list[str]:
        """Whatever name was no reason to refuse it."""
        queues = self._server.api("GET", f"queues/{vhost_of(self._stack.url)}?disable_stats=true")
        names = [queue["name"] for queue in queues]
        return [name for name in names if name == "gemini.responses" or not name.startswith(("gemini.", "hostile.sm"))]

    def count(self) -> int:
        with self._stack.channel() as channel:
            for queue in self.callback_queues():
                for body in all_of(channel, queue):
                    self.envelopes += 1
                    if not looks_right(json.loads(body)):
                        self.unlike_an_envelope.append(body)
        return self.envelopes + self._stack.depth("gemini.requests.dead") + self._stack.depth("gemini.generate.dead")


def all_of(channel: Any, queue: str) -> Iterator[bytes]:
    while (message := channel.basic_get(queue, auto_ack=True))[0] is not None:
        yield message[2]


def looks_right(envelope: dict[str, Any]) -> bool:
    """The fields that the README promises."""
    needed = {"success": {"content", "usage", "model_used"}, "error": {"error", "error_code"}}[envelope["status"]]
    return needed | {"timestamp", "processing_time_ms"} <= set(envelope)


def publish(stack: Stack, sent: list[bytes]) -> None:
    rng = random.Random(SEED)
    with stack.channel() as channel:
        for body in sent:
            channel.basic_publish("", "gemini.requests", body, pika.BasicProperties(delivery_mode=2, **properties(rng)))
        # Only now: RabbitMQ obeys the headers of our own publishes. It must not see them in those of the product.
        channel.queue_declare("hostile.smuggled", durable=True)


def good_request_is_answered(stack: Stack) -> bool:
    with stack.channel() as channel:
        channel.queue_declare("good.answers", durable=True)
    stack.publish({"request_id": "good", "prompt": "Hello", "callback_queue": "good.answers"})
    (answer,) = stack.answers(1, queue="good.answers")
    return bool(answer["status"] == "success")


def warm_up(stack: Stack) -> None:
    """Threads that start with the first call, or with the first missing queue, are there afterwards."""
    with stack.channel() as channel:
        channel.queue_declare("warm.up", durable=True)
    stack.publish(*({"request_id": f"w-{n}", "prompt": "Hello", "callback_queue": "warm.up"} for n in range(16)))
    stack.wait_for_depth("warm.up", 16)
    stack.answers(16, queue="warm.up")


def assert_every_thread_of_the_worker_makes_a_call(stack: Stack, fake: FakeClient) -> None:
    """All at the same time. The system knows no threads of a worker on greenlets that could be counted."""
    threads, before = int(stack.environment["WORKER_THREADS"]), len(fake.calls())
    fake.script([{"gate": "together"}])
    stack.publish(*({"request_id": f"t-{n}", "prompt": "Hi", "callback_queue": "good.answers"} for n in range(threads)))
    assert len(fake.wait_for_calls(before + threads)) == before + threads
    fake.open_gate("together")
    stack.answers(threads, queue="good.answers")


def memory_of(*processes: Process) -> dict[int, int]:
    """Resident bytes."""
    return {pid: 4096 * int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids(*processes)}


def pids(*processes: Process) -> list[int]:
    return [pid for process in processes for pid in members(process.popen.pid)]
