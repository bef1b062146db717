"""Which message RabbitMQ's word is about: tags are counted, returns are matched by queue and id."""

import pika

from gateway.rabbitmq.in_flight import InFlight, Outgoing


def message(queue: str = "q", message_id: str = "m") -> Outgoing:
    return Outgoing(queue, b"body", pika.BasicProperties(message_id=message_id), deadline=0.0)


def sent(*messages: Outgoing) -> InFlight:
    in_flight = InFlight()
    for one in messages:
        in_flight.add(one)
    return in_flight


def test_a_confirm_is_about_the_message_of_its_tag():
    """And of no other; a tag is settled once."""
    first, second = message(), message()
    in_flight = sent(first, second)
    assert in_flight.settle(2, multiple=False) == [second]
    assert in_flight.settle(2, multiple=False) == []
    assert in_flight.messages() == [first]


def test_a_confirm_of_many_is_about_all_before_it():
    """In the order of sending, without those that were settled already."""
    first, second, third, fourth = (message() for _ in range(4))
    in_flight = sent(first, second, third, fourth)
    in_flight.settle(2, multiple=False)
    assert in_flight.settle(3, multiple=True) == [first, third]
    assert in_flight.messages() == [fourth]


def test_a_return_is_matched_by_queue_and_id():
    """The same id may be on its way to another queue."""
    other_queue, other_id, meant = message("x"), message("q", "n"), message()
    sent(other_queue, other_id, meant).mark_returned("q", "m")
    assert [one.returned for one in (other_queue, other_id, meant)] == [False, False, True]


def test_a_copy_that_came_back_never_counts_as_stored():
    """Its caller had given up the first one and published again: RabbitMQ does not say which of the two came back."""
    expired, again = message(), message()
    expired.confirmed.cancel()
    sent(expired, again).mark_returned("q", "m")
    assert again.returned


def test_a_message_that_came_back_is_sent_again_as_a_new_one():
    """Once its queue is declared, its confirm means that it is stored."""
    one = message()
    in_flight = sent(one)
    in_flight.mark_returned("q", "m")
    in_flight.settle(1, multiple=False)
    in_flight.add(one)
    assert in_flight.settle(2, multiple=False) == [one]
    assert not one.returned


def test_a_return_of_what_is_not_in_flight_is_ignored():
    """It was settled, or never ours."""
    one = message()
    sent(one).mark_returned("q", "stranger")
    assert not one.returned


def test_nothing_of_the_body_is_shown():
    """P4."""
    assert "body" not in repr(message())
