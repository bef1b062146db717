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


def given_up_in_an_alarm() -> tuple[InFlight, Outgoing]:
    first = message()
    in_flight = sent(first)
    in_flight.note_alarm()
    first.confirmed.set_exception(TimeoutError())
    return in_flight, first


def test_what_was_sent_before_an_alarm_is_not_sent_again():
    """F9: the word about the first is said of the second. A third is sent: that word may never come."""
    in_flight, _first = given_up_in_an_alarm()
    again, third = message(), message()
    assert in_flight.take_over(again)
    assert again.sent
    assert not in_flight.take_over(third)
    assert in_flight.settle(1, multiple=False) == [again]


def test_what_was_stored_after_an_alarm_is_stored():
    """Its caller had given up, and is about to ask again."""
    in_flight, _first = given_up_in_an_alarm()
    for one in in_flight.settle(1, multiple=False):
        one.succeed()
    again = message()
    assert in_flight.take_over(again)
    again.confirmed.result(0)


def test_what_was_confirmed_in_time_is_no_other_message():
    """The same answer for who asks again: it is sent, though the alarm has seen the first one."""
    first = message()
    in_flight = sent(first)
    in_flight.note_alarm()
    for one in in_flight.settle(1, multiple=False):
        one.succeed()
    assert not in_flight.take_over(message())


def test_an_alarm_is_forgotten():
    in_flight, _first = given_up_in_an_alarm()
    in_flight.settle(1, multiple=False)[0].succeed()
    in_flight.forget_alarm()
    assert not in_flight.take_over(message())


def test_what_was_refused_after_an_alarm_is_sent_again():
    in_flight, _first = given_up_in_an_alarm()
    in_flight.settle(1, multiple=False)
    assert not in_flight.take_over(message())


def test_what_came_back_after_an_alarm_has_come_back_for_who_took_it_over():
    in_flight, _first = given_up_in_an_alarm()
    in_flight.mark_returned("q", "m")
    again = message()
    assert in_flight.take_over(again)
    assert again.returned


def test_another_message_is_sent():
    """Of another body, or one whose first caller still waits."""
    in_flight, _first = given_up_in_an_alarm()
    assert not in_flight.take_over(Outgoing("q", b"other", pika.BasicProperties(message_id="m"), deadline=0.0))
    waits = sent(message())
    waits.note_alarm()
    assert not waits.take_over(message())
