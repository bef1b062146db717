"""Sixty requests at two a second, as batch and as before there was one, in real time."""

import time

import pytest

from dev.stack import Stack
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

#: Two keys, each once a second: the margin of a window, a quarter of a second, comes to that.
KEYS, PER_WINDOW, WINDOW_S, PLACES = 2, 1, 0.75, 2

BATCH = 60

CALL_S = 0.2


def stack_of(make_stack: MakeStack) -> Stack:
    made, fake = make_stack(
        keys=KEYS,
        per_minute=PER_WINDOW,
        window=WINDOW_S,
        late=0.5,
        QUEUE_RETRY_DELAYS="3,30,180,4320",
        WORKER_PROCESSES=2,
        WORKER_THREADS=4,
    )
    fake.script([{"delay_s": CALL_S}])
    return made


def play(stack: Stack, name: str, **fields: str) -> tuple[float, float]:
    """How long sixty take from the first answer to the last, and how long one does that comes behind them."""
    worker = stack.start_worker()
    sixty = ({"request_id": f"{name}-{number}", "prompt": f"Question {number}", **fields} for number in range(BATCH))
    stack.publish(*sixty)
    stack.answers(2 * PLACES, timeout_s=60)
    began = time.monotonic()
    stack.publish({"request_id": name, "prompt": "Question"})
    waited_s = 0.0
    for _ in range(BATCH + 1 - 2 * PLACES):
        (answer,) = stack.answers(1, timeout_s=60)
        waited_s = time.monotonic() - began if answer["request_id"] == name else waited_s
    took_s = time.monotonic() - began
    worker.terminate()
    worker.wait(60)
    return took_s, waited_s


def test_sixty_at_two_a_second_hold_up_nobody(make_stack: MakeStack, capsys: pytest.CaptureFixture[str]):
    """One who waits has the next key, or the one after; the batch as a whole takes as long as it did without lanes."""
    stack = stack_of(make_stack)
    without_s, last = play(stack, "before")
    with_s, waited_s = play(stack, "batch", priority="batch")
    pace_s = with_s / (BATCH + 1 - 2 * PLACES)
    with capsys.disabled():
        print(f"\nsixty at {1 / pace_s:.1f} a second: {with_s:.1f} s as batch, {without_s:.1f} s before; ", end="")  # noqa: T201 - figures
        print(f"who comes behind them waits {waited_s:.1f} s, and waited {last:.1f} s before")  # noqa: T201 - figures
    assert waited_s <= CALL_S + 2 * PLACES * pace_s
    assert with_s <= 1.05 * without_s
