"""Settlement: what is acked, what is given back, and on which channel."""

import dramatiq
import pytest

from bridge.delivery import Delivered
from middleware.attempt import Outcome, attempt_of
from tests.world import Channel, Source, delivery, job


def delivered(channel: Channel) -> Delivered:
    message: dramatiq.Message[None] = dramatiq.Message("gemini.generate", "generate", (job(),), {}, {})
    return Delivered(message, delivery(channel))


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_delivery_with_a_confirmed_outcome_is_acked(outcome: Outcome):
    """Each outcome means that RabbitMQ holds what follows from the delivery."""
    message = delivered(channel := Channel())
    attempt_of(message).outcome = outcome
    message.settle()
    assert channel.sent == ["ack"]


def test_a_delivery_without_an_outcome_goes_back_to_its_queue():
    """F20: whatever went wrong, the original is still there."""
    delivered(channel := Channel()).settle()
    assert channel.sent == ["requeue"]


def test_a_failed_message_without_an_outcome_is_not_dropped():
    """Dramatiq's `fail()` would dead-letter it before its error envelope is confirmed."""
    message = delivered(channel := Channel())
    message.fail()
    message.settle()
    assert channel.sent == ["requeue"]


def test_a_delivery_is_settled_once():
    """A second ack of one tag closes the channel."""
    message = delivered(channel := Channel())
    message.settle()
    attempt_of(message).outcome = Outcome.ANSWERED
    message.settle()
    assert channel.sent == ["requeue"]


def test_a_tag_of_a_closed_channel_is_never_sent():
    """F5: on the channel after a reconnect the number belongs to another message."""
    channel = Channel()
    message = delivered(channel)
    channel.is_open = False
    attempt_of(message).outcome = Outcome.ANSWERED
    message.settle()
    assert channel.sent == []


def test_the_consumer_has_room_again_when_a_delivery_is_settled():
    """Whatever became of it, and before the ack is on its way."""
    source = Source()
    one = delivery(Channel(), source=source)
    one.settle(confirmed=True)
    assert source.gone == [one]


def test_what_is_given_back_later_takes_its_room_until_then():
    """Else more would be fetched, and refused, for as long as the first ones rest."""
    source = Source()
    source.call_soon = lambda call, *, after_s=0.0: source.later.append(after_s) is None  # type: ignore[method-assign]
    one = delivery(Channel(), source=source)
    one.settle(confirmed=False, after_s=1.0)
    assert (source.gone, source.later) == ([], [1.0])


def test_what_cannot_be_given_back_takes_no_room():
    """Its connection has ended, and RabbitMQ has it."""
    source = Source()
    source.call_soon = lambda _call, *, after_s=0.0: False  # type: ignore[method-assign]
    one = delivery(Channel(), source=source)
    one.settle(confirmed=False, after_s=1.0)
    assert source.gone == [one]


def test_an_error_on_the_way_leaves_no_delivery_unsettled():
    """It would take its room for ever."""
    message = delivered(channel := Channel())
    attempt_of(message).at_end.append(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        message.settle()
    assert channel.sent == ["requeue"]


def test_for_dramatiq_every_message_comes_from_the_one_consumer():
    """It settles a message through the consumer of the queue that it names, and dies where there is none."""
    message: dramatiq.Message[None] = dramatiq.Message("gemini.callbacks", "publish_error", (), {}, {})
    assert Delivered(message, delivery(Channel())).queue_name == "gemini.generate"
    assert message.copy().queue_name == "gemini.callbacks"
