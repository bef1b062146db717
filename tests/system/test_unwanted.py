"""Deadlines and cancels: nothing is called, and nothing paid, for an answer that nobody waits for any more."""

import json
import signal
import time
from datetime import UTC, datetime

import pytest

from dev.redis import empty
from dev.stack import Stack
from dev.waiting import wait_until
from fake_openrouter.client import FakeClient
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

#: Longer than any test waits: who is answered before was not waited for by these.
NEVER_S = 3600


def ask(stack: Stack, name: str, **fields: object) -> None:
    stack.publish({"request_id": name, "prompt": f"Question of {name}", **fields})


def cancel(stack: Stack, name: str) -> None:
    stack.publish({"cancel": name})


def wait_for_mark(stack: Stack, count: int = 1) -> None:
    """Return when so many cancels are in the ledger."""
    stack.processes[0].wait_for_output("Cancelled by its sender, if", count=count)


def outcomes(stack: Stack, count: int) -> list[tuple[str, str]]:
    """Who is answered, and how, in the order of the envelopes."""
    answers = stack.answers(count)
    return [(answer["request_id"], answer.envelope.get("error_code", "success")) for answer in answers]


def rest_every_key(stack: Stack, fake: FakeClient) -> None:
    """The first call of the test is told to come back in an hour."""
    fake.script([{"status": 429, "headers": {"Retry-After": str(NEVER_S)}, "times": 1}])
    ask(stack, "limited")
    stack.processes[0].wait_for_output("Waiting up to")


def clear_the_key(stack: Stack) -> None:
    """As an operator does: whoever waits for a key has it now."""
    assert stack.start("keys", "exec python -m console keys --offline --clear 1111").wait(60) == 0


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings for each store."""
    if request.param == "sqlite":
        return {}
    empty(url := request.getfixturevalue("redis_url"))  # of the rests and marks of other tests
    return {"REDIS_URL": url}


def test_with_every_key_resting_a_request_expires_at_its_deadline_and_not_before(make_stack: MakeStack):
    """The one that was sent later, and may wait less long, ends first; no delay queue is as short. No call."""
    stack, fake = make_stack(QUEUE_RETRY_DELAYS=NEVER_S)
    stack.start_worker()
    rest_every_key(stack, fake)
    ask(stack, "patient", expires_in_s=5)
    ask(stack, "hasty", expires_in_s=2.5)
    hasty, patient = stack.answers(2)
    assert [(one["request_id"], one["error_code"]) for one in (hasty, patient)] == [
        ("hasty", "expired"),
        ("patient", "expired"),
    ]
    assert hasty["processing_time_ms"] >= 2500
    assert patient["processing_time_ms"] >= 5000
    assert len(fake.calls()) == 1


def test_while_keys_are_short_deadlines_are_kept_too(make_stack: MakeStack):
    """New requests stay in their queue then, but for the first ones: their deadlines are looked at."""
    stack, fake = make_stack(per_minute=1, window=50.0)
    stack.start_worker()
    ask(stack, "served")
    assert outcomes(stack, 1) == [("served", "success")]
    for name in ("first", "second", "third"):
        ask(stack, name, expires_in_s=1)
    assert sorted(outcomes(stack, 3)) == [("first", "expired"), ("second", "expired"), ("third", "expired")]
    assert len(fake.calls()) == 1


def test_a_key_that_is_free_before_the_deadline_is_used(make_stack: MakeStack):
    """The shortest wait is longer than the test; whoever waits here is handed out with the key."""
    stack, _fake = make_stack(per_minute=1, window=2.0, QUEUE_RETRY_DELAYS=NEVER_S)
    stack.start_worker()
    for name in ("first", "second", "third"):
        ask(stack, name, expires_in_s=50)
    assert sorted(outcomes(stack, 3)) == [("first", "success"), ("second", "success"), ("third", "success")]


def test_a_call_ends_with_the_deadline_of_its_request(make_stack: MakeStack):
    """Long before REQUEST_TIMEOUT_SECONDS; it is not made again."""
    stack, fake = make_stack(UPSTREAM_RETRY_DELAYS="0.1")
    fake.script([{"gate": "held"}])
    stack.start_worker()
    ask(stack, "slow", expires_in_s=2)
    assert outcomes(stack, 1) == [("slow", "expired")]
    assert len(fake.calls()) == 1


def test_a_deadline_outlives_the_worker_that_has_read_it(make_stack: MakeStack):
    """It is a time, and what waits in RabbitMQ carries it: the next worker has a key, and makes no call."""
    stack, fake = make_stack(QUEUE_RETRY_DELAYS="1,3600")
    worker = stack.start_worker()
    rest_every_key(stack, fake)
    expired_at = time.time() + 10
    ask(stack, "late", expires_at=datetime.fromtimestamp(expired_at, UTC).isoformat())
    worker.wait_for_output("[late] Waiting up to")
    worker.signal_group(signal.SIGKILL)
    worker.wait()
    clear_the_key(stack)
    wait_until(lambda: time.time() > expired_at, what="the deadline")
    stack.start_worker()
    assert sorted(outcomes(stack, 2)) == [("late", "expired"), ("limited", "success")]
    assert len(fake.calls()) == 2


def test_a_request_that_is_queued_behind_a_busy_worker_is_cancelled(make_stack: MakeStack, store: dict[str, str]):
    """A cancel in its own queue overtakes those that wait for their turn; in theirs it has its place among them."""
    stack, fake = make_stack(WORKER_THREADS=1, **store)
    fake.script([{"gate": "held", "times": 1}])
    stack.start_worker()
    ask(stack, "running")
    fake.wait_for_calls(1)
    ask(stack, "queued")
    ask(stack, "late")
    cancel(stack, "late")
    stack.put("gemini.cancels", json.dumps({"cancel": "queued"}).encode())
    wait_for_mark(stack)
    fake.open_gate("held")
    assert outcomes(stack, 3) == [("running", "success"), ("queued", "cancelled"), ("late", "success")]
    assert len(fake.calls()) == 2


def test_a_request_that_waits_in_a_delay_queue_is_cancelled_at_the_end_of_its_wait(make_stack: MakeStack):
    """No key is free that it could be released early for."""
    stack, fake = make_stack(QUEUE_RETRY_DELAYS=2, QUEUE_MAX_RETRIES=1000)
    stack.start_worker()
    rest_every_key(stack, fake)
    ask(stack, "waiting")
    stack.processes[0].wait_for_output("[waiting] Waiting up to 2 s")
    cancel(stack, "waiting")
    assert outcomes(stack, 1) == [("waiting", "cancelled")]
    assert len(fake.calls()) == 1


def test_a_request_that_is_released_early_is_cancelled_and_leaves_its_key_to_others(
    make_stack: MakeStack, store: dict[str, str]
):
    """It goes to its wait's end, in a day, only where no key is free before."""
    stack, fake = make_stack(**store)
    stack.start_worker()
    rest_every_key(stack, fake)
    for name in ("waiting", "other"):
        ask(stack, name)
        stack.processes[0].wait_for_output(f"[{name}] Waiting up to")
    cancel(stack, "waiting")
    wait_for_mark(stack)
    clear_the_key(stack)
    assert sorted(outcomes(stack, 3)) == [("limited", "success"), ("other", "success"), ("waiting", "cancelled")]
    assert len(fake.calls()) == 3  # the first of which was limited


def test_a_cancel_is_read_while_no_key_is_free(make_stack: MakeStack):
    """New requests stay in their queue then, but for the first ones: a cancel among these is not kept waiting."""
    stack, fake = make_stack(per_minute=1, window=50.0)
    stack.start_worker()
    ask(stack, "served")
    assert outcomes(stack, 1) == [("served", "success")]
    ask(stack, "watched", expires_in_s=10)
    cancel(stack, "watched")
    wait_for_mark(stack)
    assert outcomes(stack, 1) == [("watched", "cancelled")]
    assert len(fake.calls()) == 1


def test_a_request_in_mid_call_is_answered_as_it_comes(make_stack: MakeStack, store: dict[str, str]):
    """It is paid for. The cancel of what is answered, or of nothing, does no harm."""
    stack, fake = make_stack(**store)
    fake.script([{"gate": "held", "times": 1}])
    stack.start_worker()
    ask(stack, "running")
    fake.wait_for_calls(1)
    for name in ("running", "unknown"):
        cancel(stack, name)
    wait_for_mark(stack, 2)
    fake.open_gate("held")
    assert outcomes(stack, 1) == [("running", "success")]
    cancel(stack, "running")
    wait_for_mark(stack, 3)
    ask(stack, "running")  # the same request again: it was answered, and has the answer
    ask(stack, "next")
    assert sorted(outcomes(stack, 2)) == [("next", "success"), ("running", "success")]
    assert len(fake.calls()) == 2
    assert stack.depth("gemini.responses") == 0


def test_a_cancel_that_comes_before_its_request_counts(make_stack: MakeStack, store: dict[str, str]):
    """Over another way the request may be the slower one; the mark outlives the worker."""
    stack, fake = make_stack(**store)
    worker = stack.start_worker()
    cancel(stack, "early")
    wait_for_mark(stack)
    worker.terminate()
    worker.wait(60)
    stack.start_worker()
    ask(stack, "early")
    ask(stack, "other")
    assert sorted(outcomes(stack, 2)) == [("early", "cancelled"), ("other", "success")]
    assert len(fake.calls()) == 1


def test_the_relay_in_a_process_of_its_own_relays_cancels(make_stack: MakeStack):
    """It has no ledger, and no keys."""
    stack, fake = make_stack()
    stack.start_bridge()
    cancel(stack, "early")
    stack.wait_for_depth("gemini.cancels", 1)
    stack.processes[0].terminate()
    stack.processes[0].wait(60)
    stack.start_worker()
    stack.processes[1].wait_for_output("Cancelled by its sender, if")
    ask(stack, "early")
    assert outcomes(stack, 1) == [("early", "cancelled")]
    assert fake.calls() == []
