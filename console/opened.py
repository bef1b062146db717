"""What commands use: the settings of a worker, its stores, its keys, its RabbitMQ; each opened when it is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import pika

from gateway.keys.pool import KeyPool
from gateway.rabbitmq import amqp
from gateway.resources import Stores, key_pool, open_stores
from gateway.settings import Settings, load_settings

#: How long to wait for RabbitMQ, in seconds: somebody sits there and waits too.
CONNECT_DEADLINE_S = 5.0


@dataclass(frozen=True)
class Opened:
    """The settings, and the stores of a worker that has the same."""

    settings: Settings
    stores: Stores

    @cached_property
    def pool(self) -> KeyPool:
        return key_pool(self.settings, self.stores.keys)


@contextmanager
def opened(*, need_keys: bool = False) -> Iterator[Opened]:
    """Open the stores. Raises SettingsError, StoreUnavailable."""
    settings = load_settings(need_keys=need_keys)
    stores = open_stores(settings)
    try:
        yield Opened(settings, stores)
    finally:
        stores.close()


@contextmanager
def rabbitmq(settings: Settings, *, name: str = "console") -> Iterator[pika.BlockingConnection]:
    """A connection. Raises TopologyError, with what to do."""
    connection = connect(settings, name=name)
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


def connect(settings: Settings, *, name: str) -> pika.BlockingConnection:
    """A connection that whoever asks closes. Raises TopologyError, with what to do."""
    parameters = amqp.parameters(settings.amqp_address, name=name)
    parameters.blocked_connection_timeout = CONNECT_DEADLINE_S  # an alarm: nobody wants to wait for its end here
    return amqp.connect(parameters, deadline_s=CONNECT_DEADLINE_S)
