"""What pika is about to send leaves together, and arrives as it was."""

import ssl
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pika
import pytest
from pika.adapters.utils.io_services_utils import _AsyncSSLTransport

from gateway.rabbitmq import amqp
from gateway.rabbitmq.coalesced import LONGEST, _Joined, coalesce, flush
from gateway.rabbitmq.settling import Settling

PERSISTENT = pika.BasicProperties(delivery_mode=2)


class CountedSocket:
    """A socket that counts how often it is sent to."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.sends = 0

    def send(self, data: bytes) -> int:
        self.sends += 1
        return int(self._sock.send(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.fixture
def connection(vhost_url: str) -> Iterator[pika.BlockingConnection]:
    parameters = amqp.parameters(vhost_url, name="test")
    parameters.heartbeat = 0  # it would be counted
    made = amqp.connect(parameters, deadline_s=60)
    yield made
    made.close()


def counted(connection: pika.BlockingConnection) -> CountedSocket:
    transport = connection._impl._transport
    transport._sock = CountedSocket(transport._sock)
    return transport._sock


@pytest.mark.rabbitmq
def test_a_burst_of_publishes_is_one_system_call(connection: pika.BlockingConnection):
    """By itself pika makes three for each."""
    channel = connection.channel()
    channel.queue_declare("burst")
    sock = counted(connection)
    for number in range(20):
        channel._impl.basic_publish("", "burst", f"{number}".encode(), PERSISTENT)
    connection.process_data_events(0.01)
    assert sock.sends == 1
    assert [channel.basic_get("burst")[2] for _ in range(20)] == [f"{number}".encode() for number in range(20)]


@pytest.mark.rabbitmq
def test_a_burst_of_acks_is_one_system_call(connection: pika.BlockingConnection):
    """And each is an ack: nothing comes back."""
    channel = connection.channel()
    channel.queue_declare("burst")
    for _ in range(20):
        channel.basic_publish("", "burst", b"")
    tags = [channel.basic_get("burst")[0].delivery_tag for _ in range(20)]
    sock = counted(connection)
    for tag in tags[:19]:
        Settling(channel).basic_ack(tag)
    Settling(channel).basic_nack(tags[19], requeue=True)
    connection.process_data_events(0.01)
    assert sock.sends == 1
    channel.close()
    assert connection.channel().queue_declare("burst", passive=True).method.message_count == 1


@pytest.mark.rabbitmq
def test_what_waits_can_be_sent_at_once(connection: pika.BlockingConnection):
    """Without another turn of the loop; when nothing waits, nothing happens."""
    channel = connection.channel()
    channel.queue_declare("now")
    sock = counted(connection)
    channel._impl.basic_publish("", "now", b"now", PERSISTENT)
    assert sock.sends == 0
    flush(connection._impl)
    flush(connection._impl)
    assert sock.sends == 1


@pytest.mark.rabbitmq
@pytest.mark.parametrize("size", [1, LONGEST - 1, LONGEST, LONGEST + 1, 5_000_000])
def test_a_body_of_any_size_arrives_as_it_was(connection: pika.BlockingConnection, size: int):
    """Between two others, over as many sends as the kernel asks for."""
    channel = connection.channel()
    channel.queue_declare("sizes")
    bodies = [b"before", bytes(range(256)) * (size // 256) + b"." * (size % 256), b"after"]
    for body in bodies:
        channel._impl.basic_publish("", "sizes", body, PERSISTENT)
    connection.process_data_events(0.01)
    assert [channel.basic_get("sizes", auto_ack=True)[2] for _ in bodies] == bodies


def test_the_rest_of_a_partial_send_stays_in_front():
    """As pika puts it back."""
    waiting = _Joined()
    waiting.append(b"abc")
    waiting.append(b"def")
    chunk = waiting.popleft()
    waiting.appendleft(chunk[4:])
    waiting.append(b"ghi")
    assert b"".join(waiting) == b"efghi"


def test_a_connection_that_has_ended_at_once_is_left_alone():
    """pika's constructor may return one; whoever uses it hears of it."""
    coalesce(cast("Any", SimpleNamespace(_transport=None)))


def test_a_tls_connection_says_that_it_takes_no_more_now():
    """gevent's `send` returns 0 instead, and pika's loop would spin until RabbitMQ reads again."""

    class Full:
        def send(self, _data: bytes) -> int:
            return 0

        def write(self, _data: bytes) -> int:
            raise ssl.SSLWantWriteError

    transport = _AsyncSSLTransport.__new__(_AsyncSSLTransport)
    transport._tx_buffers = deque([b"frame"])
    transport._sock = Full()
    coalesce(cast("Any", SimpleNamespace(_transport=transport)))
    with pytest.raises(ssl.SSLWantWriteError):
        transport._produce()
    assert list(transport._tx_buffers) == [b"frame"]
