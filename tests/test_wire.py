"""The wire form of our messages, and what is no message of ours."""

import json

import dramatiq
import pytest
from dramatiq.errors import DecodeError

from bridge.wire import StrictEncoder, callback_message
from gateway.messages import Failure, GatewayError, Job, Reply, Request
from gateway.rabbitmq.topology import CALLBACKS, WORK

JOB = Job(request=Request(request_id="r-1", prompt="Grüße 🎉", callback_queue="q"), received_at=1.5, retry_count=2)
REPLY = Reply.of(
    Failure.of(GatewayError("no"), request_id="r-1", processing_time_ms=1), queue="gemini.responses", work_id="w"
)


def wire(**changes: object) -> bytes:
    message: dramatiq.Message[None] = dramatiq.Message("gemini.generate", "generate", (JOB,), {}, {}, "m-1", 17)
    return json.dumps({**json.loads(StrictEncoder().encode(message.asdict())), **changes}).encode()


@pytest.mark.parametrize(
    ("queue", "actor", "argument"),
    [(WORK, "generate", JOB), (CALLBACKS, "publish_success", REPLY), (CALLBACKS, "publish_error", REPLY)],
)
def test_a_message_survives_the_wire(queue: str, actor: str, argument: Job | Reply):
    """Models go out as JSON and come back as models."""
    message: dramatiq.Message[None] = dramatiq.Message(queue, actor, (argument,), {}, {})
    assert StrictEncoder().read(StrictEncoder().encode(message.asdict()), queue=queue) == message


def test_a_message_from_before_there_were_partial_answers_asks_for_none():
    """Old and new workers run side by side, and read each other's messages."""
    old = json.loads(wire())
    del old["args"][0]["request"]["stream"]
    message = StrictEncoder().read(json.dumps(old).encode(), queue=WORK)
    assert message.args[0].request.stream is False
    asked = JOB.model_copy(update={"request": JOB.request.model_copy(update={"stream": True})})
    newer = StrictEncoder().read(wire(args=[asked.model_dump(mode="json")]), queue=WORK)
    assert newer.args[0].request.stream is True


def test_options_of_an_incoming_message_are_dropped():
    """F3: Dramatiq would obey a forged `on_success`, `max_retries` or `eta`."""
    forged = wire(options={"on_success": "generate", "max_retries": 10**9, "eta": 1}, kwargs={"x": 1})
    message = StrictEncoder().read(forged, queue="gemini.generate")
    assert (message.options, message.kwargs) == ({}, {})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        wire(actor_name="os.system"),
        wire(actor_name=None),
        wire(args=[]),
        wire(args=[{}, {}]),
        wire(args=["text"]),
        wire(args=None),
        wire(args=[{"v": 99}]),
        wire(message_id=7),
        wire(message_id="x" * 65),
        wire(message_timestamp="soon"),
        wire(queue_name="gemini.callbacks"),
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_no_message_of_ours_is_a_decode_error(body: bytes):
    """F3: it reaches no worker thread."""
    with pytest.raises(DecodeError) as caught:
        StrictEncoder().read(body, queue="gemini.generate")
    assert caught.value.data == b""


def test_a_decode_error_names_fields_and_quotes_nothing():
    """The reason goes into a header and a log line."""
    with pytest.raises(DecodeError) as caught:
        StrictEncoder().read(wire(args=[{"request": {"prompt": ["canary"]}}]), queue="gemini.generate")
    assert "canary" not in str(caught.value)
    assert "prompt" in str(caught.value)


def test_a_message_of_another_queues_actor_is_none_of_ours():
    """F3: a reply in the work queue would be taken for a job."""
    forged = StrictEncoder().encode({**callback_message(REPLY).asdict(), "queue_name": WORK})
    with pytest.raises(DecodeError, match="another queue"):
        StrictEncoder().read(forged, queue=WORK)
