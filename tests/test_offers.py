"""Messages that are dispensable, on a real RabbitMQ: sent once or not at all, and never at the cost of another one."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait

import pika
import pytest

from dev.rabbitmq import Node, Server
from dev.waiting import wait_until
from gateway.errors import ConnectionLost, Nacked, Unroutable
from gateway.rabbitmq.publisher import MAX_OFFERED, Publisher
from gateway.rabbitmq.window import Quota
from tests.test_publisher import declare, drain, properties, publishing, too_soon
from tests.test_request_reply import DIRECT, client

pytestmark = pytest.mark.rabbitmq


def transient() -> pika.BasicProperties:
    message = properties()
    message.delivery_mode = 1
    return message


def asked_for(_queue: str) -> bool:
    raise AssertionError("a queue was to be made")


def outcome(offered: "Future[None]") -> type[BaseException]:
    return type(offered.exception(60))


def test_an_offer_is_ahead_of_what_is_published_after_it(vhost_url: str):
    """An answer never overtakes its pieces, however many come at once."""
    declare(vhost_url, "q")
    with publishing(vhost_url) as publisher:
        assert publisher.wait_ready(60)
        messages = [transient() for _ in range(100)]
        offered = [publisher.offer("q", b"piece", message) for message in messages]
        publisher.publish("q", b"whole", last := properties())
        assert [outcome(one) for one in offered] == [type(None)] * 100
    assert drain(vhost_url, "q") == [message.message_id for message in (*messages, last)]


def test_no_queue_is_made_for_an_offer(vhost_url: str):
    """It is not waited for either."""
    with publishing(vhost_url, redeclare=asked_for) as publisher:
        assert publisher.wait_ready(60)
        assert outcome(publisher.offer("missing", b"piece", transient())) is Unroutable


def test_a_full_queue_refuses_an_offer(vhost_url: str):
    """And nothing else happens."""
    declare(vhost_url, "small", x_max_length=1, x_overflow="reject-publish")
    with publishing(vhost_url) as publisher:
        publisher.publish("small", b"body", properties())
        assert outcome(publisher.offer("small", b"piece", transient())) is Nacked


def test_a_client_that_waits_is_not_asked_for_before_an_offer(vhost_url: str, monkeypatch: pytest.MonkeyPatch):
    """One question after the other would hold up the answers to others. Who is gone gets nothing."""
    monkeypatch.setattr("gateway.rabbitmq.presence.Presence.ask", lambda *_: asked_for(""))
    with client(vhost_url) as there, client(vhost_url) as gone, publishing(vhost_url) as publisher:
        gone.close()
        assert publisher.wait_ready(60)
        offered = [publisher.offer(one.address, b"piece", transient()) for one in (there, gone)]
        assert [outcome(one) for one in offered] == [type(None)] * 2
        wait_until(lambda: there.has(1), what="the piece")
        assert there.address.startswith(DIRECT)


def test_a_queue_that_confirms_nothing_holds_up_no_other(vhost_url: str, rabbitmq_server: Server):
    """So many offers are on their way to it and no more, however long that takes; others go past them."""
    declare(vhost_url, "q")
    declare(vhost_url, "silent", x_queue_type="classic")
    now = [0.0]
    with publishing(vhost_url, clock=lambda: now[0] + time.monotonic()) as publisher:
        with rabbitmq_server.stuck(vhost_url, "silent"):
            assert publisher.wait_ready(60)
            offered = [publisher.offer("silent", b"piece", transient()) for _ in range(MAX_OFFERED + 50)]
            refused = [one for one in offered if one.done()]
            assert [outcome(one) for one in refused] == [ConnectionLost] * 50
            publisher.publish("q", b"body", properties(), timeout_s=60)
            now[0] += 3600.0
            publisher.publish("q", b"body", properties(), timeout_s=60)
            assert outcome(publisher.offer("silent", b"piece", transient())) is ConnectionLost
            assert outcome(publisher.offer("q", b"piece", transient())) is type(None)
        wait(offered, timeout=60)
        assert outcome(publisher.offer("silent", b"piece", transient())) is type(None)


def test_an_offer_is_lost_with_its_channel_and_blamed_for_nothing(vhost_url: str):
    """It is not sent again; the one that was the cause is found, and the others arrive."""
    declare(vhost_url, "q")
    with publishing(vhost_url) as publisher:
        assert publisher.wait_ready(60)
        good = [properties() for _ in range(3)]
        on_loop(publisher, lambda: all_at_once(publisher, good))
        bad = publisher.submit("q", b"body", too_soon(), timeout_s=60)
        assert outcome(bad) is Nacked
        publisher.publish("q", b"body", last := properties())
    assert {message.message_id for message in (*good, last)} <= set(drain(vhost_url, "q"))


def all_at_once(publisher: Publisher, good: list[pika.BasicProperties]) -> None:
    publisher.submit("q", b"body", good[0])
    publisher.submit("q", b"body", too_soon())
    publisher.offer("q", b"piece", transient())
    for message in good[1:]:
        publisher.submit("q", b"body", message)


def on_loop(publisher: Publisher, call: Callable[[], None]) -> None:
    """Run it on the publisher's thread: what it submits is sent together."""
    done = threading.Event()
    publisher._loop.add_callback_threadsafe(lambda: (call(), done.set()))
    assert done.wait(60)


def test_an_offer_that_closes_the_channel_costs_no_other_message(vhost_url: str):
    """It was alone with one that is promised, which is not taken for the cause."""
    declare(vhost_url, "q")
    with publishing(vhost_url) as publisher:
        assert publisher.wait_ready(60)
        sent: list[Future[None]] = []
        on_loop(
            publisher,
            lambda: sent.extend(
                (publisher.offer("q", b"piece", too_soon()), publisher.submit("q", b"body", properties()))
            ),
        )
        assert [outcome(one) for one in sent] == [ConnectionLost, type(None)]
        wait_until(lambda: outcome(publisher.offer("q", b"piece", transient())) is type(None), what="offers again")


def test_while_rabbitmq_takes_no_publishes_an_offer_is_refused_at_once(own_rabbitmq: Node):
    """A memory alarm; it is not kept for later. After it offers are taken again."""
    declare(own_rabbitmq.url, "q")
    with publishing(own_rabbitmq.url) as publisher:
        publisher.publish("q", b"body", properties())
        own_rabbitmq.alarm(on=True)
        late = publisher.submit("q", b"body", properties(), timeout_s=200)
        wait_until(lambda: not publisher.ready, what="the alarm")
        assert publisher.offer("q", b"piece", transient()).done()
        own_rabbitmq.alarm(on=False)
        assert late.exception(120) is None
        assert outcome(publisher.offer("q", b"piece", transient())) is type(None)


def test_an_offer_before_there_is_a_connection_is_refused():
    """And one of a publisher that has stopped."""
    publisher = Publisher("amqp://nobody.invalid", name="test")
    assert outcome(publisher.offer("q", b"piece", transient())) is ConnectionLost
    publisher.stop(1.0)
    assert outcome(publisher.offer("q", b"piece", transient())) is ConnectionLost


def test_an_offer_needs_an_id(vhost_url: str):
    """Without one a returned message could not be told from another."""
    with publishing(vhost_url) as publisher, pytest.raises(ValueError, match="message_id"):
        publisher.offer("q", b"piece", pika.BasicProperties())


def test_places_are_counted_for_each_queue_and_for_all():
    """In messages and in bytes; one that leaves makes room for another."""
    quota = Quota(messages=2, size=10, queues=2)
    assert [quota.enter("a", 1) for _ in range(3)] == [True, True, False]
    assert [quota.enter("b", size) for size in (11, 9, 2)] == [False, True, False]
    assert [quota.enter("c", 1), quota.enter("d", 1)] == [True, False]
    quota.leave("a", 1)
    assert quota.enter("a", 1)
