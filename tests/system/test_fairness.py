"""Under overload requests are served in the order in which they came, and cost nothing while they wait."""

import pytest

from dev.stack import Stack
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

KEYS, PER_WINDOW, WINDOW_S = 2, 5, 3.0

#: What all keys together may do in a window.
PLACES = KEYS * PER_WINDOW


@pytest.fixture
def stack(make_stack: MakeStack) -> Stack:
    """Two processes; the usual window and schedule, twenty times as fast."""
    made, _fake = make_stack(
        keys=KEYS,
        per_minute=PER_WINDOW,
        window=WINDOW_S,
        QUEUE_RETRY_DELAYS="3,30,180,4320",
        WORKER_PROCESSES=2,
        WORKER_THREADS=PLACES,
    )
    return made


def ask(stack: Stack, *numbers: int) -> None:
    stack.publish(*({"request_id": str(number), "prompt": f"Question {number}"} for number in numbers))


def test_under_overload_requests_are_answered_in_the_order_of_their_arrival(stack: Stack):
    """F67: none is more than a window's worth out of place; those that wait stay in the producer's queue."""
    count = 5 * PLACES
    ask(stack, *range(count))
    worker = stack.start_worker()
    order = [int(answer["request_id"]) for answer in stack.answers(count - PLACES, timeout_s=60)]
    ask(stack, count)  # a newcomer while others wait
    order += [int(answer["request_id"]) for answer in stack.answers(PLACES + 1, timeout_s=60)]
    assert sorted(order) == list(range(count + 1))
    assert max(abs(place - number) for place, number in enumerate(order)) <= PLACES
    assert order.index(count) >= count - PLACES
    # Where two processes look for the same place of a key one of them comes late; the others were not even fetched.
    assert worker.output().count("Waiting up to") <= PLACES
    assert "Waiting up to 30 s" not in worker.output()
