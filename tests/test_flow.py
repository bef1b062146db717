"""One delivery of `generate` through all hooks: what is called, published, stored and settled."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from actors.broker import MIDDLEWARE, stopping
from bridge.delivery import Delivered
from gateway.errors import (
    AuthenticationFailed,
    ConfirmTimeout,
    ErrorCode,
    InvalidMessage,
    Nacked,
    RateLimited,
    RequestRejected,
    TooLarge,
    Unroutable,
    UpstreamFailed,
)
from gateway.messages import Caller, Failure, Reply
from gateway.schedule import CLIENT_MAX_ATTEMPTS
from middleware.attempt import Parking
from tests.world import Channel, World, completion, delivery, job, world

LIMITED = RateLimited("HTTP 429", reason="http_429", status=429, retry_after_s=30.0)
REFUSED = AuthenticationFailed("HTTP 402: no credit", reason="openrouter_credits", status=402, is_named=True)
BROKEN = UpstreamFailed("HTTP 503: overloaded", reason="http_503", status=503)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def test_the_order_of_the_middleware_is_pinned():
    """Each position has its reason in actors/broker.py; a change there is a decision."""
    assert [type(m).__name__ for m in MIDDLEWARE] == [
        "Keeper",
        "Process",
        "Heartbeat",
        "Boot",
        "LogContext",
        "Tracing",
        "Usage",
        "Callbacks",
        "HeldReplies",
        "PublisherReady",
        "Ledger",
        "RetrySchedule",
        "Wanted",
        "Costs",
        "Cooldown",
        "KeySelection",
    ]


def test_an_answered_request_is_published_once_and_acked(here: World):
    """The envelope goes out with the id of the request, then the delivery is acked."""
    assert here.deliver(here.message(job())) == ("ack",)
    (envelope,) = here.publisher.to("gemini.responses")
    assert envelope["content"] == "An answer."
    assert envelope["metadata"] == {"n": 1}
    assert here.publisher.sent[0][2].correlation_id == "r-1"


def test_an_id_that_is_too_long_for_a_property_is_in_the_envelope(here: World):
    """A rejected request may have an id of any length; without the property its envelope still goes out."""
    long_id = "ü" * 200
    failure = Failure.of(InvalidMessage("no"), request_id=long_id, processing_time_ms=0)
    reply = Reply.of(failure, queue="answers", work_id="w")
    assert here.deliver(dramatiq.Message("gemini.callbacks", "publish_error", (reply,), {}, {})) == ("ack",)
    (_, _, properties), (envelope,) = here.publisher.sent[0], here.publisher.to("answers")
    assert (properties.correlation_id, envelope["request_id"]) == (None, long_id)


def test_keys_take_turns(here: World):
    """Round robin over all keys."""
    for number in range(4):
        here.deliver(here.message(job(number)))
    assert here.provider.calls[:2] == here.provider.calls[2:]
    assert len(set(here.provider.calls)) == 2


def test_a_redelivery_of_answered_work_makes_no_call_and_no_second_envelope(here: World):
    """F44: the crash came between the confirm and the ack."""
    message = here.message(job())
    here.deliver(message)
    assert here.deliver(message) == ("ack",)
    assert len(here.provider.calls) == 1
    assert len(here.publisher.sent) == 1


def relayed(message: dramatiq.Message[Any]) -> dramatiq.Message[Any]:
    """The request of this message, as it is relayed when RabbitMQ delivers it again: under another name."""
    (first,) = message.args
    now = {"redelivered": True, "received_at": time.time()}
    return dramatiq.Message(message.queue_name, "generate", (first.model_copy(update=now),), {}, {})


def test_a_request_that_comes_again_after_its_envelope_gets_no_second_one(here: World):
    """F44: the crash, or a lost connection, came between the confirm and the ack."""
    message = here.message(job())
    here.deliver(message)
    assert here.deliver(relayed(message)) == ("ack",)
    assert len(here.provider.calls) == 1
    assert len(here.publisher.sent) == 1


@pytest.mark.parametrize("ending", ["success", "error"])
def test_a_request_that_comes_again_long_after_its_envelope_is_another_one(
    here: World, monkeypatch: pytest.MonkeyPatch, ending: str
):
    """It was sent again, fetched, and never started: somebody waits for it. The copy has the same message id."""
    monkeypatch.setattr("middleware.ledger.LOST_ACK_S", -1.0)
    here.provider.script = [RequestRejected("HTTP 400", reason="http_400", status=400)] if ending == "error" else []
    message = here.message(job(received_at=time.time()))
    here.deliver(message)
    assert here.deliver(relayed(message)) == ("ack",)
    assert len(here.provider.calls) == 1
    first, second = here.publisher.sent
    assert (first[1], first[2].message_id) == (second[1], second[2].message_id)


def test_a_delivery_that_rabbitmq_has_back_is_not_started(here: World):
    """Its connection has ended while it waited for a thread: whoever gets it next does what is to be done."""
    channel = Channel()
    delivered = Delivered(here.message(job()), delivery(channel))
    channel.is_open = False
    here.run(delivered)
    assert (here.provider.calls, here.publisher.sent, channel.sent) == ([], [], [])


def test_a_paid_answer_that_cannot_be_told_is_an_internal_error(here: World, monkeypatch: pytest.MonkeyPatch):
    """Given back, it would be paid for again at every delivery."""
    monkeypatch.setattr("middleware.retry_schedule.Success.of", lambda *_args, **_named: 1 / 0)
    assert here.deliver(here.message(job())) == ("ack",)
    (envelope,) = here.publisher.to("gemini.responses")
    assert envelope["error_code"] == "internal"
    assert len(here.provider.calls) == 1


def test_a_request_that_comes_again_leaves_it_to_its_copy_that_waits(here: World):
    """F21: the ack was lost, and the copy is confirmed in its delay queue."""
    here.provider.script = [BROKEN]
    message = here.message(job())
    here.deliver(message)
    assert here.deliver(relayed(message)) == ("ack",)
    assert len(here.provider.calls) == 1
    (copy,) = here.copies("gemini.generate.backoff.2s")
    assert here.deliver(copy) == ("ack",)
    assert len(here.publisher.to("gemini.responses")) == 1


def test_a_copy_that_waits_leaves_it_to_the_request_that_was_answered_again(
    here: World, monkeypatch: pytest.MonkeyPatch
):
    """F21: the crash came between the confirmed copy and its note in the ledger. The request runs as what it was."""
    here.provider.script = [BROKEN]
    message = here.message(job())
    with monkeypatch.context() as crash:
        crash.setattr(here.stores.ledger, "scheduled", lambda *_args, **_named: None)
        crash.setattr(here.stores.ledger, "abandon", lambda *_args, **_named: None)
        here.deliver(message)
    assert here.deliver(relayed(message)) == ("ack",)
    (copy,) = here.copies("gemini.generate.backoff.2s")
    assert here.deliver(copy) == ("ack",)
    assert len(here.publisher.to("gemini.responses")) == 1
    assert len(here.provider.calls) == 2


def test_an_answer_that_was_stored_but_not_published_is_published_by_the_redelivery(here: World):
    """The crash came between the ledger and RabbitMQ; the stored bytes go out, nothing is called."""
    here.publisher.refuse["gemini.responses"] = [RuntimeError("crash")]
    message = here.message(job())
    assert here.deliver(message) == ("requeue",)
    assert here.deliver(message) == ("ack",)
    assert len(here.provider.calls) == 1
    assert len(here.publisher.to("gemini.responses")) == 1


def test_the_same_request_sent_again_gets_the_same_envelope_again(here: World):
    """Another relay of the same body: paid once, the same message id."""
    here.deliver(here.message(job()))
    here.deliver(here.message(job()))
    first, second = here.publisher.sent
    assert first[1] == second[1]
    assert first[2].message_id == second[2].message_id
    assert len(here.provider.calls) == 1


def test_a_reused_id_with_another_prompt_is_a_request_of_its_own(here: World):
    """S10: never somebody else's answer."""
    here.deliver(here.message(job()))
    other = job().model_copy(update={"request": job().request.model_copy(update={"prompt": "Something else"})})
    here.deliver(here.message(other))
    assert len(here.provider.calls) == 2


def test_a_failed_request_sent_again_gets_another_try(here: World):
    """An error is an answer for a redelivery, not for ever."""
    here.provider.script = [RequestRejected("HTTP 400", reason="http_400", status=400)]
    here.deliver(here.message(job()))
    here.deliver(here.message(job(received_at=time.time() + 1)))
    assert [e["status"] for e in here.publisher.to("gemini.responses")] == ["error", "success"]


@pytest.mark.parametrize("redelivered_first", [True, False])
def test_a_failed_request_that_was_relayed_twice_gets_one_envelope(here: World, redelivered_first: bool):
    """P2, P3: the bridge's ack was lost; whichever copy comes first, the other one gets the same failure."""
    here.provider.script = [RequestRejected("HTTP 400", reason="http_400", status=400)]
    here.deliver(here.message(job(redelivered=redelivered_first)))
    here.deliver(here.message(job(redelivered=not redelivered_first)))
    assert len(here.provider.calls) == 1
    assert len({properties.message_id for _queue, _body, properties in here.publisher.sent}) == 1


def test_a_redelivery_of_failed_work_is_not_tried_again(here: World):
    """F45: one envelope."""
    here.provider.script = [RequestRejected("HTTP 400", reason="http_400", status=400)]
    message = here.message(job())
    here.deliver(message)
    here.deliver(message)
    assert len(here.publisher.sent) == 1


def test_a_429_goes_on_with_the_next_key_at_once(here: World):
    """No wait, no retry counted, and the limited key rests."""
    here.provider.script = [LIMITED]
    here.deliver(here.message(job()))
    assert len(set(here.provider.calls)) == 2
    assert [e["status"] for e in here.publisher.to("gemini.responses")] == ["success"]
    here.deliver(here.message(job(2)))
    assert here.provider.calls[2] == here.provider.calls[1]


def test_when_every_key_is_limited_the_request_waits(here: World):
    """Scheduled: the copy is confirmed in the delay queue, the original acked, no envelope."""
    here.provider.script = [LIMITED, LIMITED]
    assert here.deliver(here.message(job())) == ("ack",)
    (copy,) = here.copies("gemini.generate.delay.60s")
    assert copy.args[0].retry_count == 1
    assert here.publisher.to("gemini.responses") == []


def test_a_scheduled_copy_runs_when_it_comes_back(here: World):
    """Its ledger lease was given back with the wait."""
    here.provider.script = [BROKEN]
    here.deliver(here.message(job()))
    (copy,) = here.copies("gemini.generate.backoff.2s")
    assert here.deliver(copy) == ("ack",)
    assert [e["status"] for e in here.publisher.to("gemini.responses")] == ["success"]


def test_a_wait_that_is_not_confirmed_leaves_the_original(here: World):
    """F20: refused by the delay queue, so it goes back to the work queue."""
    here.provider.script = [BROKEN]
    here.publisher.refuse["gemini.generate.backoff.2s"] = [Nacked("full", queue="gemini.generate.backoff.2s")]
    assert here.deliver(here.message(job())) == ("requeue",)
    assert here.publisher.sent == []


def test_a_confirm_that_is_late_is_waited_for(here: World):
    """F8, F43: the publish is repeated until RabbitMQ answers, the call is not."""
    here.publisher.refuse["gemini.responses"] = [ConfirmTimeout("late", queue="q")] * 3
    assert here.deliver(here.message(job())) == ("ack",)
    assert len(here.provider.calls) == 1
    assert len(here.publisher.to("gemini.responses")) == 1


def test_a_refused_callback_queue_holds_the_finished_reply(here: World):
    """F40, F41: the delivery is done, the reply waits in RabbitMQ, the answer is not paid for again."""
    here.publisher.refuse["gemini.responses"] = [Unroutable("missing", queue="gemini.responses")]
    assert here.deliver(here.message(job())) == ("ack",)
    (held,) = here.copies("gemini.callbacks.delay.5s")
    assert held.actor_name == "publish_success"
    assert isinstance(held.args[0], Reply)
    assert here.deliver(held) == ("ack",)
    assert [e["status"] for e in here.publisher.to("gemini.responses")] == ["success"]
    assert len(here.provider.calls) == 1


def test_an_answer_that_is_larger_than_rabbitmq_takes_is_an_error(here: World):
    """F72: no queue takes it, now or later: the producer hears of it, without what may be so large."""
    here.publisher.refuse["gemini.responses"] = [TooLarge("17000000 bytes", queue="gemini.responses")]
    assert here.deliver(here.message(job())) == ("ack",)
    (envelope,) = here.publisher.to("gemini.responses")
    assert (envelope["request_id"], envelope["error_code"]) == ("r-1", "callback_refused")
    assert "max_message_size" in envelope["error"]
    assert "metadata" not in envelope
    assert here.deliver(here.message(job())) == ("ack",)
    assert len(here.provider.calls) == 1


def test_an_answer_that_is_too_large_to_be_held_is_an_error(here: World):
    """F72: a held reply is larger than its envelope."""
    here.publisher.refuse["gemini.responses"] = [Unroutable("missing", queue="gemini.responses")] * 2
    here.publisher.refuse["gemini.callbacks.delay.5s"] = [TooLarge("17000000 bytes", queue="gemini.callbacks")]
    assert here.deliver(here.message(job())) == ("ack",)
    (held,) = here.copies("gemini.callbacks.delay.5s")
    assert held.actor_name == "publish_error"


def test_a_request_that_is_too_large_to_wait_is_an_error(here: World):
    """F72: as a message of ours it is a little larger than it came."""
    here.provider.script = [BROKEN]
    here.publisher.refuse["gemini.generate.backoff.2s"] = [TooLarge("17000000 bytes", queue="gemini.generate")]
    assert here.deliver(here.message(job())) == ("ack",)
    (envelope,) = here.publisher.to("gemini.responses")
    assert envelope["error_code"] == "invalid_request"


def test_a_reply_that_is_refused_for_a_day_is_kept_for_an_operator(here: World):
    """F41: the dead queue has the envelope and the reason."""
    here.publisher.refuse["gemini.responses"] = [Nacked("full", queue="gemini.responses")] * 99
    here.deliver(here.message(job()))
    for _ in range(99):
        if here.publisher.to("gemini.generate.dead"):
            break
        assert here.deliver(here.copies(here.publisher.sent[-1][0])[-1]) == ("ack",)
    (dead,) = here.copies("gemini.generate.dead")
    assert "An answer." in dead.args[0].body
    assert here.publisher.sent[-1][2].headers["x-error-code"] == "callback_refused"
    assert here.publisher.sent[-1][2].headers["x-attempts"] > 20
    assert len(here.provider.calls) == 1


CLIENT = Caller(correlation_id="as it came", waits=True)


def test_the_correlation_id_comes_back_as_it_came(here: World):
    """K5: in the answer, after a wait, and from the ledger; else it is the id of the request."""
    here.provider.script = [BROKEN]
    here.deliver(here.message(job(caller=CLIENT)))
    (copy,) = here.copies("gemini.generate.backoff.2s")
    here.deliver(copy)
    here.deliver(here.message(job(caller=CLIENT)))
    here.deliver(here.message(job(2)))
    here.deliver(here.message(job(3, caller=Caller.of(b"\xff\x00", waits=True))))
    answers = [properties for queue, _body, properties in here.publisher.sent if queue == "gemini.responses"]
    assert [one.correlation_id for one in answers] == ["as it came", "as it came", "r-2", b"\xff\x00"]


def test_a_reply_to_a_client_makes_no_queue_and_is_dead_after_few_tries(here: World):
    """K5, row 18: nobody else can make its queue, and for an operator it says what has happened."""
    here.publisher.refuse["gemini.responses"] = [Unroutable("missing", queue="gemini.responses")] * 99
    here.deliver(here.message(job(caller=CLIENT)))
    for tries in range(1, 10):
        (held,) = here.copies("gemini.callbacks.delay.5s")[tries - 1 :]
        assert held.args[0].caller == CLIENT
        assert here.deliver(held) == ("ack",)
        if here.publisher.to("gemini.generate.dead"):
            break
    assert tries == CLIENT_MAX_ATTEMPTS - 1
    assert not here.copies("gemini.callbacks.delay.60s")
    headers = here.publisher.sent[-1][2].headers
    assert headers["x-reason"] == "the client that waits for the reply is gone"
    assert here.publisher.may_make["gemini.responses"] == {False}
    assert len(here.provider.calls) == 1


def test_a_client_whose_queue_is_full_has_a_day(here: World):
    """It is there, and will read."""
    here.publisher.refuse["gemini.responses"] = [Nacked("full", queue="gemini.responses")] * 2
    here.deliver(here.message(job(caller=CLIENT)))
    here.deliver(here.copies("gemini.callbacks.delay.5s")[0])
    assert len(here.copies("gemini.callbacks.delay.60s")) == 1


def test_refused_keys_answer_with_an_authentication_error(here: World):
    """Every key was tried once; the next request is answered without a call."""
    here.provider.script = [REFUSED, REFUSED]
    here.deliver(here.message(job()))
    here.deliver(here.message(job(2)))
    first, second = here.publisher.to("gemini.responses")
    assert first["error"].startswith("Authentication error: ")
    assert first["error_code"] == second["error_code"] == ErrorCode.AUTHENTICATION
    assert len(here.provider.calls) == 2


def test_an_unexpected_exception_is_tried_again_then_answered(here: World):
    """A bug of ours loses nothing and says nothing of the prompt."""
    bug = RuntimeError("canary-prompt")
    here.provider.script = [bug]
    here.deliver(here.message(job(upstream_retries=3)))
    (envelope,) = here.publisher.to("gemini.responses")
    assert (envelope["error"], envelope["error_code"]) == ("Internal error", "internal")


def test_a_stopping_worker_starts_nothing(here: World):
    """F50: the delivery goes back, no key is used, nothing is called."""
    stopping.set()
    assert here.deliver(here.message(job())) == ("requeue",)
    assert here.provider.calls == []


def test_a_call_that_runs_while_the_worker_stops_is_still_answered(here: World):
    """The drain covers everything up to the ack."""
    here.provider.during = stopping.set
    assert here.deliver(here.message(job())) == ("ack",)
    assert [e["status"] for e in here.publisher.to("gemini.responses")] == ["success"]


def test_no_call_is_started_while_answers_cannot_be_published(here: World):
    """F42: what cannot be delivered is not paid for."""
    here.publisher.ready = False
    looks: list[Parking] = []

    def on_parked(parking: Parking) -> None:
        assert here.provider.calls == []
        looks.append(parking)
        here.publisher.ready = len(looks) == 3

    here.on_parked = on_parked
    assert here.deliver(here.message(job())) == ("ack",)
    assert all(parking.keeps_room for parking in looks)
    assert len(here.provider.calls) == 1


def test_a_request_that_makes_no_call_uses_no_place_in_the_window(tmp_path: Path):
    """A lease that was taken for a stopping worker is given back whole."""
    with world(tmp_path, OPENROUTER_API_KEYS="sk-or-v1-key-one-1111", KEYS_MAX_PER_MINUTE="1") as here:
        lease = here.pool.acquire("google/gemini-2.5-flash")
        here.pool.cancel(lease)
        here.deliver(here.message(job()))
        assert len(here.provider.calls) == 1


def test_no_prompt_and_no_answer_is_logged_at_debug(here: World, caplog: pytest.LogCaptureFixture):
    """P4: Dramatiq logs whole messages at DEBUG; ours print as their request id."""
    caplog.set_level("DEBUG")
    here.provider.script = [BROKEN, completion("canary-answer")]
    here.deliver(here.message(job()))
    here.deliver(here.copies("gemini.generate.backoff.2s")[0])
    text = caplog.text
    assert "r-1" in text
    assert "canary-prompt" not in text
    assert "canary-answer" not in text
    assert "sk-or-v1" not in text
