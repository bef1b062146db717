"""Until when somebody waits for the answer to a request, by what its body and its AMQP properties say."""

from collections.abc import Iterator
from datetime import datetime

import pika

from gateway.messages import Request

#: More milliseconds than this, in digits, are no deadline: they are longer than a man lives.
MOST_DIGITS = 15


def expires_at(request: Request, properties: pika.BasicProperties, *, received_at: float) -> float | None:
    """The earliest deadline that is stated, in epoch seconds; None where none is. `received_at` is epoch seconds."""
    return min(_stated(request, properties, received_at), default=None)


def _stated(request: Request, properties: pika.BasicProperties, received_at: float) -> Iterator[float]:
    sent_at = _sent_at(properties, received_at)
    if request.expires_at is not None:
        yield datetime.fromisoformat(request.expires_at).timestamp()
    if request.expires_in_s is not None:
        yield sent_at + request.expires_in_s
    if expiration_ms := _expiration_ms(properties):
        yield sent_at + expiration_ms / 1000


def _sent_at(properties: pika.BasicProperties, received_at: float) -> float:
    """From when durations count: when the message was sent, where its property `timestamp` says so.

    That is in whole seconds, rounded down as a rule; the benefit of the doubt is the producer's. A time to come, such
    as one in milliseconds, is none.
    """
    sent_s = properties.timestamp
    return min(sent_s + 1.0, received_at) if isinstance(sent_s, int) and sent_s > 0 else received_at


def _expiration_ms(properties: pika.BasicProperties) -> int:
    """RabbitMQ takes only digits. With 0 it delivers at once or never: it has delivered, and that says no more."""
    text = properties.expiration
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) <= MOST_DIGITS else 0
