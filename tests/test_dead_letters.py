"""The properties of a dead letter: whatever the sender called himself, RabbitMQ takes them."""

import pytest
from pika import spec

from gateway.errors import ErrorCode
from gateway.rabbitmq.dead_letters import dead_letter


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
