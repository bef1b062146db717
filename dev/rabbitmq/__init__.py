"""RabbitMQ for scripts, tests and benchmarks; only Python's standard library is needed."""

from dev.rabbitmq.node import Node
from dev.rabbitmq.server import Server, vhost_of

__all__ = ["Node", "Server", "vhost_of"]
