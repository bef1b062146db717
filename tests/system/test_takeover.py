"""After a death nobody waits: what a dead process was at is taken over at once (P5)."""

import os
import signal
import time
from itertools import pairwise

import pytest

from dev.backend import Answer
from dev.rabbitmq import Server
from dev.redis import process_id, redis_server
from dev.waiting import wait_until
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

THREADS = 8

#: How many calls are cut off at a time.
RUNNING = 32

#: How long service may stand still after any single crash, in seconds.
LONGEST_GAP_S = 15.0


def longest_gap_s(since: float, answers: list[Answer]) -> float:
    return max(later - earlier for earlier, later in pairwise([since, *(answer.at for answer in answers)]))


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_a_worker_that_is_killed_with_every_thread_in_a_call_holds_up_nobody(
    make_stack: MakeStack, request: pytest.FixtureRequest, store: str
):
    """F6, F62: the next one answers within seconds, and only the calls that ran are made again."""
    settings = {"REDIS_URL": request.getfixturevalue("redis_url")} if store == "redis" else {}
    stack, fake = make_stack(WORKER_THREADS=THREADS, **settings)
    fake.script([{"delay_s": 1.0}])
    worker = stack.start_worker()
    ids = [f"r-{number}" for number in range(5 * THREADS)]
    stack.publish(*({"request_id": one, "prompt": f"Question {one}"} for one in ids))
    wait_until(lambda: fake.stats()["total"] == 2 * THREADS, what="every thread to be in its second call")
    worker.signal_group(signal.SIGKILL)
    worker.wait()
    killed_at = time.time()
    before = stack.answers(stack.depth("gemini.responses"))
    stack.start_worker()
    after = stack.answers(len(ids) - len(before), timeout_s=60)
    assert longest_gap_s(killed_at, after) < LONGEST_GAP_S
    assert sorted(answer["request_id"] for answer in before + after) == sorted(ids)
    assert {answer["status"] for answer in before + after} == {"success"}
    assert fake.stats()["total"] <= len(ids) + THREADS


def test_a_connection_that_is_cut_in_mid_call_costs_no_call_and_no_copy(make_stack: MakeStack, rabbitmq_server: Server):
    """F4, F70: RabbitMQ delivers all again at once, to the process that still runs them."""
    stack, fake = make_stack(WORKER_THREADS=2 * RUNNING)
    fake.script([{"gate": "held"}])
    stack.start_worker()
    ids = [f"r-{number}" for number in range(RUNNING)]
    stack.publish(*({"request_id": one, "prompt": f"Question {one}"} for one in ids))
    fake.wait_for_calls(RUNNING)
    rabbitmq_server.close_connections(stack.url)
    stack.publish({"request_id": "another", "prompt": "Hello"})
    fake.wait_for_calls(RUNNING + 1)  # so all that came again before it have been looked at
    fake.open_gate("held")
    answers = stack.answers(RUNNING + 1)
    assert sorted(answer["request_id"] for answer in answers) == sorted([*ids, "another"])
    assert fake.stats()["total"] == RUNNING + 1
    stack.wait_for_depth("gemini.generate", 0)
    assert stack.depth("gemini.responses") == 0


def test_a_redis_that_was_silent_holds_up_nobody_once_it_speaks(make_stack: MakeStack, redis_installed: None):
    """F65: whoever asked in the silence has its work already, and is not taken for somebody else."""
    with redis_server() as url:
        stack, fake = make_stack(WORKER_THREADS=16, REDIS_URL=url, KEYS_MAX_IN_FLIGHT=100)
        stack.start_worker()
        stack.publish(*(request(number) for number in range(4)))
        stack.answers(4)
        server = process_id(url)
        os.kill(server, signal.SIGSTOP)
        try:
            stack.publish(*(request(number) for number in range(10, 50)))
            worker = stack.processes[0]
            worker.wait_for_output("Waiting for the ledger", count=16)
        finally:
            os.kill(server, signal.SIGCONT)
        spoke_at = time.time()
        answers = stack.answers(40, timeout_s=60)
    assert longest_gap_s(spoke_at, answers) < LONGEST_GAP_S
    assert len(fake.calls()) == 44


def request(number: int) -> dict[str, str]:
    return {"request_id": f"r-{number}", "prompt": f"Question {number}"}
