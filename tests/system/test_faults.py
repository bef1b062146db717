"""Processes that die, and a RabbitMQ that goes away: nothing is lost, nothing is paid twice."""

import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pika
import pytest

from dev.process_group import children, members, workers
from dev.rabbitmq import Node, Server
from dev.stack import Stack
from dev.waiting import wait_until
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


def request(number: int, **fields: object) -> dict[str, object]:
    return {"request_id": f"r-{number}", "prompt": f"Question {number}", **fields}


def test_a_worker_killed_in_mid_call_loses_no_request(make_stack: MakeStack):
    """F6: called again after the restart, answered once."""
    stack, fake = make_stack(REQUEST_TIMEOUT_SECONDS=1)
    fake.script([{"gate": "held", "times": 1}])
    worker = stack.start_worker()
    stack.publish(request(1))
    fake.wait_for_calls(1)
    worker.signal_group(signal.SIGKILL)
    worker.wait()
    stack.start_worker()
    (answer,) = stack.answers(1, timeout_s=90)
    assert (answer["request_id"], answer["status"]) == ("r-1", "success")
    assert len(fake.calls()) == 2
    assert stack.depth("gemini.responses") == 0


def test_a_connection_lost_in_mid_call_costs_no_second_call(make_stack: MakeStack, rabbitmq_server: Server):
    """F4: the redelivery waits for the call that still runs."""
    stack, fake = make_stack()
    fake.script([{"gate": "held"}])
    worker = stack.start_worker()
    stack.publish(request(1))
    fake.wait_for_calls(1)
    rabbitmq_server.close_connections(stack.url)
    worker.wait_for_output("Restarting consumer")
    fake.open_gate("held")
    (answer,) = stack.answers(1)
    assert answer["status"] == "success"
    settled = re.compile("Published response|Settled")
    wait_until(lambda: len(settled.findall(worker.output())) >= 2, what="the redelivery to be settled")
    assert len(fake.calls()) == 1
    assert stack.depth("gemini.responses") == 0


def test_a_rabbitmq_that_is_away_loses_nothing(own_rabbitmq: Node, stack_at: MakeStack):
    """F8: under load, stopped until the worker has noticed, and started again."""
    lose_nothing_while_rabbitmq_is_away(own_rabbitmq, stack_at)


def lose_nothing_while_rabbitmq_is_away(
    server: Server, stack_at: MakeStack, *, while_away: Callable[[], object] = lambda: None
) -> None:
    """Every request that was confirmed before, during and after is answered."""
    stack, _fake = stack_at(server.url)
    worker = stack.start_worker()
    confirmed: list[str] = []
    stop = threading.Event()
    producer = threading.Thread(target=produce, args=(server.url, confirmed, stop), daemon=True)
    producer.start()
    wait_until(lambda: len(confirmed) >= 50, what="50 confirmed requests")
    server.stop_app()
    worker.wait_for_output("trying again")
    while_away()
    server.start_app()
    so_far = len(confirmed)
    wait_until(lambda: len(confirmed) >= so_far + 50, what="50 requests after the outage", timeout_s=60)
    stop.set()
    producer.join(10)

    found: Counter[str] = Counter()
    with stack.channel() as channel:

        def all_answered() -> bool:
            method, properties, _body = channel.basic_get("gemini.responses", auto_ack=True)
            if method is not None:
                found[properties.correlation_id] += 1
            return set(confirmed) <= set(found)

        wait_until(all_answered, timeout_s=90, pause_s=0.001, what="an answer to every confirmed request")


def produce(url: str, confirmed: list[str], stop: threading.Event) -> None:
    """A backend that publishes one request after the other and notes which are confirmed."""
    number = 0
    while not stop.is_set():
        try:
            connection = pika.BlockingConnection(pika.URLParameters(url))
            channel = connection.channel()
            channel.queue_declare("gemini.requests", durable=True)
            channel.confirm_delivery()
            while not stop.wait(0.01):
                number += 1
                body = f'{{"request_id": "r-{number}", "prompt": "Question {number}"}}'
                properties = pika.BasicProperties(delivery_mode=2)
                channel.basic_publish("", "gemini.requests", body.encode(), properties, mandatory=True)
                confirmed.append(f"r-{number}")
        except pika.exceptions.AMQPError:
            stop.wait(0.5)
        else:
            connection.close()


def test_queues_that_are_deleted_while_in_use_come_back(make_stack: MakeStack):
    """F12, F24: RabbitMQ says so by a silent cancel only; the worker declares them again and goes on."""
    stack, _fake = make_stack()
    worker = stack.start_worker()
    wait_until(lambda: stack.consumers("gemini.requests") == 1, what="the worker's consumer")
    with stack.channel() as channel:
        for queue in ("gemini.requests", "gemini.generate", "gemini.generate.delay.60s"):
            channel.queue_delete(queue)
    worker.wait_for_output("cancelled the consumer of gemini.")
    stack.publish(request(1))
    assert stack.answers(1)[0]["status"] == "success"


def test_a_worker_process_that_is_killed_while_it_starts_ends_the_worker(make_stack: MakeStack):
    """Dramatiq's master waits for it to come up before it looks at it: half a minute, if it is not told otherwise."""
    stack, _fake = make_stack(WORKER_PROCESSES=1)
    worker = stack.start("worker", RABBITMQ_URL="amqp://127.0.0.1:1/")
    worker.wait_for_output("trying again")
    master = worker.popen.pid
    (child,) = workers(master)
    os.kill(child, signal.SIGKILL)
    assert worker.wait(20) != 0


def test_of_two_worker_processes_one_may_die(make_stack: MakeStack):
    """F52, F68: under load. Long calls of the other one are made once and answered, and service is back at two.

    The gap is what a backend sees between two answers.
    """
    stack, fake = make_stack(WORKER_PROCESSES=2, WORKER_THREADS=6)
    fake.script([{"prompt": "Long", "delay_s": 8.0}, {"delay_s": 0.2}])
    worker = stack.start_worker()
    wait_until(lambda: stack.consumers("gemini.requests") == 2, what="both consumers")  # RabbitMQ gives each its share
    long = [f"long-{number}" for number in range(6)]
    stack.publish(*({"request_id": one, "prompt": f"Long {one}", "callback_queue": "long"} for one in long))
    fake.wait_for_calls(6)
    with short_requests(stack) as answered_at:
        wait_until(lambda: len(answered_at) > 10, what="service")
        os.kill(max(workers(worker.popen.pid)), signal.SIGKILL)
        answers = stack.answers(6, queue="long")
        worker.wait_for_output("is ready for action", count=3)
    assert sorted(answer["request_id"] for answer in answers) == long
    assert {answer["status"] for answer in answers} == {"success"}
    gaps = [later - earlier for earlier, later in pairwise(answered_at)]
    assert max(gaps) < 5
    calls = [call for call in fake.calls() if call["prompt"].startswith("Long")]
    cut = [call["prompt"] for call in calls if call["aborted"]]  # those of the dead one
    assert 0 < len(cut) < 6
    assert sorted(call["prompt"] for call in calls if not call["aborted"]) == [f"Long {one}" for one in long]
    assert len(set(cut)) == len(cut)
    assert len(workers(worker.popen.pid)) == 2
    assert "was killed by signal 9: this one has taken its place" in worker.output()
    worker.terminate()
    assert worker.wait(30) == 0


def test_of_two_keepers_one_may_die(make_stack: MakeStack):
    """F68: the one process that nobody replaces. What it kept drains, the other one goes on until it is stopped."""
    stack, fake = make_stack(WORKER_PROCESSES=2, WORKER_THREADS=4)
    fake.script([{"gate": "held"}])
    worker = stack.start_worker()
    ids = [f"r-{number}" for number in range(8)]
    stack.publish(*({"request_id": one, "prompt": f"Question {one}"} for one in ids))
    fake.wait_for_calls(8)
    os.kill(max(children(worker.popen.pid)), signal.SIGKILL)
    worker.wait_for_output("the others go on")
    worker.wait_for_output("Draining: 4 running")
    fake.open_gate("held")
    assert sorted(answer["request_id"] for answer in stack.answers(8)) == ids
    assert len(fake.calls()) == 8
    stack.publish({"request_id": "after", "prompt": "Hello"})
    assert stack.answers(1)[0]["request_id"] == "after"
    os.kill(worker.popen.pid, signal.SIGTERM)
    assert worker.wait(30) != 0


def test_a_stop_reaches_a_process_that_is_slow_for_a_moment(make_stack: MakeStack):
    """F50: its sibling has ended as it was asked to, and not by itself."""
    stack, _fake = make_stack(WORKER_PROCESSES=2)
    worker = stack.start_worker()
    slow, other = workers(worker.popen.pid)
    os.kill(slow, signal.SIGSTOP)
    os.kill(worker.popen.pid, signal.SIGTERM)
    wait_until(lambda: workers(worker.popen.pid) == [slow], what=f"the end of {other}")
    os.kill(slow, signal.SIGCONT)
    assert worker.wait(30) == 0


def test_a_master_that_is_killed_leaves_nobody_behind(make_stack: MakeStack):
    """Nobody could stop them any more: they drain, and end."""
    stack, fake = make_stack(WORKER_PROCESSES=2)
    fake.script([{"gate": "held"}])
    worker = stack.start_worker()
    stack.publish(request(1))
    fake.wait_for_calls(1)
    worker.popen.kill()
    worker.wait()
    wait_until(lambda: "Draining: 1 running" in worker.output(), what="the drain")
    fake.open_gate("held")
    assert stack.answers(1)[0]["status"] == "success"
    wait_until(lambda: not members(worker.popen.pid), what="the end of all")


@contextmanager
def short_requests(stack: Stack) -> Iterator[list[float]]:
    """Requests one after the other, and the times at which they are answered."""
    answered_at: list[float] = []
    stop = threading.Event()

    def ask() -> None:
        number = 0
        while not stop.is_set():
            stack.publish({"request_id": f"short-{number}", "prompt": "Short", "callback_queue": "short"})
            answered_at.append(stack.answers(1, queue="short")[0].at)
            number += 1

    with stack.channel() as channel:
        channel.queue_declare("short", durable=True)
        channel.queue_declare("long", durable=True)
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answered_at
    finally:
        stop.set()
        thread.join(60)


@pytest.mark.parametrize("process", ["worker", "bridge"])
@pytest.mark.parametrize(
    ("settings", "says", "code"),
    [
        ({"RABBITMQ_URL": "amqp://guest:canary-password@{host}/"}, "guest", 69),
        ({"QUEUE_MAX_RETRIES": "many"}, "QUEUE_MAX_RETRIES", 78),
    ],
    ids=["wrong password", "wrong setting"],
)
def test_what_is_wrong_at_boot_is_said_in_a_line(
    make_stack: MakeStack, process: str, settings: dict[str, str], says: str, code: int
):
    """F10: no loop, no traceback, an exit code, and never the password."""
    stack, _fake = make_stack()
    host = stack.url.partition("@")[2].partition("/")[0]
    started = stack.start(process, **{name: value.format(host=host) for name, value in settings.items()})
    assert started.wait(60) == code
    assert says in started.output()
    assert "Traceback" not in started.output()
    assert "canary-password" not in started.output()
