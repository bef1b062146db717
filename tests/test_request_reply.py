"""Reply addresses of clients that wait, on a real RabbitMQ: answered while they are there, and never made by us."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pika
import pytest

from dev.waiting import wait_until
from gateway.errors import Unroutable
from gateway.rabbitmq.in_flight import Outgoing
from gateway.rabbitmq.presence import MOST_UNANSWERED, Presence
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.request_reply import is_direct, is_of_a_client, queue_of

DIRECT = "amq.rabbitmq.reply-to"


def properties() -> pika.BasicProperties:
    return pika.BasicProperties(message_id=str(uuid.uuid4()), delivery_mode=2)


class Client:
    """Has sent one request with a direct reply-to, and keeps what comes back."""

    def __init__(self, url: str) -> None:
        self.replies: list[bytes] = []
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.basic_consume(DIRECT, lambda *delivery: self.replies.append(delivery[3]), auto_ack=True)
        queue = self.channel.queue_declare("", exclusive=True).method.queue
        self.channel.basic_publish("", queue, b"request", pika.BasicProperties(reply_to=DIRECT))
        found: list[Any] = []
        wait_until(lambda: found.append(self.channel.basic_get(queue)) or found[-1][0], what="the request")
        #: As RabbitMQ has rewritten it.
        self.address: str = found[-1][1].reply_to

    def close(self) -> None:
        if self.connection.is_open:
            self.connection.close()

    def has(self, count: int) -> bool:
        self.connection.process_data_events(0.01)
        return len(self.replies) >= count


@pytest.fixture
def publisher(vhost_url: str) -> Iterator[Publisher]:
    made = Publisher(vhost_url, name="test", redeclare=_nobody_is_asked)
    made.start()
    yield made
    made.stop(5.0)


def _nobody_is_asked(queue: str) -> bool:
    raise AssertionError(queue)


@contextmanager
def client(url: str) -> Iterator[Client]:
    with closing(Client(url)) as made:
        yield made


@pytest.mark.rabbitmq
def test_a_direct_reply_reaches_its_client_once(vhost_url: str, publisher: Publisher):
    """A mandatory publish would have come back although it was delivered, and be sent again."""
    with client(vhost_url) as one, client(vhost_url) as other:
        futures = [publisher.submit(c.address, b"reply", properties()) for c in (one, other) for _ in range(50)]
        wait(futures, timeout=60)
        assert [future.exception() for future in futures] == [None] * 100
        for each in (one, other):
            wait_until(lambda each=each: each.has(50), what="the replies")
            assert not each.has(51)


@pytest.mark.rabbitmq
def test_a_direct_reply_whose_client_is_gone_is_unroutable(vhost_url: str, publisher: Publisher):
    """RabbitMQ would confirm it, and drop it; those of clients that are there go on."""
    with client(vhost_url) as gone, client(vhost_url) as there:
        gone.close()
        addresses = [gone.address, there.address, f"{DIRECT}.forged", there.address, gone.address]
        futures = [publisher.submit(address, b"reply", properties()) for address in addresses]
        wait(futures, timeout=60)
        assert [type(future.exception()) for future in futures] == [
            Unroutable,
            type(None),
            Unroutable,
            type(None),
            Unroutable,
        ]
        wait_until(lambda: there.has(2), what="the replies")


@pytest.mark.rabbitmq
@pytest.mark.parametrize("name", ["", "rpc.reply-standalone"], ids=["named by RabbitMQ", "named by the client"])
def test_an_exclusive_queue_is_answered_and_not_made_again(vhost_url: str, publisher: Publisher, name: str):
    """Row 4 and 18 of K5: whoever sends there takes part in no declaring."""
    connection = pika.BlockingConnection(pika.URLParameters(vhost_url))
    queue = connection.channel().queue_declare(name, exclusive=True).method.queue
    publisher.publish(queue, b"reply", properties(), makes_queue=False)
    connection.close()
    with pytest.raises(Unroutable):
        publisher.publish(queue, b"reply", properties(), makes_queue=False)


class Channel:
    """A channel on which questions are noted, for a test to answer."""

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self.questions: list[tuple[str, Callable[[object], None]]] = []

    def add_on_close_callback(self, callback: Callable[[object, object], None]) -> None:
        self.closed = callback

    def queue_declare(self, queue: str, *, passive: bool, callback: Callable[[object], None]) -> None:
        assert passive
        queue.encode()
        self.questions.append((queue, callback))

    def close(self, code: int) -> None:
        self.closed(self, SimpleNamespace(reply_code=code))


class Connection:
    is_open = True

    def __init__(self) -> None:
        self.channels: list[Channel] = []

    def channel(self, on_open_callback: Callable[[Channel], None]) -> None:
        self.channels.append(Channel(self))
        on_open_callback(self.channels[-1])


class Asked:
    """A question to each of some addresses, and what became of it."""

    def __init__(self, *addresses: str) -> None:
        self.found: list[tuple[str, bool]] = []
        self.lost: list[str] = []
        self.deadlines: list[Callable[[], None]] = []
        self.presence = Presence(
            lambda outgoing, there: self.found.append((outgoing.queue, there)),
            lambda lost: self.lost.extend(one.queue for one in lost),
            lambda _seconds, call: self.deadlines.append(call),
        )
        self.connection = Connection()
        for address in addresses:
            self.presence.ask(self.connection, Outgoing(address, b"", properties(), 0.0))

    @property
    def channel(self) -> Channel:
        return self.connection.channels[-1]


def test_one_question_is_asked_after_the_other():
    """So it is known which of them has closed the channel; the next ones go over a new one."""
    asked = Asked("a", "b", "c")
    assert [queue for queue, _ in asked.channel.questions] == ["a"]
    asked.channel.questions[-1][1](None)
    asked.channel.close(404)
    asked.channel.questions[-1][1](None)
    assert asked.found == [("a", True), ("b", False), ("c", True)]
    assert len(asked.connection.channels) == 2
    assert asked.presence.messages() == []


def test_an_address_that_does_not_answer_is_nobody_and_holds_up_no_other():
    """A client's channel that hangs lets RabbitMQ wait for ever; what it says later is not about the next one."""
    asked = Asked("a", "b")
    late = asked.channel.questions[-1][1]
    asked.deadlines[-1]()
    assert asked.found == [("a", False)]
    late(None)
    assert asked.found == [("a", False)]
    asked.channel.questions[-1][1](None)
    for deadline in asked.deadlines:
        deadline()
    assert asked.found == [("a", False), ("b", True)]


def test_after_many_addresses_that_do_not_answer_nobody_is_asked():
    """Each keeps a channel, and a connection has not so many."""
    asked = Asked(*(f"a-{number}" for number in range(MOST_UNANSWERED + 2)))
    for _ in range(MOST_UNANSWERED):
        asked.deadlines[-1]()
    assert sorted(there for _queue, there in asked.found) == [False] * MOST_UNANSWERED + [True] * 2


def test_one_whose_caller_has_given_up_is_not_asked_about():
    asked = Asked("a", "b", "c")
    asked.presence.messages()[1].confirmed.cancel()
    asked.channel.questions[-1][1](None)
    assert [queue for queue, _ in asked.channel.questions] == ["a", "c"]


def test_a_broker_that_does_not_let_us_ask_gets_the_message():
    """Only its word that nobody is there keeps it back."""
    asked = Asked("a")
    asked.channel.close(403)
    assert asked.found == [("a", True)]


def test_an_address_without_a_wire_form_is_left_to_the_publish():
    """It fails there, alone; the next one is asked about."""
    asked = Asked("\ud800", "b")
    assert asked.found == [("\ud800", True)]
    assert [queue for queue, _ in asked.channel.questions] == ["b"]


def test_questions_of_a_lost_connection_come_back():
    """Each once, whoever says first that it has gone."""
    asked = Asked("a", "b")
    asked.connection.is_open = False
    asked.channel.close(320)
    asked.presence.give_up()
    assert (asked.found, asked.lost) == ([], ["a", "b"])


@pytest.mark.parametrize(
    ("reply_to", "queue"),
    [
        ("amq.gen-abc", "amq.gen-abc"),
        ("my.answers", "my.answers"),
        ("/my.answers", "my.answers"),
        (f"{DIRECT}.g1h2/AA+B==.c/d", f"{DIRECT}.g1h2/AA+B==.c/d"),
        ("an.exchange/a.key", None),
        ("direct://an.exchange/a.key", None),
        ("/my/answers", None),
    ],
)
def test_a_reply_to_is_a_queue_or_it_is_none(reply_to: str, queue: str | None):
    """Row 18a of K5. Base64 has slashes: they do not make an exchange of a direct reply-to."""
    assert queue_of(reply_to) == queue


def test_addresses_of_clients_are_known_by_name():
    """The bare name of direct reply-to is no address: RabbitMQ rewrites it in the property only."""
    assert [is_of_a_client(name) for name in ("amq.gen-a", f"{DIRECT}.a", DIRECT, "a")] == [True, True, False, False]
    assert [is_direct(name) for name in ("amq.gen-a", f"{DIRECT}.a", DIRECT, "a")] == [False, True, False, False]
