"""More requests than the keys allow, for long: who waits for how long, and in which order they are answered."""

import threading
import time
from datetime import datetime

import pytest

from dev.backend import Answer
from dev.stack import Stack
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

#: The usual window and the usual schedule, ten times as fast.
WINDOW_S, DELAYS = 6.0, "6,60,360,8640"

KEYS, PER_WINDOW = 2, 10
PLACES = KEYS * PER_WINDOW

#: How many times as many requests arrive as the keys allow, and for how many seconds.
OVERLOAD, SECONDS = 1.3, 120.0

BACKLOG = 50_000


@pytest.fixture
def stack(make_stack: MakeStack) -> Stack:
    made, _fake = make_stack(
        keys=KEYS,
        per_minute=PER_WINDOW,
        window=WINDOW_S,
        QUEUE_RETRY_DELAYS=DELAYS,
        WORKER_PROCESSES=2,
        WORKER_THREADS=PLACES,
    )
    return made


def request(number: int) -> dict[str, str]:
    return {"request_id": str(number), "prompt": f"Question {number}"}


def finished_at(answer: Answer) -> float:
    return datetime.fromisoformat(answer["timestamp"]).timestamp()


def test_under_steady_overload_nobody_starves(stack: Stack, capsys: pytest.CaptureFixture[str]):
    """F67: the longest wait is near that of strict order, and no answer goes to one of the newest of those waiting."""
    stack.start_worker()
    arrived = arrive(stack)
    answers = stack.answers(len(arrived), timeout_s=2 * SECONDS)
    finished = {int(answer["request_id"]): finished_at(answer) for answer in answers}
    longest = max(finished[number] - at for number, at in arrived.items())
    in_order = zip(sorted(arrived.values()), sorted(finished.values()), strict=True)
    strict = max(end - at for at, end in in_order)
    newest = max(share_of_older(number, arrived, finished) for number in arrived)
    with capsys.disabled():
        print(f"\nlongest wait {longest:.0f} s, in strict order {strict:.0f} s; {newest:.0%}")  # noqa: T201 - a figure
    assert longest <= 1.5 * strict
    assert newest <= 0.9


def arrive(stack: Stack) -> dict[int, float]:
    """Publish at the rate of overload; when each request was published, in epoch seconds."""
    arrived: dict[int, float] = {}
    pause_s = WINDOW_S / PLACES / OVERLOAD
    began = time.monotonic()
    while (late_s := time.monotonic() - began) < SECONDS:
        number = len(arrived)
        arrived[number] = time.time()
        stack.publish(request(number))
        threading.Event().wait(max(0.0, (number + 1) * pause_s - late_s))
    return arrived


def share_of_older(number: int, arrived: dict[int, float], finished: dict[int, float]) -> float:
    """How many of those who waited when this one was answered had waited longer; 0 when hardly anybody waited."""
    end = finished[number]
    waiting = [one for one, at in arrived.items() if at <= end <= finished[one]]
    return sum(one < number for one in waiting) / len(waiting) if len(waiting) > PLACES else 0.0


def test_a_large_backlog_is_answered_in_order_and_costs_nothing(stack: Stack, capsys: pytest.CaptureFixture[str]):
    """F67: what no key can serve yet stays where it is; it is not copied through the schedule."""
    for first in range(0, BACKLOG, 1000):
        stack.publish(*(request(number) for number in range(first, first + 1000)))
    worker = stack.start_worker()
    order = [int(answer["request_id"]) for answer in stack.answers(8 * PLACES, timeout_s=120)]
    waits = worker.output().count("Waiting up to")
    furthest = max(abs(place - number) for place, number in enumerate(order))
    with capsys.disabled():
        print(f"\n{len(order)} of {BACKLOG}: out of place by {furthest} at most, {waits} copies")  # noqa: T201 - a figure
    assert furthest <= PLACES
    assert waits <= PLACES
    assert stack.depth("gemini.requests") >= BACKLOG - len(order) - 2 * PLACES
