"""Settlement: what is acked, what is given back, and on which channel."""

from collections.abc import Callable
from concurrent.futures import Future

import dramatiq
import pytest

from bridge.delivery import Delivery, settle_when
from gateway.errors import ConnectionLost
from gateway.messages import Job, Request
from middleware.attempt import Outcome, attempt_of


class Channel:
    """Records what is settled, as pika's channel would send it."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.is_open = is_open
        self.sent: list[tuple[str, int]] = []

    def basic_ack(self, delivery_tag: int) -> None:
        self.sent.append(("ack", delivery_tag))

    def basic_nack(self, delivery_tag: int, *, requeue: bool) -> None:
        self.sent.append(("requeue" if requeue else "drop", delivery_tag))


class Source:
    """A consumer whose connection thread is this one."""

    def __init__(self) -> None:
        self.done: list[Delivery] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        callback()

    def settled(self, delivery: Delivery) -> None:
        self.done.append(delivery)


def deliver(channel: Channel, tag: int = 7) -> Delivery:
    job = Job(request=Request(request_id="r-1", prompt="Hello", callback_queue="q"), received_at=0.0)
    message: dramatiq.Message[None] = dramatiq.Message("gemini.generate", "generate", (job,), {}, {})
    return Delivery(message, source=Source(), channel=channel, tag=tag)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_delivery_with_a_confirmed_outcome_is_acked(outcome: Outcome):
    """Each outcome means that RabbitMQ holds what follows from the delivery."""
    delivery = deliver(channel := Channel())
    attempt_of(delivery).outcome = outcome
    delivery.settle()
    assert channel.sent == [("ack", 7)]


def test_a_delivery_without_an_outcome_goes_back_to_its_queue():
    """F20: whatever went wrong, the original is still there."""
    deliver(channel := Channel()).settle()
    assert channel.sent == [("requeue", 7)]


def test_a_failed_message_without_an_outcome_is_not_dropped():
    """Dramatiq's `fail()` would dead-letter it before its error envelope is confirmed."""
    delivery = deliver(channel := Channel())
    delivery.fail()
    delivery.settle()
    assert channel.sent == [("requeue", 7)]


def test_a_delivery_is_settled_once():
    """A second ack of one tag closes the channel."""
    delivery = deliver(channel := Channel())
    delivery.settle()
    attempt_of(delivery).outcome = Outcome.ANSWERED
    delivery.settle()
    assert channel.sent == [("requeue", 7)]


def test_a_tag_of_a_closed_channel_is_never_sent():
    """F5: on the channel after a reconnect the number belongs to another message."""
    delivery = deliver(channel := Channel(is_open=False))
    attempt_of(delivery).outcome = Outcome.ANSWERED
    delivery.settle()
    assert channel.sent == []


@pytest.mark.parametrize(
    ("error", "sent"), [(None, ("ack", 3)), (ConnectionLost("gone", queue="gemini.generate.dead"), ("requeue", 3))]
)
def test_a_foreign_message_is_acked_when_its_dead_copy_is_confirmed(error: Exception | None, sent: tuple[str, int]):
    """F3: moving is copying, then removing."""
    copied: Future[None] = Future()
    copied.set_exception(error) if error else copied.set_result(None)
    settle_when(copied, source=Source(), channel=(channel := Channel()), tag=3)
    assert channel.sent == [sent]
