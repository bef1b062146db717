"""A batch and one who waits, from outside: two processes of a worker, and keys that are the limit."""

import pytest

from dev.stack import Stack
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

KEYS, PER_WINDOW, WINDOW_S = 2, 2, 2.0

#: What all keys together may do in a window.
PLACES = KEYS * PER_WINDOW

BATCH = 5 * PLACES


@pytest.fixture
def stack(make_stack: MakeStack) -> Stack:
    made, _fake = make_stack(
        keys=KEYS,
        per_minute=PER_WINDOW,
        window=WINDOW_S,
        QUEUE_RETRY_DELAYS="3,30,180,4320",
        WORKER_PROCESSES=2,
        WORKER_THREADS=4,
    )
    return made


def ask(stack: Stack, name: str, **fields: object) -> None:
    stack.publish({"request_id": name, "prompt": f"Question {name}", **fields})


def test_one_who_waits_does_not_wait_for_a_batch(stack: Stack):
    """It has the next key, or the one after: processes may hold one each. Nothing of the batch is lost, or waits twice.

    In which order the batch is answered depends on how fast each process sorts: see `tests/test_simulated_lanes.py`.
    """
    for number in range(BATCH):
        ask(stack, f"batch-{number}", priority="batch", metadata={"n": number})
    worker = stack.start_worker()
    before = stack.answers(PLACES, timeout_s=60)
    ask(stack, "somebody")
    names = [answer["request_id"] for answer in [*before, *stack.answers(BATCH + 1 - PLACES, timeout_s=60)]]
    assert len(set(names)) == BATCH + 1
    assert names.index("somebody") <= 3 * PLACES
    assert "Waiting up to 30 s" not in worker.output()
