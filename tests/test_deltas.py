"""Partial answers of a delivery: what goes out while the model speaks, and that nothing else changes by it."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from actors.broker import partial_answers, resources
from gateway.errors import (
    ConnectionLost,
    ErrorCode,
    Nacked,
    PublishError,
    RateLimited,
    StoreUnavailable,
    Unroutable,
    Unwanted,
    UpstreamFailed,
)
from gateway.messages import Caller, Job, Parameters
from gateway.providers.deadlines import Call
from gateway.providers.live import Listener
from middleware.deltas import LONGEST_CHARS
from middleware.stream_cancels import StreamCancels
from tests.world import World, completion, job, world

QUEUE = "gemini.responses"
LIMITED = RateLimited("HTTP 429", reason="http_429", status=429, retry_after_s=30.0)
BROKEN = UpstreamFailed("A stream that breaks off", reason="broken_answer", status=200)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.provider.speak = saying("An ", "answer.")
        yield made


def saying(*texts: str) -> Callable[[Listener], None]:
    return lambda listener: [listener.hear(text) for text in texts] and None


def streamed(**fields: Any) -> Job:
    plain = job(**fields)
    return plain.model_copy(update={"request": plain.request.model_copy(update={"stream": True})})


def deltas(here: World) -> list[tuple[int, int, str]]:
    """Those that went out, each as its attempt, number and text."""
    return [(one["attempt"], one["seq"], one["text"]) for one in here.publisher.to(QUEUE) if "seq" in one]


def envelopes(here: World) -> list[str]:
    """Those that went out, by what they say."""
    told = here.publisher.to(QUEUE)
    return [one.get("error_code", one["status"]) for one in told if "seq" not in one]


def test_pieces_go_out_while_the_model_speaks_and_the_envelope_after_them(here: World):
    """Transient, with the correlation of the envelope, and each with an id of its own."""
    asked = streamed(caller=Caller(correlation_id="c-1", waits=True))
    seen: list[int] = []
    here.provider.speak = lambda listener: (
        [(listener.hear(text), seen.append(len(here.publisher.sent))) for text in ("An ", "answer.")] and None
    )
    assert here.deliver(here.message(asked)) == ("ack",)
    assert seen == [1, 2]
    assert here.publisher.to(QUEUE)[0] == {"request_id": "r-1", "attempt": 1, "seq": 0, "text": "An "}
    assert (deltas(here), envelopes(here)) == ([(1, 0, "An "), (1, 1, "answer.")], ["success"])
    first, second, last = (properties for _queue, _body, properties in here.publisher.sent)
    assert [one.type for one in (first, second, last)] == ["gemini.delta", "gemini.delta", "gemini.success"]
    assert [one.delivery_mode for one in (first, second, last)] == [1, 1, 2]
    assert {(one.correlation_id, one.app_id, one.content_type) for one in (first, second, last)} == {
        ("c-1", "gemini-openrouter-worker", "application/json")
    }
    assert len({one.message_id for one in (first, second, last)}) == 3


def test_nobody_listens_to_a_plain_request(here: World):
    """It is called as ever."""
    here.provider.speak = lambda _listener: pytest.fail("somebody listens")
    assert here.deliver(here.message(job())) == ("ack",)
    assert (deltas(here), envelopes(here)) == ([], ["success"])


def test_another_key_after_a_partial_answer_is_another_attempt(here: World):
    """Its pieces count anew."""
    here.provider.script = [LIMITED]
    here.deliver(here.message(streamed()))
    assert [(attempt, seq) for attempt, seq, _ in deltas(here)] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert envelopes(here) == ["success"]


def test_a_retry_after_a_partial_answer_is_another_attempt(here: World):
    """The count goes on through the wait."""
    here.provider.script = [BROKEN]
    here.deliver(here.message(streamed()))
    (copy,) = here.copies("gemini.generate.backoff.2s")
    here.deliver(copy)
    assert [(attempt, seq) for attempt, seq, _ in deltas(here)] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert envelopes(here) == ["success"]


def test_an_answer_off_its_format_is_asked_for_again_although_it_was_told(here: World):
    """What was told of it is void, and the next attempt says so."""
    asked = streamed()
    wanted = Parameters(response_format={"type": "json_object"})
    asked = asked.model_copy(update={"request": asked.request.model_copy(update={"parameters": wanted})})
    here.provider.script = [completion("no JSON"), completion("{}")]
    here.deliver(here.message(asked))
    (copy,) = here.copies("gemini.generate.backoff.2s")
    here.deliver(copy)
    assert {attempt for attempt, _, _ in deltas(here)} == {1, 2}
    assert here.publisher.to(QUEUE)[-1]["content"] == "{}"


@pytest.mark.parametrize("refusal", [Unroutable, Nacked, ConnectionLost])
def test_after_a_piece_that_was_not_taken_there_is_none(
    here: World, refusal: type[PublishError], caplog: pytest.LogCaptureFixture
):
    """The call goes on, and its envelope goes out; nothing is held, and no text is in the log."""
    here.provider.speak = saying("canary-text", "canary-text", "canary-text")
    here.publisher.refuse[QUEUE] = [refusal("no", queue=QUEUE)]
    with caplog.at_level("DEBUG"):
        assert here.deliver(here.message(streamed())) == ("ack",)
    assert (deltas(here), envelopes(here)) == ([], ["success"])
    assert [queue for queue, _body, _properties in here.publisher.sent] == [QUEUE]
    assert "cut off" in caplog.text
    assert "canary" not in caplog.text


def test_another_attempt_may_be_told_after_one_that_was_cut_off(here: World):
    """The queue may be there by then."""
    here.publisher.refuse[QUEUE] = [Unroutable("no", queue=QUEUE)]
    here.provider.script = [LIMITED]
    here.deliver(here.message(streamed()))
    assert [(attempt, seq) for attempt, seq, _ in deltas(here)] == [(2, 0), (2, 1)]


def test_a_long_text_goes_in_pieces(here: World):
    """No piece is larger than what any RabbitMQ takes."""
    here.provider.speak = saying("ü" * (LONGEST_CHARS + 1))
    here.deliver(here.message(streamed()))
    assert [(seq, len(text)) for _, seq, text in deltas(here)] == [(0, LONGEST_CHARS), (1, 1)]


def test_a_redelivery_of_an_answered_request_publishes_the_envelope_alone(here: World):
    """No call, so nobody speaks; whether it was asked for in pieces does not make it another work."""
    here.deliver(here.message(streamed(received_at=time.time())))
    here.deliver(here.message(job(received_at=time.time())))
    assert (len(deltas(here)), envelopes(here)) == (2, ["success", "success"])
    assert len(here.provider.calls) == 1


def until_it_is_ended(here: World) -> Callable[[Listener], None]:
    """Speaks, and goes on until its call is ended from outside."""

    def speak(listener: Listener) -> None:
        listener.hear("An ")
        call = Call(60.0)
        listener.attach(call)
        here.stores.ledger.cancel("r-1")
        while not call.abandoned:
            assert call.remaining_s, "the call was not ended"
            time.sleep(0.001)
        raise Unwanted("Cancelled by its sender", code=ErrorCode.CANCELLED)

    return speak


def test_a_cancel_ends_a_call_that_is_streamed(here: World, monkeypatch: pytest.MonkeyPatch):
    """It is answered as cancelled; no key rests, and no other call is made."""
    monkeypatch.setattr(partial_answers, "_cancels", StreamCancels(resources.ledger, look_every_s=0.01))
    here.provider.speak = until_it_is_ended(here)
    message = here.message(streamed())
    assert here.deliver(message) == ("ack",)
    assert (deltas(here), envelopes(here)) == ([(1, 0, "An ")], ["cancelled"])
    assert here.publisher.to(QUEUE)[-1]["attempts"] == 1
    assert here.deliver(message) == ("ack",)
    assert (len(here.provider.calls), envelopes(here)) == (1, ["cancelled"])
    assert all(status.rest is None for status in here.pool.status())


def test_while_the_ledger_is_away_no_cancel_is_seen_and_the_stream_goes_on():
    """It is asked again; one that is over is not asked for, and no thread is left."""
    answers: list[Any] = [StoreUnavailable("away"), {"r-1"}]
    asked: list[set[str]] = []

    class Away:
        def cancelled(self, request_ids: set[str]) -> set[str]:
            asked.append(request_ids)
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

    cancels = StreamCancels(Away, look_every_s=0.01)  # type: ignore[arg-type]
    call, other = Call(60.0), Call(60.0)
    listener, quiet = Listener(print), Listener(print)
    listener.attach(call)
    quiet.attach(other)
    with cancels.watched("r-1", listener), cancels.watched("r-2", quiet):
        while not call.abandoned:
            assert call.remaining_s
            time.sleep(0.001)
        thread = cancels._thread
    assert not other.abandoned
    assert asked[:2] == [{"r-1", "r-2"}] * 2
    assert thread is not None
    thread.join(60)
    assert (thread.is_alive(), cancels._thread) == (False, None)


def test_a_text_of_a_delta_is_nowhere_but_in_its_body(here: World):
    """P4: not in the stores, and not in a text of the objects."""
    here.provider.speak = saying("canary-delta")
    here.deliver(here.message(streamed()))
    queue, body, properties = here.publisher.sent[0]
    assert (queue, json.loads(body)["text"]) == (QUEUE, "canary-delta")
    assert "canary" not in repr(properties)
    stored = b"".join(path.read_bytes() for path in here.settings.state_path.parent.iterdir() if path.is_file())
    assert b"canary-delta" not in stored
    assert isinstance(properties, pika.BasicProperties)
