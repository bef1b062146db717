"""The consumer on a real RabbitMQ: what it holds, through which doors, and what it notices when something goes away."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any, cast

import pika
import pytest
from dramatiq.errors import ConnectionClosed

from actors.broker import broker, requests_wait
from bridge import __main__ as bridge_process
from bridge.consumer import Consumer
from bridge.delivery import Delivered
from bridge.intake import ALWAYS_ROOM, MOST_SUBSCRIPTIONS
from dev.waiting import wait_until
from gateway.keys.pool import Unavailable
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import CALLBACKS, WORK
from gateway.resources import Resources
from middleware.attempt import Outcome, attempt_of
from tests.world import World, job, world

pytestmark = pytest.mark.rabbitmq

REQUESTS = "gemini.requests"
SHORT = "gemini.generate.delay.60s"
ROOM = 4

#: A delivery tag that no channel knows: acking it has RabbitMQ close the channel, as an overdue ack does.
UNKNOWN_TAG = 999


@pytest.fixture
def here(tmp_path: Path, vhost_url: str) -> Iterator[World]:
    with world(tmp_path, RABBITMQ_URL=vhost_url) as made:
        connection = pika.BlockingConnection(pika.URLParameters(vhost_url))
        made.topology.declare(connection)
        connection.close()
        yield made


@pytest.fixture
def consumer(here: World) -> Iterator[Consumer]:
    broker.others.clear()
    broker.parked.take_all()
    made = broker.consume(WORK, prefetch=ROOM, timeout=100)
    yield made
    with suppress(ConnectionClosed):
        made.close()
    broker.others.clear()


def put_requests(url: str, *numbers: int) -> None:
    with _channel(url) as channel:
        for number in numbers:
            channel.basic_publish("", REQUESTS, b'{"request_id": "r-%d", "prompt": "Hello"}' % number, mandatory=True)


def put_work(url: str, here: World, *numbers: int, queue: str = WORK) -> None:
    with _channel(url) as channel:
        for number in numbers:
            channel.basic_publish("", queue, here.message(job(number)).encode(), mandatory=True)


def held(consumer: Consumer, until: Callable[[list[Delivered]], object]) -> list[Delivered]:
    """What the consumer hands out, until that is enough."""
    found: list[Delivered] = []
    deadline = time.monotonic() + 60
    while not until(found):
        assert time.monotonic() < deadline, [message.args[0].request_id for message in found]
        message = next(consumer)
        if message is not None:
            found.append(message)
    return found


def nothing_comes(consumer: Consumer) -> bool:
    return all(next(consumer) is None for _ in range(5))


def answer(*messages: Delivered) -> None:
    for message in messages:
        attempt_of(message).outcome = Outcome.ANSWERED
        message.settle()


def names(messages: list[Delivered]) -> list[str]:
    return [message.args[0].request_id for message in messages]


def test_every_door_is_open(here: World, consumer: Consumer, vhost_url: str):
    """A request, a message of ours, and one that waits while a key is free: over one connection."""
    put_requests(vhost_url, 1)
    put_work(vhost_url, here, 2)
    put_work(vhost_url, here, 3, queue=SHORT)
    found = held(consumer, lambda found: len(found) == 3)
    assert sorted(names(found)) == ["r-1", "r-2", "r-3"]
    assert names(found)[2] == "r-3"
    answer(*found)
    next(consumer)
    wait_until(lambda: _depths(vhost_url, REQUESTS, WORK, SHORT) == [0, 0, 0], what="the acks")


def test_no_more_requests_are_held_than_there_is_room(consumer: Consumer, vhost_url: str):
    """The others are for workers that idle; each that is settled makes room for one."""
    put_requests(vhost_url, *range(10))
    found = held(consumer, lambda found: len(found) == ROOM)
    assert nothing_comes(consumer)
    answer(found[0])
    assert names(held(consumer, len)) == ["r-4"]
    assert nothing_comes(consumer)
    assert _depths(vhost_url, REQUESTS) == [5]


def test_work_of_ours_gets_its_turn_while_requests_fill_the_room(here: World, consumer: Consumer, vhost_url: str):
    """Two of it at once; and when there is more of it, it goes before requests that are new."""
    put_requests(vhost_url, *range(10))
    first = held(consumer, lambda found: len(found) == ROOM)
    put_work(vhost_url, here, *range(20, 30))
    ours = held(consumer, lambda found: len(found) == ALWAYS_ROOM)
    assert names(ours) == ["r-20", "r-21"]
    assert nothing_comes(consumer)
    answer(*first, *ours)
    more = held(consumer, lambda found: len(found) == ROOM)
    assert set(names(more)) <= {f"r-{number}" for number in range(22, 30)}


def test_one_that_is_held_for_a_key_takes_the_room_that_it_is_for(
    here: World, vhost_url: str, monkeypatch: pytest.MonkeyPatch
):
    """F67: with one thread, too. Nothing would be fetched any more."""
    broker.others.clear()
    requests_wait.set()
    made = broker.consume(WORK, prefetch=1, timeout=100)
    waiting = made.waiting
    assert waiting is not None
    put_requests(vhost_url, 1, 2)
    with monkeypatch.context() as meanwhile:
        ready = chain([0.0], repeat(1.0))
        meanwhile.setattr(here.pool, "acquire", lambda _model, **_: Unavailable(1.0, refused=False))
        meanwhile.setattr(here.pool, "ready_in_s", lambda **_: next(ready))
        wait_until(lambda: next(made) is None and waiting.holds_one, what="one to be taken in vain")
    found = held(made, len)
    assert names(found) == ["r-1"]
    answer(*found)
    assert names(held(made, len)) == ["r-2"]
    made.close()
    broker.others.clear()


def park(message: Delivered, *, after_s: float = 60.0, keeps_room: bool = False) -> None:
    attempt_of(message).park("a test", after_s=after_s, keeps_room=keeps_room)
    message.settle()


def test_parked_requests_take_no_room(consumer: Consumer, vhost_url: str):
    """However many there are, others are served meanwhile."""
    put_requests(vhost_url, *range(3 * ROOM))
    for _ in range(3):
        for message in held(consumer, lambda found: len(found) == ROOM):
            park(message)
    put_requests(vhost_url, 99)
    assert names(held(consumer, len)) == ["r-99"]


def test_parked_work_of_ours_does_not_stop_what_follows(here: World, consumer: Consumer, vhost_url: str):
    """RabbitMQ pushes two at a time, and counts the parked ones among them for ever."""
    for number in range(6):
        put_work(vhost_url, here, number)
        for message in held(consumer, len):
            park(message)
    put_requests(vhost_url, *range(10, 10 + ROOM))
    assert len(held(consumer, lambda found: len(found) == ROOM)) == ROOM
    put_work(vhost_url, here, 99)
    assert names(held(consumer, len)) == ["r-99"]


def test_what_waits_for_what_all_wait_for_keeps_its_room(consumer: Consumer, vhost_url: str):
    """More of the same would be fetched without end, and for nothing."""
    put_requests(vhost_url, *range(10))
    for message in held(consumer, lambda found: len(found) == ROOM):
        park(message, keeps_room=True)
    assert nothing_comes(consumer)


def test_a_parked_delivery_is_handed_out_again(consumer: Consumer, vhost_url: str):
    """And is acked on the channel that it came over."""
    put_requests(vhost_url, 1)
    (message,) = held(consumer, len)
    park(message, after_s=0.05)
    again = held(consumer, len)
    assert again == [message]
    answer(message)
    next(consumer)
    consumer.close()
    assert _depths(vhost_url, REQUESTS) == [0]


def test_parked_deliveries_go_back_when_the_worker_stops(consumer: Consumer, vhost_url: str):
    """Another worker starts them while our calls end."""
    put_requests(vhost_url, *range(ROOM))
    for message in held(consumer, lambda found: len(found) == ROOM):
        park(message)
    consumer.stopping.set()
    try:
        wait_until(lambda: next(consumer) or _depths(vhost_url, REQUESTS) == [ROOM], what="them to go back")
    finally:
        consumer.stopping.clear()


def test_a_delivery_that_was_parked_before_a_reconnect_is_handed_out_to_end(here: World, vhost_url: str):
    """RabbitMQ has it back; what the attempt holds is given up by who hands it out next."""
    first = broker.consume(WORK, prefetch=ROOM, timeout=100)
    put_requests(vhost_url, 1)
    (message,) = held(first, len)
    park(message, after_s=0.05)
    first.close()
    second = broker.consume(WORK, prefetch=ROOM, timeout=100)
    held(second, lambda found: message in found)
    assert message.is_gone
    room = second.intake.room
    message.settle()
    assert second.intake.room == room + 1
    second.close()
    broker.others.clear()


def test_all_the_room_is_for_work_of_ours_when_there_are_no_requests(here: World, consumer: Consumer, vhost_url: str):
    """As where a bridge of its own relays everything."""
    put_work(vhost_url, here, *range(10))
    assert len(held(consumer, lambda found: len(found) == ROOM)) == ROOM
    time_for_more = [next(consumer) for _ in range(5)]
    assert len([one for one in time_for_more if one is not None]) <= ALWAYS_ROOM


def test_requests_have_all_the_room_again_after_work_of_ours(here: World, consumer: Consumer, vhost_url: str):
    """Pulled one by one as long as there is work, pushed when there is none."""
    put_work(vhost_url, here, *range(5))
    ours = held(consumer, lambda found: len(found) == ROOM)
    put_requests(vhost_url, *range(10, 20))
    answer(*ours)
    found = held(consumer, lambda found: len(found) >= ROOM)
    while len(found) < 11:
        answer(found[-1])
        found += held(consumer, len)
    assert {f"r-{number}" for number in range(10, 20)} <= set(names(found))
    assert _depths(vhost_url, REQUESTS, WORK) == [0, 0]


def test_a_backlog_is_pushed_again_after_work_of_ours(
    here: World, consumer: Consumer, vhost_url: str, monkeypatch: pytest.MonkeyPatch
):
    """To pull one by one is slow. And what is pushed never takes more room than there is."""
    put_work(vhost_url, here, *range(5))
    running = held(consumer, lambda found: len(found) == ROOM)
    put_requests(vhost_url, *range(10, 40))
    pulled: list[str] = []
    get = consumer.intake.get
    monkeypatch.setattr(consumer.intake, "get", lambda channel, queue: pulled.append(queue) or get(channel, queue))
    found = list(running)
    while len(found) < 35:
        answer(running.pop(0))
        new = held(consumer, lambda _found: consumer.intake.room == 0 or len(_found) > 1)
        found, running = found + new, running + new
        assert len(running) <= ROOM + ALWAYS_ROOM
    assert len(running) <= ROOM
    assert REQUESTS not in pulled


def test_parked_requests_do_not_stop_what_is_pushed(consumer: Consumer, vhost_url: str):
    """RabbitMQ counts them for ever; further subscriptions take their place, and not one for each of them."""
    put_requests(vhost_url, *range(60))
    for _ in range(60):
        (message,) = held(consumer, len)
        park(message)
    assert len(consumer.intake._requests) <= MOST_SUBSCRIPTIONS
    put_requests(vhost_url, 99)
    assert names(held(consumer, len)) == ["r-99"]


def test_a_request_that_is_given_back_is_relayed(here: World, consumer: Consumer, vhost_url: str):
    """It comes again, marked as such; the work queue counts from then on."""
    put_requests(vhost_url, 1)
    (first,) = held(consumer, len)
    first.settle()
    until = time.monotonic() + 60
    while not here.publisher.to(WORK) and time.monotonic() < until:
        assert next(consumer) is None
    (copy,) = here.copies(WORK)
    assert copy.args[0].redelivered
    assert nothing_comes(consumer)
    assert _depths(vhost_url, REQUESTS) == [0]


def test_a_fault_at_a_door_costs_one_message(
    here: World, consumer: Consumer, vhost_url: str, monkeypatch: pytest.MonkeyPatch
):
    """It goes to the dead queue: at the next try it would be the same, and nothing behind it would be read."""
    with monkeypatch.context() as faulty:
        faulty.setattr("bridge.requests.admit", lambda *_args, **_named: 1 / 0)
        put_requests(vhost_url, 1)
        until = time.monotonic() + 60
        while not here.publisher.sent and time.monotonic() < until:
            assert next(consumer) is None
    ((queue, body, _properties),) = here.publisher.sent
    assert (queue, b"r-1" in body) == ("gemini.requests.dead", True)
    put_requests(vhost_url, 2)
    assert names(held(consumer, len)) == ["r-2"]


def test_who_waits_for_a_key_goes_before_requests_that_are_pulled(
    here: World, consumer: Consumer, vhost_url: str, monkeypatch: pytest.MonkeyPatch
):
    """A backlog of requests is pulled one by one for as long as it lasts: nobody would be released meanwhile."""
    for pause in ("LOOK_EVERY_S", "LOOK_IDLE_S"):  # its looks are some seconds apart
        monkeypatch.setattr(f"bridge.waiting.{pause}", 0.0)
    put_work(vhost_url, here, *range(20, 26))
    ours = held(consumer, lambda found: len(found) == ROOM)
    put_requests(vhost_url, *range(10))
    put_work(vhost_url, here, 99, queue=SHORT)
    answer(*ours)
    found = held(consumer, lambda found: len(found) >= ROOM)
    assert "r-99" in names(found)


def test_what_still_runs_takes_the_room_of_the_next_consumer(here: World, consumer: Consumer, vhost_url: str):
    """After a lost connection: its threads are as busy as before."""
    put_requests(vhost_url, *range(10))
    running = held(consumer, lambda found: len(found) == 3)
    with suppress(ConnectionClosed):
        consumer.close()
    assert all(one.is_gone for one in running)
    again = broker.consume(WORK, prefetch=ROOM, timeout=100)
    try:
        assert again.intake.room == 1
        for one in running:
            one.settle()
        assert again.intake.room == ROOM
    finally:
        again.close()


def test_a_consumer_that_has_lost_its_connection_can_be_closed(here: World, consumer: Consumer, vhost_url: str):
    """Dramatiq does so again and again while RabbitMQ is away. What was to be settled a moment later is not."""
    put_requests(vhost_url, 1)
    (first,) = held(consumer, len)
    consumer.connection.close()
    first.settle()
    consumer.call_soon(lambda: None, after_s=1.0)
    for _ in range(2):
        consumer.close()
    assert consumer.intake.room == ROOM


def test_a_delay_queue_that_is_gone_does_not_stop_the_others(here: World, consumer: Consumer, vhost_url: str):
    """RabbitMQ closes the channel over it; the next look opens another."""
    with _channel(vhost_url) as channel:
        channel.queue_delete(SHORT)
    put_work(vhost_url, here, 1, queue="gemini.generate.delay.600s")
    assert names(held(consumer, len)) == ["r-1"]


def test_a_stopping_worker_gives_back_what_it_has_not_started(here: World, consumer: Consumer, vhost_url: str):
    """F51: for another worker, while this one finishes its calls."""
    put_requests(vhost_url, *range(3))
    held(consumer, len)
    consumer.stopping.set()
    for _ in range(3):
        assert next(consumer) is None
    wait_until(lambda: _depths(vhost_url, REQUESTS) == [2], what="the others to go back")
    assert _consumers(vhost_url) == 0


def test_a_worker_notices_that_its_channel_was_closed(consumer: Consumer):
    """pika does not tell: the connection stays open, nothing comes any more. Dramatiq makes a new consumer then."""
    assert next(consumer) is None
    consumer.channel.basic_ack(UNKNOWN_TAG)
    with pytest.raises(ConnectionClosed, match="closed the consumer's channel"):
        _look_often(consumer)


@pytest.mark.parametrize("queue", [REQUESTS, WORK, CALLBACKS])
def test_a_worker_notices_that_its_queue_was_deleted(consumer: Consumer, vhost_url: str, queue: str):
    """F12: the next consumer declares it again."""
    with _channel(vhost_url) as channel:
        channel.queue_delete(queue)
    with pytest.raises(ConnectionClosed, match=f"cancelled the consumer of {queue}"):
        _look_often(consumer)


def test_a_bridge_relays_again_after_its_connection_was_lost(here: World, vhost_url: str):
    """A request that comes afterwards is relayed."""
    resources = _resources(here)
    thread = threading.Thread(target=bridge_process.relay, args=(resources,), daemon=True)
    thread.start()
    try:
        wait_until(lambda: _consumers(vhost_url) == 1, what="the bridge to consume")
        with _channel(vhost_url) as channel:
            channel.queue_delete(REQUESTS)
        wait_until(lambda: _exists(vhost_url, REQUESTS) and _consumers(vhost_url) == 1, what="the bridge to come back")
        put_requests(vhost_url, 1)
        wait_until(lambda: here.publisher.to(WORK), what="the request to be relayed")
    finally:
        resources.stopping.set()
        thread.join(60)
    assert not thread.is_alive()


def _look_often(consumer: Consumer) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        next(consumer)


def _resources(here: World) -> Resources:
    resources = Resources()
    resources.settings.open(here.settings)
    resources.topology.open(here.topology)
    resources.publisher.open(cast("Publisher", here.publisher))
    return resources


@contextmanager
def _channel(url: str) -> Iterator[Any]:
    """A channel on a connection of its own, on which every publish is confirmed."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        connection.close()


def _depths(url: str, *queues: str) -> list[int]:
    with _channel(url) as channel:
        return [int(channel.queue_declare(queue, passive=True).method.message_count) for queue in queues]


def _consumers(url: str) -> int:
    with _channel(url) as channel:
        return int(channel.queue_declare(REQUESTS, passive=True).method.consumer_count)


def _exists(url: str, queue: str) -> bool:
    with suppress(pika.exceptions.ChannelClosedByBroker):
        return bool(_depths(url, queue))
    return False
