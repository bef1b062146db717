"""The two consumers on a real RabbitMQ: what it takes away from them, they notice."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pika
import pytest
from dramatiq.errors import ConnectionClosed

from actors.broker import broker
from bridge.consumer import Consumer
from bridge.relay import Relay
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import WORK
from gateway.resources import Resources
from tests.system.stack import wait_until
from tests.world import World, world

pytestmark = pytest.mark.rabbitmq

#: A delivery tag that no channel knows: acking it has RabbitMQ close the channel, as an overdue ack does.
UNKNOWN_TAG = 999


@pytest.fixture
def here(tmp_path: Path, vhost_url: str) -> Iterator[World]:
    with world(tmp_path, RABBITMQ_URL=vhost_url, QUEUE_EARLY_RELEASE="0") as made:
        connection = pika.BlockingConnection(pika.URLParameters(vhost_url))
        made.topology.declare(connection)
        connection.close()
        yield made


@pytest.fixture
def consumer(here: World) -> Iterator[Consumer]:
    made = broker.consume(WORK, prefetch=2, timeout=100)
    yield made
    with suppress(ConnectionClosed):
        made.close()


def test_a_worker_notices_that_its_channel_was_closed(consumer: Consumer):
    """pika does not tell: the connection stays open, nothing comes any more. Dramatiq makes a new consumer then."""
    assert next(consumer) is None
    consumer.channel.basic_ack(UNKNOWN_TAG)
    with pytest.raises(ConnectionClosed, match="closed the channel"):
        _look_often(consumer)


def test_a_worker_notices_that_its_queue_was_deleted(consumer: Consumer, vhost_url: str):
    with _channel(vhost_url) as channel:
        channel.queue_delete(WORK)
    with pytest.raises(ConnectionClosed, match="cancelled the consumer"):
        _look_often(consumer)


@pytest.mark.parametrize("in_use", [False, True])
def test_the_bridge_consumes_again_after_its_channel_was_closed(here: World, vhost_url: str, in_use: bool):
    """A request that comes afterwards is relayed. pika tells of the end where the channel is just being used."""
    relay = Relay(_resources(here))
    thread = threading.Thread(target=relay.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: _consumers(vhost_url) == 1, what="the bridge to consume")
        first = relay._channel

        def close() -> None:
            first.basic_ack(UNKNOWN_TAG)
            if in_use:
                first.basic_qos(prefetch_count=1)

        first.connection.add_callback_threadsafe(close)
        wait_until(
            lambda: relay._channel is not first and _consumers(vhost_url) == 1, what="the bridge to consume again"
        )
        with _channel(vhost_url) as channel:
            channel.basic_publish("", "gemini.requests", b'{"request_id": "r-1", "prompt": "Hello"}')
        wait_until(lambda: here.publisher.to(WORK), what="the request to be relayed")
    finally:
        relay.resources.stopping.set()
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
    """A channel on a connection of its own."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    yield connection.channel()
    connection.close()


def _consumers(url: str) -> int:
    with _channel(url) as channel:
        return int(channel.queue_declare("gemini.requests", passive=True).method.consumer_count)
