"""Connecting: what is refused for good, and what is waited out."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pika
import pytest

from dev.rabbitmq import Server, vhost_of
from gateway.errors import TopologyError
from gateway.rabbitmq import amqp

START = pika.frame.Method(
    0, pika.spec.Connection.Start(server_properties={"capabilities": {}}, mechanisms="PLAIN", locales="en_US")
).marshal()


@contextmanager
def a_server_that_goes_down_in_the_handshake() -> Iterator[int]:
    """Greets like RabbitMQ, reads the credentials and ends every connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer, suppress(OSError):  # it may have left
                    peer.recv(8)
                    peer.sendall(START)
                    peer.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_server_that_goes_down_in_the_handshake_is_no_wrong_password():
    """F8, F10: pika takes it for one, and a worker that believed it would give up during every restart of RabbitMQ."""
    with a_server_that_goes_down_in_the_handshake() as port:
        parameters = amqp.parameters(f"amqp://guest:guest@127.0.0.1:{port}/", name="test")
        with pytest.raises(TopologyError, match="cannot be reached"):
            amqp.connect(parameters, deadline_s=0.3)


def test_a_server_that_says_nothing_is_waited_for():
    """F9, F10: it is frozen, and the system takes the connection for it. pika's own error for that is no AMQPError."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        parameters = amqp.parameters(f"amqp://guest:guest@127.0.0.1:{listener.getsockname()[1]}/", name="test")
        parameters.stack_timeout = 0.05
        with pytest.raises(TopologyError, match="cannot be reached"):
            amqp.connect(parameters, deadline_s=0.3)


def test_a_stop_ends_the_wait_for_a_server():
    """Whoever is asked to stop does not wait a minute for RabbitMQ."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(TopologyError, match="cannot be reached"):
        amqp.connect(amqp.parameters("amqp://127.0.0.1:1/", name="test"), deadline_s=3600, stop=stop)


@pytest.mark.rabbitmq
def test_a_full_server_is_waited_for(vhost_url: str, rabbitmq_server: Server):
    """A limit of connections is reached at every rolling deploy, and passes."""
    parameters = amqp.parameters(vhost_url, name="test")
    limit = f"vhost-limits/{vhost_of(vhost_url)}/max-connections"
    with closing(amqp.connect(parameters, deadline_s=20)):
        rabbitmq_server.api("PUT", limit, {"value": 1})
        with pytest.raises(TopologyError, match="limit of connections"):
            amqp.connect(parameters, deadline_s=0.5)
    rabbitmq_server.api("DELETE", limit)
    amqp.connect(parameters, deadline_s=20).close()


def test_an_operator_sees_which_connection_it_is():
    """RabbitMQ's list of connections shows the name."""
    parameters = amqp.parameters("amqp://127.0.0.1/", name="bridge.consumer")
    assert parameters.client_properties["connection_name"] == "gemini-bridge.consumer"
