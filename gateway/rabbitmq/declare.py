"""Declares queues over connections of their own: all of them at boot, and one that has gone missing."""

import threading

import pika

from gateway.errors import GatewayError
from gateway.rabbitmq import amqp
from gateway.rabbitmq.topology import Topology

#: How long a queue stays missing before it is declared again, in seconds: its consumers are told in the meantime.
REDECLARE_PAUSE_S = 1.0


def declare(
    topology: Topology, parameters: pika.URLParameters, *, deadline_s: float, stop: threading.Event | None = None
) -> None:
    """Assert every queue, waiting for RabbitMQ up to `deadline_s` seconds. Raises TopologyError."""
    connection = amqp.connect(parameters, deadline_s=deadline_s, stop=stop)
    try:
        topology.declare(connection)
    finally:
        if connection.is_open:
            connection.close()


def declare_missing(topology: Topology, parameters: pika.URLParameters, queue: str) -> bool:
    """Declare one queue that has gone missing; False when it may not be, or RabbitMQ does not let us.

    One that we need not at once: when a quorum queue is deleted and declared again within milliseconds, RabbitMQ 3.10
    does not tell its consumers. They stay attached to the queue that is gone, and no message ever reaches them.
    """
    if not topology.may_declare(queue):
        return False
    if topology.needs(queue):
        threading.Event().wait(REDECLARE_PAUSE_S)
    try:
        connection = amqp.connect(parameters, deadline_s=5.0, stop=None)
    except GatewayError:
        return False
    try:
        return topology.declare_one(connection, queue)
    except GatewayError:
        return False
    finally:
        if connection.is_open:
            connection.close()
