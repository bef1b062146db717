"""The publisher on a real RabbitMQ: confirmed or one of four errors, whatever happens to the server."""

import gc
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import pika
import pytest

from dev.rabbitmq import Node, Server
from gateway.errors import ConfirmTimeout, ConnectionLost, Nacked, TooLarge, Unroutable
from gateway.rabbitmq import amqp
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.window import Window
from tests.clock import Clock

pytestmark = pytest.mark.rabbitmq


@contextmanager
def publishing(url: str, **options: object) -> Iterator[Publisher]:
    publisher = Publisher(url, name="test", **options)  # type: ignore[arg-type]
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.stop(5.0)


def properties() -> pika.BasicProperties:
    return pika.BasicProperties(message_id=str(uuid.uuid4()), delivery_mode=2)


@contextmanager
def channel_to(url: str) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def declare(url: str, queue: str, **arguments: object) -> None:
    with channel_to(url) as channel:
        channel.queue_declare(queue, durable=True, arguments={k.replace("_", "-"): v for k, v in arguments.items()})


def drain(url: str, queue: str) -> list[str]:
    """The message ids in a queue, which is empty then."""
    found = []
    with channel_to(url) as channel:
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.append(got[1].message_id)
    return found


def test_a_publish_returns_when_the_queue_has_the_message(vhost_url: str):
    """The confirm comes first, so whoever looks finds it."""
    declare(vhost_url, "q")
    with publishing(vhost_url) as publisher:
        message = properties()
        publisher.publish("q", b"body", message)
        assert drain(vhost_url, "q") == [message.message_id]


def test_many_threads_share_one_connection(vhost_url: str, rabbitmq_server: Server):
    """Each waits for its own confirm; all of them are in the queue, once."""
    declare(vhost_url, "q")
    with publishing(vhost_url) as publisher, ThreadPoolExecutor(32) as threads:
        messages = [properties() for _ in range(2000)]
        list(threads.map(lambda message: publisher.publish("q", b"body", message), messages))
    found = drain(vhost_url, "q")
    assert len(found) == len(messages)
    assert set(found) == {message.message_id for message in messages}


def test_a_missing_queue_is_unroutable_and_the_others_are_not_touched(vhost_url: str):
    """The one that was returned is told apart from those around it."""
    declare(vhost_url, "q")
    with publishing(vhost_url) as publisher:
        futures = [publisher.submit(name, b"body", properties()) for name in ("q", "missing", "q", "missing", "q")]
        wait(futures, timeout=60)
        assert [type(future.exception()) for future in futures] == [
            type(None),
            Unroutable,
            type(None),
            Unroutable,
            type(None),
        ]


def test_a_missing_queue_that_may_be_declared_gets_its_message(vhost_url: str):
    """F40: asked for once, then published again."""
    asked = []

    def redeclare(queue: str) -> bool:
        asked.append(queue)
        declare(vhost_url, queue)
        return True

    with publishing(vhost_url, redeclare=redeclare) as publisher:
        message = properties()
        publisher.publish("new", b"body", message)
    assert asked == ["new"]
    assert drain(vhost_url, "new") == [message.message_id]


def test_a_queue_that_cannot_be_declared_is_unroutable_after_one_try(vhost_url: str):
    """No loop between RabbitMQ and us."""
    asked = []
    publisher_of = publishing(vhost_url, redeclare=lambda queue: bool(asked.append(queue)))
    with publisher_of as publisher, pytest.raises(Unroutable):
        publisher.publish("missing", b"body", properties())
    assert asked == ["missing"]


def test_a_message_that_is_not_to_wait_is_unroutable_at_once_and_its_queue_is_made_beside(vhost_url: str):
    """F63: whoever sends it keeps it elsewhere, and tries again; the next one finds the queue."""
    made, go_on = threading.Event(), threading.Event()

    def redeclare(queue: str) -> bool:
        go_on.wait(60)
        declare(vhost_url, queue)
        made.set()
        return True

    with publishing(vhost_url, redeclare=redeclare, waits_for=lambda _queue: False) as publisher:
        for _ in range(3):
            with pytest.raises(Unroutable):
                publisher.publish("new", b"body", properties())
        go_on.set()
        assert made.wait(60)
        publisher.publish("new", b"body", message := properties())
    assert drain(vhost_url, "new") == [message.message_id]


def test_a_queue_is_declared_once_for_all_that_wait_for_it(vhost_url: str):
    """A thousand answers to a queue that was deleted are no thousand connections."""
    declare(vhost_url, "q")
    asked = []
    begun, go_on = threading.Event(), threading.Event()

    def redeclare(queue: str) -> bool:
        asked.append(queue)
        begun.set()
        go_on.wait(60)
        declare(vhost_url, queue)
        return True

    with publishing(vhost_url, redeclare=redeclare) as publisher:
        messages = [properties() for _ in range(50)]
        futures = [publisher.submit("new", b"body", message) for message in messages]
        assert begun.wait(60)
        publisher.publish("q", b"body", properties())  # RabbitMQ keeps the order: all before it were returned
        go_on.set()
        wait(futures, timeout=60)
    assert asked == ["new"]
    assert set(drain(vhost_url, "new")) == {message.message_id for message in messages}


def test_a_redeclare_that_fails_is_an_answer_too(vhost_url: str):
    """Nobody waits for a queue that will not come."""

    def redeclare(queue: str) -> bool:
        raise RuntimeError(queue)

    with publishing(vhost_url, redeclare=redeclare) as publisher, pytest.raises(Unroutable):
        publisher.publish("missing", b"body", properties())


def test_a_stop_while_a_queue_is_declared_leaves_no_caller_waiting(vhost_url: str):
    """It does not count as confirmed either."""
    begun, go_on = threading.Event(), threading.Event()

    def redeclare(queue: str) -> bool:
        begun.set()
        return go_on.wait(60)

    with publishing(vhost_url, redeclare=redeclare) as publisher:
        held = publisher.submit("missing", b"body", properties())
        assert begun.wait(60)
        assert not publisher.stop(0.1)
        assert isinstance(held.exception(60), ConnectionLost)
        go_on.set()


def test_a_full_queue_is_a_nack(vhost_url: str):
    """F41: refused, not lost and not silent."""
    declare(vhost_url, "small", x_max_length=1, x_overflow="reject-publish")
    with publishing(vhost_url) as publisher:
        publisher.publish("small", b"body", properties())
        with pytest.raises(Nacked):
            publisher.publish("small", b"body", properties())


def too_soon() -> pika.BasicProperties:
    """RabbitMQ closes a channel over an expiration that is not a number."""
    return pika.BasicProperties(message_id="bad", expiration="soon")


def test_messages_that_close_the_channel_fail_alone(vhost_url: str):
    """RabbitMQ does not say which ones they were; the others are sent again and arrive."""
    declare(vhost_url, "q")
    with publishing(vhost_url) as publisher:
        assert publisher.wait_ready(60)
        good = [properties() for _ in range(200)]
        messages = [*good[:100], too_soon(), *good[100:150], too_soon(), *good[150:]]
        futures = [publisher.submit("q", b"body", message) for message in messages]
        wait(futures, timeout=60)
        failed = [message.message_id for message, future in zip(messages, futures, strict=True) if future.exception()]
        assert failed == ["bad", "bad"]
        assert isinstance(futures[100].exception(), Nacked)
    assert set(drain(vhost_url, "q")) == {message.message_id for message in good}


def test_a_classic_queue_that_does_not_confirm_holds_up_no_other(vhost_url: str, rabbitmq_server: Server):
    """Not with the few hundred messages on their way to it after which RabbitMQ itself stops reading the channel."""
    declare(vhost_url, "q")
    declare(vhost_url, "silent", x_queue_type="classic")
    with publishing(vhost_url) as publisher, rabbitmq_server.stuck(vhost_url, "silent"):
        silent = [publisher.submit("silent", b"body", properties(), timeout_s=200) for _ in range(200)]
        publisher.publish("q", b"body", properties(), timeout_s=60)
        assert not any(future.done() for future in silent)


def test_a_suspect_that_is_not_confirmed_holds_up_no_other(vhost_url: str, rabbitmq_server: Server):
    """Suspects go one at a time; one whose confirm never comes lets the others pass at its deadline."""
    declare(vhost_url, "q")
    declare(vhost_url, "silent", x_queue_type="classic")
    with publishing(vhost_url) as publisher, rabbitmq_server.stuck(vhost_url, "silent"):
        assert publisher.wait_ready(60)
        silent = publisher.submit("silent", b"body", properties(), timeout_s=2)
        bad = publisher.submit("q", b"body", too_soon(), timeout_s=60)
        good = publisher.submit("q", b"body", properties(), timeout_s=60)
        assert isinstance(silent.exception(60), ConfirmTimeout)
        assert good.exception(60) is None
        assert isinstance(bad.exception(60), Nacked)


def test_a_message_that_is_too_large_fails_alone_and_says_so(own_rabbitmq: Node):
    """F72: RabbitMQ closes the channel over it; no queue would take it."""
    own_rabbitmq.limit_messages(100_000)
    declare(own_rabbitmq.url, "q")
    with publishing(own_rabbitmq.url) as publisher:
        bodies = (b"small", b"x" * 100_001, b"small")
        futures = [publisher.submit("q", body, properties(), timeout_s=60) for body in bodies]
        wait(futures, timeout=60)
        assert [type(future.exception()) for future in futures] == [type(None), TooLarge, type(None)]


def test_messages_go_together_again_when_the_bad_one_is_found(vhost_url: str, rabbitmq_server: Server):
    """The next one passes one that is not confirmed."""
    declare(vhost_url, "q")
    declare(vhost_url, "silent", x_queue_type="classic")
    with publishing(vhost_url) as publisher, rabbitmq_server.stuck(vhost_url, "silent"):
        assert publisher.wait_ready(60)
        futures = [publisher.submit("q", b"body", message) for message in (properties(), too_soon(), properties())]
        wait(futures, timeout=60)
        silent = publisher.submit("silent", b"body", properties(), timeout_s=200)
        publisher.publish("q", b"body", properties(), timeout_s=60)
        assert not silent.done()


def test_a_message_that_ends_the_connection_fails_alone(vhost_url: str, caplog: pytest.LogCaptureFixture):
    """RabbitMQ closes the connection over a header that fits no frame, and its text can repeat it (P4)."""
    declare(vhost_url, "q")
    with publishing(vhost_url) as publisher:
        assert publisher.wait_ready(60)
        large = pika.BasicProperties(message_id="bad", headers={"canary": "canary" * 100_000})
        good = [properties() for _ in range(20)]
        futures = [publisher.submit("q", b"canary", message) for message in [*good, large]]
        wait(futures, timeout=60)
        refused = futures.pop()
        assert isinstance(refused.exception(), Nacked)
        assert [future.exception() for future in futures] == [None] * 20
    assert set(drain(vhost_url, "q")) == {message.message_id for message in good}
    assert "canary" not in caplog.text + repr(refused.exception())


@pytest.mark.parametrize(
    ("queue", "headers"),
    [("q", {"canary": object()}), ("q" * 256, {}), ("\ud800", {})],
    ids=["header without an AMQP type", "name too long", "half a character"],
)
def test_a_message_that_cannot_be_encoded_fails_alone(vhost_url: str, queue: str, headers: dict[str, object]):
    """One caller's mistake does not end the thread that all publish through."""
    declare(vhost_url, "q")
    with publishing(vhost_url) as publisher:
        wrong = pika.BasicProperties(message_id="bad", headers=headers)
        with pytest.raises(Nacked, match="cannot be encoded"):
            publisher.publish(queue, b"body", wrong)
        publisher.publish("q", b"body", properties())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the socket that it leaves behind
def test_a_publisher_that_fails_starts_again(vhost_url: str, caplog: pytest.LogCaptureFixture):
    """A mistake in its thread costs a connection, not the process: what was submitted still arrives."""
    caplog.set_level(logging.CRITICAL, "gateway.rabbitmq.publisher")
    declare(vhost_url, "q")
    failing = threading.Event()
    failed = threading.Event()

    def clock() -> float:
        if failing.is_set() and threading.current_thread().name == "publisher":
            failing.clear()
            failed.set()
            raise RuntimeError("a mistake")
        return time.monotonic()

    with publishing(vhost_url, clock=clock) as publisher:
        publisher.publish("q", b"body", properties())
        failing.set()
        assert failed.wait(60)
        publisher.publish("q", b"body", properties())
    gc.collect()  # pika cannot close a connection whose loop has ended


def test_a_publish_without_a_server_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch):
    """F10: nobody there, so the caller hears of it in the time it gave."""
    monkeypatch.setattr("gateway.rabbitmq.publisher.GRACE_S", 60.0)
    with publishing("amqp://guest:guest@127.0.0.1:1/") as publisher:
        assert not publisher.ready
        with pytest.raises(ConnectionLost):
            publisher.publish("q", b"body", properties(), timeout_s=0.1)


def test_what_is_on_its_way_is_bounded():
    """The one too many waits for its place, within its deadline; a place is free again when a message expires."""
    window, clock = Window(messages=2, size=100), Clock(0.0)
    with publishing("amqp://guest:guest@127.0.0.1:1/", window=window, clock=clock) as publisher:
        first = [publisher.submit("q", b"body", properties(), timeout_s=1) for _ in range(2)]
        with pytest.raises(ConnectionLost):
            publisher.publish("q", b"body", properties(), timeout_s=0.1)
        assert not any(future.done() for future in first)
        clock.advance(2)
        last = publisher.submit("q", b"body", properties(), timeout_s=20)  # waits until the first ones have expired
        assert any(future.done() for future in first)
        assert not last.done()
        publisher.stop(0)


def test_a_publisher_starts_its_thread_only_when_asked(vhost_url: str):
    """A process may be forked after it was made; what was submitted before goes out first."""
    declare(vhost_url, "q")
    publisher = Publisher(vhost_url, name="test")
    message, before = properties(), set(threading.enumerate())
    early = publisher.submit("q", b"body", message)
    assert set(threading.enumerate()) <= before
    publisher.start()
    publisher.start()
    early.result(60)
    assert publisher.stop(60.0)
    assert drain(vhost_url, "q") == [message.message_id]


def test_a_publisher_that_never_started_stops_too():
    """Its callers hear of it."""
    publisher = Publisher("amqp://guest:guest@127.0.0.1:1/", name="test")
    waiting = publisher.submit("q", b"body", properties())
    assert not publisher.stop(0)
    assert isinstance(waiting.exception(0), ConnectionLost)


def test_a_callback_may_publish_and_never_waits(vhost_url: str):
    """It runs on the publisher's thread: what finds no place at once is refused, for nobody else could make one."""
    declare(vhost_url, "q")
    followed: list[Future[None]] = []
    done = threading.Event()

    with publishing(vhost_url, window=Window(messages=1, size=100)) as publisher:

        def follow(_first: object) -> None:
            followed.extend(publisher.submit("q", b"body", properties()) for _ in range(2))
            done.set()

        publisher.submit("q", b"body", properties()).add_done_callback(follow)
        assert done.wait(60)
        assert followed[0].result(60) is None
        assert isinstance(followed[1].exception(60), ConnectionLost)


def test_a_stopped_publisher_refuses_at_once(vhost_url: str):
    """Nothing waits for a thread that is gone."""
    publisher = Publisher(vhost_url, name="test")
    publisher.start()
    assert publisher.stop(60.0)
    assert publisher.stop(60.0)
    with pytest.raises(ConnectionLost):
        publisher.publish("q", b"body", properties())


def test_a_stop_waits_for_what_is_on_its_way(vhost_url: str):
    """A confirm that is due is not thrown away."""
    declare(vhost_url, "q")
    publisher = Publisher(vhost_url, name="test")
    publisher.start()
    futures = [publisher.submit("q", b"body", properties()) for _ in range(500)]
    assert publisher.stop(60.0)
    assert all(future.done() and future.exception() is None for future in futures)


def test_a_message_needs_an_id(vhost_url: str):
    """Without one a returned message could not be told from another."""
    with publishing(vhost_url) as publisher, pytest.raises(ValueError, match="message_id"):
        publisher.submit("q", b"body", pika.BasicProperties())


@pytest.mark.timeout(1200)  # each of its steps has a deadline of its own, and a busy machine starts servers slowly
def test_nothing_is_lost_while_the_server_comes_and_goes(own_rabbitmq: Node, monkeypatch: pytest.MonkeyPatch):
    """F8, F42, F9: connections closed, application stopped, killed, frozen, an alarm: every confirm is true."""
    monkeypatch.setattr(amqp, "HEARTBEAT_S", 2)  # a frozen server is noticed after two of them
    url = own_rabbitmq.url
    declare(url, "q", x_queue_type="quorum")
    confirmed: list[str] = []
    stop = threading.Event()

    with publishing(url) as publisher, ThreadPoolExecutor(8) as threads:

        def produce() -> None:
            while not stop.is_set():
                message = properties()
                try:
                    publisher.publish("q", b"body", message, timeout_s=60)
                except (ConfirmTimeout, ConnectionLost):  # a busy machine starts the server for longer
                    continue
                confirmed.append(message.message_id)

        producers = [threads.submit(produce) for _ in range(8)]
        try:
            progress(confirmed)
            own_rabbitmq.close_connections(url)
            progress(confirmed)
            own_rabbitmq.stop_app()
            own_rabbitmq.start_app()
            progress(confirmed)
            own_rabbitmq.kill()
            own_rabbitmq.start()
            progress(confirmed)
            own_rabbitmq.alarm(on=True)
            wait_for(lambda: not publisher.ready)
            own_rabbitmq.alarm(on=False)
            progress(confirmed)
            own_rabbitmq.freeze()
            try:
                wait_for(lambda: not publisher.ready)  # no reset, no answer: only the heartbeat tells
            finally:
                own_rabbitmq.thaw()
            progress(confirmed)
        finally:
            stop.set()
        wait(producers, timeout=70)
        assert all(producer.exception() is None for producer in producers)
    assert set(confirmed) <= set(drain(url, "q"))


def progress(confirmed: list[str]) -> None:
    """Return when publishing has gone on for a while."""
    enough = len(confirmed) + 200
    wait_for(lambda: len(confirmed) >= enough, timeout_s=120)


def wait_for(condition: object, timeout_s: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.02)):
        if condition():  # type: ignore[operator]
            return
        pause.wait(0.02)
    raise AssertionError("the condition did not come true")
