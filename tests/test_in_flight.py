"""Which message RabbitMQ's word is about: tags are counted, returns are matched by name."""

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
    assert in_flight.settle(2, multiple=False) == [(second, False)]
    assert in_flight.settle(2, multiple=False) == []
    assert in_flight.messages() == [first]


def test_a_confirm_of_many_is_about_all_before_it():
    """In the order of sending, without those that were settled already."""
    first, second, third, fourth = (message() for _ in range(4))
    in_flight = sent(first, second, third, fourth)
    in_flight.settle(2, multiple=False)
    assert in_flight.settle(3, multiple=True) == [(first, False), (third, False)]
    assert in_flight.messages() == [fourth]


def test_a_return_is_matched_by_queue_and_id():
    """The same id may be on its way to another queue."""
    other_queue, other_id, meant = message("x"), message("q", "n"), message()
    in_flight = sent(other_queue, other_id, meant)
    in_flight.mark_returned("q", "m")
    assert in_flight.settle(3, multiple=True) == [(other_queue, False), (other_id, False), (meant, True)]


def test_copies_of_one_message_are_returned_in_the_order_of_sending():
    """The first may come back, the queue be declared, and the second be stored."""
    first, second = message(), message()
    in_flight = sent(first, second)
    in_flight.mark_returned("q", "m")
    assert in_flight.settle(2, multiple=True) == [(first, True), (second, False)]


def test_two_returns_mark_two_copies():
    """Each return takes the next one."""
    in_flight = sent(message(), message())
    in_flight.mark_returned("q", "m")
    in_flight.mark_returned("q", "m")
    assert [returned for _, returned in in_flight.settle(2, multiple=True)] == [True, True]


def test_the_return_of_an_expired_message_does_not_hit_its_copy():
    """Its caller has given up and published again; RabbitMQ's word about the first still comes."""
    expired, again = message(), message()
    in_flight = sent(expired)
    expired.confirmed.cancel()
    in_flight.add(again)
    in_flight.mark_returned("q", "m")
    assert in_flight.settle(2, multiple=True) == [(expired, True), (again, False)]


def test_a_return_of_what_is_not_in_flight_is_ignored():
    """It was settled, or never ours."""
    in_flight = sent(message())
    in_flight.mark_returned("q", "stranger")
    assert [returned for _, returned in in_flight.settle(1, multiple=False)] == [False]


def test_nothing_of_the_body_is_shown():
    """P4."""
    assert "body" not in repr(message())
