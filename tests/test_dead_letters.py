"""The properties of a dead letter: whatever the sender called himself, RabbitMQ takes them."""

from typing import Any

import pika
import pytest
from pika import spec

from gateway.errors import ErrorCode
from gateway.rabbitmq.dead_letters import LONGEST_TEXT, MOST_HEADERS, as_it_came, dead_letter


@pytest.mark.parametrize("request_id", ["x" * 300, "ü🦔" * 100, "\ud800" * 100, "a\nb", ""])
def test_any_request_id_has_a_wire_form(request_id: str):
    """AMQP's short strings end at 255 bytes: a letter that cannot be written would come back for ever."""
    properties = dead_letter(
        reason="\ud800" * 400, code=ErrorCode.INVALID_REQUEST, source="gemini.requests", request_id=request_id
    )
    assert b"".join(properties.encode())


def test_it_says_why_since_when_and_after_how_many_attempts():
    properties = dead_letter(
        reason="the callback queue refused the reply at every try",
        code=ErrorCode.CALLBACK_REFUSED,
        source="answers",
        first_seen=1_700_000_000.5,
        attempts=40,
    )
    last = properties.headers.pop("x-last-time")
    assert properties.headers == {
        "x-reason": "the callback queue refused the reply at every try",
        "x-error-code": "callback_refused",
        "x-source-queue": "answers",
        "x-first-time": 1_700_000_000,
        "x-attempts": 40,
    }
    assert last >= 1_700_000_000
    assert properties.delivery_mode == spec.PERSISTENT_DELIVERY_MODE


def kept(**properties: Any) -> pika.BasicProperties:
    """What comes back of a sender's properties, by way of AMQP's own form of a letter."""
    letter = dead_letter(reason="no", code=ErrorCode.INTERNAL, source="q", sender=pika.BasicProperties(**properties))
    read = pika.BasicProperties()
    read.decode(b"".join(letter.encode()))
    found = as_it_came(read.headers)
    assert found is not None
    return found


def test_what_the_sender_has_said_comes_back_as_it_came():
    """His reply queue, his ids, and his own headers."""
    said = {"reply_to": "answers", "correlation_id": "c-1", "message_id": "m-1", "content_type": "application/json"}
    said |= {"content_encoding": "gzip"}  # the body is kept as it came, and cannot be read without it
    found = kept(**said, headers={"tenant": "acme", "trace": 7, "sampled": True})
    assert {name: getattr(found, name) for name in said} == said
    assert found.headers == {"tenant": "acme", "trace": 7, "sampled": True}


@pytest.mark.parametrize(
    "headers",
    [
        {"CC": ["elsewhere"]},
        {"BCC": "elsewhere"},
        {"x-death": [{"count": 1}]},
        {"x-first-death-queue": "q"},
        {"x-delivery-count": 3},
        {"nested": {"a": 1}},
        {"list": [1, 2]},
        {"float": 1.5},
        {"large": 2**63},
        {"long": "x" * (LONGEST_TEXT + 1)},
        {"bytes": b"\xff"},
        {"nothing": None},
    ],
)
def test_nothing_is_kept_that_rabbitmq_would_obey_or_that_is_not_plain(headers: dict[str, Any]):
    """S2: smuggled properties."""
    found = kept(expiration="1", user_id="admin", priority=9, headers={**headers, "kept": 1})
    assert found.headers == {"kept": 1}
    assert (found.expiration, found.user_id, found.priority) == (None, None, None)


@pytest.mark.parametrize(("priority", "again"), [(None, None), (0, None), (1, 1), (3, 3), (4, None), (255, None)])
def test_a_request_of_the_batch_lane_goes_back_as_one(priority: int | None, again: int | None):
    """Where AMQP's property has said so; nobody is made more urgent by it."""
    assert kept(priority=priority).priority == again


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, int(1e300), 0.5, float("nan")])
def test_a_number_that_cannot_be_written_is_not_kept(number: float):
    """RabbitMQ delivers numbers that pika reads and cannot write: their letter would come back for ever."""
    sender = pika.BasicProperties(reply_to="answers", headers={"wide": number, "last": 2**63 - 1, "first": -(2**63)})
    letter = dead_letter(reason="no", code=ErrorCode.INTERNAL, source="q", sender=sender)
    assert letter.headers["x-sender"]["headers"] == {"last": 2**63 - 1, "first": -(2**63)}
    assert b"".join(letter.encode())


def test_the_largest_letter_fits_into_a_frame():
    """AMQP sends all properties of a message in one frame; RabbitMQ's largest is 128 KiB."""
    sender = pika.BasicProperties(
        **dict.fromkeys(("reply_to", "correlation_id", "message_id", "content_type", "type", "app_id"), "x" * 255),
        headers={f"{number:255d}": "x" * LONGEST_TEXT for number in range(100)},
    )
    letter = dead_letter(reason="x" * 600, code=ErrorCode.INTERNAL, source="q" * 255, sender=sender)
    assert len(b"".join(letter.encode())) < 64 * 1024


def test_a_crowd_of_headers_is_kept_in_part():
    """A letter is not larger than a message by much."""
    assert len(kept(headers={f"h-{number}": number for number in range(100)}).headers) == MOST_HEADERS


@pytest.mark.parametrize(
    "said", [None, "text", 7, {"reply_to": 7, "headers": "x"}, {"reply_to": "x" * 256}, {"headers": {"\ud800": 1}}]
)
def test_a_letter_that_somebody_else_has_written_can_be_sent_on(said: object):
    """Whatever stands there: nothing that AMQP could not carry is taken over."""
    found = as_it_came({"x-sender": said})
    if found is not None:
        assert found.reply_to is None
        assert b"".join(found.encode())
