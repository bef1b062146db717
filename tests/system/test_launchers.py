"""The worker on greenlets, as the Procfile starts it, and on threads, as plain `dramatiq` does."""

import os
import signal

import pytest

from dev.launcher import procfile
from dev.process_group import workers
from dev.waiting import wait_until
from tests.system.conftest import KEYS, MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

LAUNCHERS = ["dramatiq", "dramatiq-gevent"]


def command(launcher: str) -> str:
    return procfile()["worker"].replace("dramatiq-gevent", launcher)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_both_launchers_rotate_keys_and_answer_once(make_stack: MakeStack, launcher: str):
    """A burst over two processes, one key with a 429: every request has its one answer, from one call."""
    stack, fake = make_stack(keys=2, WORKER_PROCESSES=2)
    fake.script([{"key": KEYS[0][-4:], "status": 429, "times": 1}])
    stack.start_worker(command=command(launcher))
    stack.publish(*({"request_id": f"r-{number}", "prompt": f"Question {number}"} for number in range(40)))

    answers = stack.answers(40)

    assert sorted(answer["request_id"] for answer in answers) == sorted(f"r-{number}" for number in range(40))
    assert {answer["status"] for answer in answers} == {"success"}
    assert len(fake.calls()) == 41


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_both_launchers_drain(make_stack: MakeStack, launcher: str):
    """F50: SIGTERM after SIGTERM to every process, the master too, with a call under way: answered, and exit code 0."""
    stack, fake = make_stack()
    fake.script([{"delay_s": 3.0}])
    worker = stack.start_worker(command=command(launcher))
    stack.publish({"request_id": "r-1", "prompt": "Slow"})
    wait_until(lambda: len(fake.calls()) == 1, what="the call")

    def settled() -> bool:
        worker.terminate()  # again and again: each may interrupt the handler of the one before
        return "Published response for request" in worker.output()

    wait_until(settled, pause_s=0.0, what="the answer")
    assert worker.wait() == 0
    assert [answer["request_id"] for answer in stack.answers(1)] == ["r-1"]
    assert len(fake.calls()) == 1


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_both_launchers_replace_a_process_that_dies(make_stack: MakeStack, launcher: str):
    """F52: again and again, with one process as well; each of them answers, and the last one stops when asked to."""
    stack, _fake = make_stack(WORKER_PROCESSES=1)
    worker = stack.start_worker(command=command(launcher))
    for number in range(3):
        os.kill(workers(worker.popen.pid)[0], signal.SIGKILL)
        worker.wait_for_output("this one has taken its place", count=number + 1)
        queue = f"answers-{number}"  # of its own: a kill right after an answer can make a copy of that one
        with stack.channel() as channel:
            channel.queue_declare(queue, durable=True)
        stack.publish({"request_id": f"r-{number}", "prompt": "Hello", "callback_queue": queue})
        assert stack.answers(1, queue=queue)[0]["status"] == "success"
    os.kill(worker.popen.pid, signal.SIGTERM)
    assert worker.wait() == 0
