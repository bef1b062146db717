"""A worker that is killed again and again: what only ran beside it is no killer."""

import signal
import threading

import pytest

from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

#: RabbitMQ gives up what it has delivered 20 times.
KILLS, EVERY_S, THREADS = 22, 4.0, 8


@pytest.mark.parametrize("call_s", [1.0, 60.0], ids=["calls that end", "calls that never end in time"])
def test_a_crash_loop_makes_no_innocent_a_dead_letter(make_stack: MakeStack, call_s: float):
    """F69: every request that was in flight is answered when the loop has ended, and none is dead."""
    stack, fake = make_stack(WORKER_THREADS=THREADS)
    fake.script([{"gate": "held"} if call_s > EVERY_S else {"delay_s": call_s}])
    ids = [f"r-{number}" for number in range(THREADS)]
    stack.start_worker()
    stack.publish(*({"request_id": one, "prompt": f"Question {one}"} for one in ids))
    for _ in range(KILLS):
        threading.Event().wait(EVERY_S)
        worker = stack.processes[-1]
        worker.signal_group(signal.SIGKILL)
        worker.wait()
        stack.start("worker")
    fake.open_gate("held")
    answers = stack.answers(THREADS, timeout_s=120)
    assert sorted(answer["request_id"] for answer in answers) == ids
    assert {answer["status"] for answer in answers} == {"success"}
    assert stack.depth("gemini.generate.dead") == 0
