"""What a container's probe says of a real worker: while its servers are away, while it hangs, while it drains."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis

from dev.launcher import procfile
from dev.process_group import workers
from dev.rabbitmq import Node
from dev.redis import process_id, redis_server
from dev.stack import Stack
from dev.waiting import wait_until
from tests.system.conftest import MakeStack
from tests.system.test_console import Ran, gemini

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

#: Longer than a beat may be old, in seconds.
LONG_S = 45.0

GREENLETS = procfile()["worker"]
COMMANDS = [GREENLETS, GREENLETS.replace("dramatiq-gevent", "dramatiq")]


def health(stack: Stack) -> Ran:
    return gemini(stack, "health")


@contextmanager
def probed(stack: Stack) -> Iterator[Callable[[], list[Ran]]]:
    """Probes all the while; what is given says which probes have failed so far."""
    ran: list[Ran] = []
    over = threading.Event()

    def probe() -> None:
        while not over.wait(1.0):
            ran.append(health(stack))

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield lambda: [one for one in ran if one.code]
    finally:
        over.set()
        thread.join()
    assert ran, "nobody has probed"


@pytest.mark.parametrize("command", COMMANDS)
def test_servers_that_are_away_start_no_worker_again(
    stack_at: MakeStack, own_rabbitmq: Node, redis_installed: None, command: str
):
    """RabbitMQ and Redis, one after the other and both, each for longer than a beat may be old; and at its start."""
    with redis_server() as store, own_rabbitmq.fresh_vhost() as url:
        stack, _ = stack_at(url, REDIS_URL=store, WORKER_PROCESSES=2)
        own_rabbitmq.freeze()
        stack.start("worker", command)
        wait_until(lambda: health(stack).code == 0, timeout_s=30, what="a sign of life")
        with probed(stack) as failed:
            time.sleep(LONG_S / 2)
            own_rabbitmq.thaw()
            stack.processes[0].wait_for_output("is ready for action", count=2, timeout_s=60)
            own_rabbitmq.freeze()
            time.sleep(LONG_S)
            server = process_id(store)
            os.kill(server, signal.SIGSTOP)
            time.sleep(LONG_S)
            own_rabbitmq.thaw()
            time.sleep(LONG_S)
            os.kill(server, signal.SIGCONT)
            assert redis.Redis.from_url(store).ping()
        assert failed() == []


@pytest.mark.parametrize("command", COMMANDS)
def test_one_process_that_hangs_is_told_until_it_goes_on(make_stack: MakeStack, command: str):
    """Of two. Then it drains, and is well as long as that takes; afterwards nobody is there."""
    stack, fake = make_stack(WORKER_PROCESSES=2)
    worker = stack.start_worker(command=command)
    frozen = workers(worker.popen.pid)[0]
    os.kill(frozen, signal.SIGSTOP)
    wait_until(lambda: health(stack).code == 1, timeout_s=60, what="a process that hangs")
    assert f"process {frozen} hangs" in health(stack).err
    os.kill(frozen, signal.SIGCONT)
    wait_until(lambda: health(stack).code == 0, timeout_s=30, what="a process that goes on")
    fake.script([{"gate": "drain"}])
    stack.publish({"request_id": "slow", "prompt": "x"})
    fake.wait_for_calls(1)
    worker.terminate()
    worker.wait_for_output("Draining", timeout_s=30)
    assert health(stack).code == 0
    fake.open_gate("drain")
    worker.wait()
    assert "none has started" in health(stack).err
