"""Until when an answer is wanted, by what body and properties say."""

from typing import Any

import pika
import pytest

from bridge.expiry import expires_at
from gateway.messages import Request

NOW = 1_767_225_600.5  # half a second past 2026-01-01T00:00:00Z


def deadline(properties: dict[str, Any] | None = None, **fields: Any) -> float | None:
    request = Request(request_id="r-1", prompt="Hello", callback_queue="q", **fields)
    return expires_at(request, pika.BasicProperties(**(properties or {})), received_at=NOW)


def test_a_request_that_says_nothing_has_no_deadline():
    """As ever."""
    assert deadline() is None
    assert deadline({"timestamp": int(NOW)}) is None


def test_a_time_is_taken_as_it_is():
    """Whatever its zone, and however long the request was on its way."""
    assert deadline({"timestamp": 1}, expires_at="2026-01-01T01:00:10+01:00") == NOW + 9.5


def test_a_duration_counts_from_when_the_message_was_sent():
    """Its time in the queue counts. The property has whole seconds, and the benefit of the doubt is the sender's."""
    assert deadline({"timestamp": int(NOW) - 20}, expires_in_s=60) == int(NOW) - 20 + 1 + 60


@pytest.mark.parametrize("sent", [None, 0, int(NOW), int(NOW * 1000)])
def test_without_a_time_in_the_past_it_counts_from_when_the_request_was_read(sent: int | None):
    """What is sent within this second was sent now at the latest; a time in milliseconds is one to come."""
    assert deadline({"timestamp": sent}, expires_in_s=2.5) == NOW + 2.5


def test_the_time_to_live_of_the_message_goes_on_when_it_has_left_its_queue():
    """RabbitMQ counts it no longer then."""
    assert deadline({"expiration": "60000"}) == NOW + 60
    assert deadline({"expiration": "60000", "timestamp": int(NOW) - 20}) == int(NOW) - 20 + 1 + 60


@pytest.mark.parametrize("expiration", ["0", "", "soon", "-5", "9" * 400])
def test_a_time_to_live_that_says_nothing_is_no_deadline(expiration: str):
    """With 0 it was to be delivered at once or not at all, and it was delivered."""
    assert deadline({"expiration": expiration}) is None


def test_the_earliest_deadline_counts():
    """Whoever has set them, nobody waits beyond it."""
    assert deadline({"expiration": "3000"}, expires_in_s=2, expires_at="2027-01-01T00:00:00Z") == NOW + 2
    assert deadline({"expiration": "1000"}, expires_in_s=2) == NOW + 1
