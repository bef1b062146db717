"""Stores that are small, slow or away, for long."""

import base64
import random
import signal
import time
from itertools import pairwise

import pytest

from dev.redis import redis_server
from tests.system.conftest import MakeStack
from tests.system.test_takeover import LONGEST_GAP_S

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

#: More than 25 MB hold, at a time.
ROUNDS, EACH = 20, 500

#: Texts that hardly get smaller when they are compressed; an answer repeats its prompt.
TEXT = random.Random(1)


def test_a_small_redis_serves_on_and_on(make_stack: MakeStack, redis_installed: None):
    """F64: 25 MB, as the smallest plans have, and answers of 8 kB: 10,000 requests in a row are answered."""
    with redis_server("--maxmemory", "25mb", "--maxmemory-policy", "noeviction") as url:
        stack, fake = make_stack(WORKER_THREADS=16, REDIS_URL=url, per_minute=100_000)
        stack.start_worker()
        for number in range(ROUNDS):
            stack.publish(*(question(number * EACH + one) for one in range(EACH)))
            answers = stack.answers(EACH, timeout_s=120)
            assert {answer["status"] for answer in answers} == {"success"}
        assert fake.stats()["total"] == ROUNDS * EACH


def question(number: int) -> dict[str, str]:
    return {"request_id": f"r-{number}", "prompt": base64.b85encode(TEXT.randbytes(6400)).decode()}


def test_a_state_file_that_was_broken_is_forgotten_within_seconds(make_stack: MakeStack):
    """F71: nothing is lost meanwhile, and after the repair service does not stand still."""
    stack, _fake = make_stack(WORKER_THREADS=8)
    worker = stack.start_worker()
    state = stack.folder / "state.sqlite3"
    stack.publish(question(0))
    stack.answers(1)
    for file in stack.folder.glob("state.sqlite3*"):
        if file.is_file():
            file.write_bytes(b"garbage" * 1000)
    stack.publish(*(question(number) for number in range(1, 41)))
    worker.wait_for_output("Waiting for the ledger", count=8)
    for file in stack.folder.glob("state.sqlite3*"):
        if file.is_file():
            file.unlink()
    repaired_at = time.time()
    answers = stack.answers(40, timeout_s=60)
    assert answers[0].at - repaired_at < LONGEST_GAP_S
    assert max(later.at - earlier.at for earlier, later in pairwise(answers)) < LONGEST_GAP_S
    assert state.exists()


def test_work_of_a_stopped_worker_is_taken_over_and_answered_once(
    make_stack: MakeStack, redis_url: str, request: pytest.FixtureRequest
):
    """It goes on after a minute, and finds its requests answered: their calls were paid for twice, and told once."""
    stack, fake = make_stack(WORKER_THREADS=4, REDIS_URL=redis_url)
    fake.script([{"gate": "held"}])
    stopped = stack.start_worker()
    ids = [f"r-{number}" for number in range(4)]
    stack.publish(*({"request_id": one, "prompt": f"Question {one}"} for one in ids))
    fake.wait_for_calls(4)
    stopped.signal_group(signal.SIGSTOP)
    request.addfinalizer(lambda: stopped.signal_group(signal.SIGCONT))
    stack.start_worker()
    fake.wait_for_calls(8, timeout_s=120)  # RabbitMQ misses the heartbeats of the other one first
    fake.open_gate("held")
    assert sorted(answer["request_id"] for answer in stack.answers(4)) == ids
    stopped.signal_group(signal.SIGCONT)
    stopped.wait_for_output("paid for twice", count=4)
    stack.publish({"request_id": "after", "prompt": "Hello"})
    assert stack.answers(1)[0]["request_id"] == "after"
    assert stack.depth("gemini.responses") == 0
