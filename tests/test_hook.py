"""A hook is one generator around a delivery."""

from typing import Any

import dramatiq
import pytest
from dramatiq.broker import MessageProxy

from gateway.errors import InvalidMessage
from gateway.messages import Failure, Reply
from middleware.attempt import Attempt, JobAttempt
from middleware.errors import HookFailed, NoKey
from middleware.hook import Around, Hook, Verdict
from tests.world import job

BROKER: Any = None  # a hook has no use for it


class Noting(Hook[Attempt]):
    """Notes where it is."""

    def __init__(self) -> None:
        self.notes: list[object] = []
        self.fault: Exception | None = None
        self.yields = 1

    def around(self, attempt: Attempt) -> Around:
        self.notes.append(attempt.request_id)
        if self.fault is not None:
            raise self.fault
        for _ in range(self.yields):
            self.notes.append((yield))


class Deciding(Verdict[Attempt]):
    def __init__(self) -> None:
        self.notes: list[object] = []

    def after(self, broker: Any, attempt: Attempt, error: BaseException | None) -> None:
        self.notes.append(error)


class ForJobs(Noting):
    kind = JobAttempt


def a_delivery() -> MessageProxy:
    return MessageProxy(dramatiq.Message("gemini.generate", "generate", (job(),), {}, {}))


def a_held_reply() -> MessageProxy:
    failure = Failure.of(InvalidMessage("no"), request_id="r-1", processing_time_ms=0)
    reply = Reply.of(failure, queue="answers", work_id="w")
    return MessageProxy(dramatiq.Message("gemini.callbacks", "publish_error", (reply,), {}, {}))


@pytest.mark.parametrize("error", [None, ValueError("of the actor"), NoKey("none", retry_in_s=1.0)])
def test_the_second_half_is_sent_what_has_ended_the_attempt(error: Exception | None):
    """None after a success."""
    hook, delivery = Noting(), a_delivery()
    hook.before_process_message(BROKER, delivery)
    hook.after_process_message(BROKER, delivery, exception=error)
    assert hook.notes == ["r-1", error]


def test_the_second_half_runs_once():
    """Dramatiq may say twice that a delivery has ended."""
    hook, delivery = Noting(), a_delivery()
    hook.before_process_message(BROKER, delivery)
    for _ in range(2):
        hook.after_process_message(BROKER, delivery)
    assert hook.notes == ["r-1", None]


def test_a_first_half_that_has_not_run_has_no_second():
    """A hook further up has ended the delivery: there is nothing to undo here."""
    hook = Noting()
    hook.after_process_message(BROKER, a_delivery(), exception=ValueError())
    assert hook.notes == []


def test_deliveries_have_nothing_to_do_with_one_another():
    """One hook runs around many of them at a time."""
    hook, first, second = Noting(), a_delivery(), a_delivery()
    error = ValueError()
    hook.before_process_message(BROKER, first)
    hook.before_process_message(BROKER, second)
    hook.after_process_message(BROKER, first, exception=error)
    hook.after_process_message(BROKER, second)
    assert hook.notes == ["r-1", "r-1", error, None]


def test_a_fault_before_the_actor_fails_the_delivery():
    """Dramatiq lets only a `MiddlewareError` keep the actor from running."""
    hook, delivery = Noting(), a_delivery()
    hook.fault = ValueError("canary")
    with pytest.raises(HookFailed) as failed:
        hook.before_process_message(BROKER, delivery)
    assert failed.value.__cause__ is hook.fault
    assert "canary" not in str(failed.value)
    hook.after_process_message(BROKER, delivery, exception=failed.value)
    assert hook.notes == ["r-1"]


def test_an_error_of_ours_passes_as_it_is():
    """It says what is to become of the delivery."""
    hook = Noting()
    hook.fault = NoKey("none", retry_in_s=1.0)
    with pytest.raises(NoKey) as raised:
        hook.before_process_message(BROKER, a_delivery())
    assert raised.value is hook.fault


def test_a_hook_yields_once():
    """What stands behind a second `yield` would never run."""
    hook, delivery = Noting(), a_delivery()
    hook.yields = 2
    hook.before_process_message(BROKER, delivery)
    with pytest.raises(AssertionError, match="more than once"):
        hook.after_process_message(BROKER, delivery)


def test_a_hook_for_jobs_leaves_held_replies_alone():
    """They need no key, and no ledger."""
    hook = ForJobs()
    for delivery in (a_held_reply(), a_delivery()):
        hook.before_process_message(BROKER, delivery)
        hook.after_process_message(BROKER, delivery)
    assert hook.notes == ["r-1", None]


def test_a_verdict_is_given_once():
    """Dramatiq ends a delivery twice when a hook further up ends it with what is no Exception."""
    verdict, delivery = Deciding(), a_delivery()
    for error in (None, KeyboardInterrupt()):
        verdict.after_process_message(BROKER, delivery, exception=error)
    assert verdict.notes == [None]
