"""What is parked: until its time has come, and in which room."""

from dramatiq import Message

from bridge.delivery import Delivered
from bridge.parked import Parked
from middleware.attempt import Outcome, Parking, attempt_of
from tests.clock import Clock
from tests.world import Channel, Source, delivery, job


def delivered(number: int = 1, *, channel: Channel | None = None, source: Source | None = None) -> Delivered:
    message: Message[None] = Message("gemini.generate", "generate", (job(number),), {}, {})
    return Delivered(message, delivery(channel or Channel(), source=source))


def test_a_delivery_is_taken_when_its_time_has_come():
    """The earliest first."""
    clock = Clock()
    parked = Parked(clock=clock)
    later, sooner = delivered(1), delivered(2)
    assert parked.next_in_s(room=True) == float("inf")
    assert parked.put(later, Parking(2.0, keeps_room=False))
    assert parked.put(sooner, Parking(1.0, keeps_room=False))
    assert parked.next_in_s(room=True) == 1.0
    assert parked.take(room=True) is None
    clock.advance(3)
    assert parked.take(room=True) is sooner
    assert parked.take(room=True) is later
    assert parked.take(room=True) is None


def test_without_room_only_what_has_kept_its_room_is_taken():
    """The other one would wait for a thread here, while another worker is idle."""
    clock = Clock()
    parked = Parked(clock=clock)
    own, everybodys = delivered(1), delivered(2)
    parked.put(own, Parking(1.0, keeps_room=False))
    parked.put(everybodys, Parking(2.0, keeps_room=True))
    assert parked.next_in_s(room=False) == 2.0
    clock.advance(2)
    assert parked.take(room=False) is everybodys
    assert parked.take(room=False) is None
    assert parked.take(room=True) is own


def test_the_places_for_those_who_wait_for_something_of_their_own_are_limited():
    """Who keeps its room is limited by the room."""
    parked = Parked(limit=1)
    assert parked.put(delivered(1), Parking(1.0, keeps_room=False))
    assert not parked.put(delivered(2), Parking(1.0, keeps_room=False))
    assert parked.put(delivered(3), Parking(1.0, keeps_room=True))
    assert len(parked.take_all()) == 2
    assert len(parked) == 0


def test_so_are_their_bytes():
    """A large body is there twice."""
    parked = Parked(most_bytes=10)
    large = delivered(1)
    large.delivery.body = b"x" * 11
    assert not parked.put(large, Parking(1.0, keeps_room=False))
    assert parked.put(large, Parking(1.0, keeps_room=True))
    assert parked.put(delivered(2), Parking(1.0, keeps_room=False))


def test_a_parked_delivery_is_not_settled():
    """It is unacked until it has an outcome, and starts anew then."""
    source, channel = Source(), Channel()
    message = delivered(channel=channel, source=source)
    attempt_of(message).park("it runs elsewhere", after_s=1.0)
    message.settle()
    assert (channel.sent, [place for place, _ in source.parked]) == ([], [message])
    attempt_of(message).outcome = Outcome.ANSWERED
    message.settle()
    assert channel.sent == ["ack"]


def test_what_finds_no_place_goes_back_after_a_pause():
    """At once it would come back, and find no place again."""
    source, channel = Source(), Channel()
    source.park = lambda _message, _parking: False  # type: ignore[method-assign]
    message = delivered(channel=channel, source=source)
    attempt_of(message).park("it runs elsewhere", after_s=1.0)
    message.settle()
    assert (channel.sent, source.later) == (["requeue"], [1.0])


def test_what_rabbitmq_has_back_is_not_parked():
    """Its connection has ended: whoever gets it next does what is to be done."""
    source, channel = Source(), Channel()
    message = delivered(channel=channel, source=source)
    attempt_of(message).park("it runs elsewhere", after_s=1.0)
    channel.is_open = False
    message.settle()
    assert (source.parked, source.gone) == ([], [message.delivery])


def test_who_waits_for_a_key_can_be_taken_before_its_time():
    """The next deadline first; it stays until it is taken out."""
    parked = Parked(clock=Clock())
    later, other, sooner = delivered(1), delivered(2), delivered(3)
    parked.put(later, Parking(2.0, keeps_room=False, for_key=True))
    parked.put(other, Parking(0.5, keeps_room=False))
    parked.put(sooner, Parking(1.0, keeps_room=False, for_key=True))
    assert parked.for_key() == [sooner, later]
    parked.take_out(sooner)
    assert parked.for_key() == [later]
    assert parked.take_all() == [later, other]


def test_who_waits_for_a_key_and_is_gone_is_taken_at_once():
    """RabbitMQ has delivered it again, and what it holds is for that delivery: it gets no key."""
    parked, channel = Parked(clock=Clock()), Channel()
    gone = delivered(1, channel=channel)
    parked.put(gone, Parking(30.0, keeps_room=False, for_key=True))
    assert parked.take(room=True) is None
    channel.is_open = False
    assert parked.for_key() == []
    assert parked.next_in_s(room=True) == 0.0
    assert parked.take(room=True) is gone
