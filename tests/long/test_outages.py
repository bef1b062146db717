"""RabbitMQ or Redis away for half a minute: what a worker is like afterwards."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from dev.process_group import workers
from dev.rabbitmq import Node
from dev.redis import process_id, redis_server
from dev.stack import Stack
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

OUTAGE_S = 30.0

#: So long after an outage service may need to be what it was.
RECOVERY_S = 5.0

THREADS, CALL_S = 8, 0.2

BACKLOG, MEASURED = 3000, 400

#: What is left of the rate of before may be less, by chance.
ABOUT = 0.7

SILENT_S, LONGEST_WAIT_S = 20.0, 25.0


def test_an_alarm_of_rabbitmq_leaves_no_trace(
    stack_at: MakeStack, own_rabbitmq: Node, capsys: pytest.CaptureFixture[str]
):
    """F9: nobody may publish for half a minute. What was called is kept, and threads do not pile up."""
    with own_rabbitmq.fresh_vhost() as url:
        stack, fake = stack_at(url, WORKER_THREADS=THREADS, per_minute=100_000)
        fake.script([{"delay_s": CALL_S}])
        run_through_an_outage(stack, alarm(own_rabbitmq), capsys)


def test_a_redis_that_was_away_leaves_no_trace(
    make_stack: MakeStack, redis_installed: None, capsys: pytest.CaptureFixture[str]
):
    """F65: connections are refused for half a minute. Threads do not pile up."""
    with redis_server() as url:
        stack, fake = make_stack(WORKER_THREADS=THREADS, REDIS_URL=url, per_minute=100_000)
        fake.script([{"delay_s": CALL_S}])
        run_through_an_outage(stack, away(url), capsys)


def test_a_redis_that_is_silent_under_load_holds_up_nobody_for_longer(
    make_stack: MakeStack, redis_installed: None, capsys: pytest.CaptureFixture[str]
):
    """F65: 20 s of silence, 16 threads, ten requests a second."""
    with redis_server() as url:
        stack, fake = make_stack(WORKER_THREADS=16, REDIS_URL=url, per_minute=100_000)
        fake.script([{"delay_s": CALL_S}])
        stack.start_worker()
        published = publish_for(stack, seconds=5.0)
        with silent(url):
            published |= publish_for(stack, seconds=SILENT_S)
        published |= publish_for(stack, seconds=5.0)
        answers = stack.answers(len(published), timeout_s=60)
        finished = {answer["request_id"]: float(answer.properties.timestamp) for answer in answers}
        longest_s = max(finished[one] - at for one, at in published.items())
        with capsys.disabled():
            print(f"\nthe longest wait {longest_s:.0f} s, {fake.stats()['total']} calls for {len(published)}")  # noqa: T201 - a figure
        assert longest_s < LONGEST_WAIT_S
        assert fake.stats()["total"] == len(published)


def run_through_an_outage(stack: Stack, outage: Iterator[None], capsys: pytest.CaptureFixture[str]) -> None:
    """Measure the rate before and after, and the threads."""
    stack.publish(*({"request_id": f"r-{number}", "prompt": "Hello"} for number in range(BACKLOG)))
    worker = stack.start_worker()
    stack.answers(1)
    before = rate(stack, MEASURED, since=time.time())
    threads = [threads_of(process) for process in workers(worker.popen.pid)]
    with outage:
        threading.Event().wait(OUTAGE_S)
    over_at = time.time()
    after = rate(stack, MEASURED, since=over_at + RECOVERY_S)
    stack.answers(BACKLOG - 1 - 2 * MEASURED, timeout_s=180)
    with capsys.disabled():
        print(f"\n{before:.0f}/s before, {after:.0f}/s from {RECOVERY_S:g} s after it on")  # noqa: T201 - a figure
    assert after > ABOUT * before
    assert [threads_of(process) for process in workers(worker.popen.pid)] == threads
    assert stack.depth("gemini.responses") == 0


def rate(stack: Stack, count: int, *, since: float) -> float:
    """Answers a second from `since` on, in epoch seconds; one of those that came earlier counts as late as that."""
    return count / (stack.answers(count, timeout_s=120)[-1].at - since)


def threads_of(process: int) -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))


def publish_for(stack: Stack, *, seconds: float, pause_s: float = 0.1) -> dict[str, float]:
    """Publish ten a second; when each was published, in epoch seconds."""
    published: dict[str, float] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = f"r-{time.monotonic_ns()}"
        published[name] = time.time()
        stack.publish({"request_id": name, "prompt": "Hello"})
        threading.Event().wait(pause_s)
    return published


@contextmanager
def alarm(node: Node) -> Iterator[None]:
    node.alarm(on=True)
    try:
        yield
    finally:
        node.alarm(on=False)


@contextmanager
def away(url: str) -> Iterator[None]:
    """No connection to this Redis, and what it knows is there afterwards."""
    socket = Path(urlsplit(url).path)
    with redis.Redis.from_url(url, single_connection_client=True) as client:
        socket.rename(socket.with_suffix(".away"))
        client.client_kill_filter(_type="normal", skipme=True)
    try:
        yield
    finally:
        socket.with_suffix(".away").rename(socket)


@contextmanager
def silent(url: str) -> Iterator[None]:
    server = process_id(url)
    os.kill(server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server, signal.SIGCONT)
