"""Where the figures come from: the builder of the command line, on a connection that stays while somebody looks."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pika
from pika.exceptions import AMQPError

from console.opened import Opened, connect
from console.state import State, build
from gateway.resources import open_stores
from gateway.settings import Settings


class Source:
    """Opens what it needs when it is first asked, and again when it was lost. For one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: Opened | None = None
        self._connection: pika.BlockingConnection | None = None

    def look(self) -> State:
        """The state now. Raises StoreUnavailable."""
        if self._opened is None:
            self._opened = Opened(self._settings, open_stores(self._settings))
        return build(self._opened, self._connected)

    def rest(self) -> None:
        """Nobody looks: give back the connection to RabbitMQ. Idempotent."""
        if self._connection is not None:
            with suppress(AMQPError):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Close everything; idempotent."""
        self.rest()
        if self._opened is not None:
            self._opened.stores.close()
            self._opened = None

    @contextmanager
    def _connected(self, settings: Settings) -> Iterator[pika.BlockingConnection]:
        """The connection; one that has failed is not used again. Raises TopologyError when there can be none."""
        kept, self._connection = self._connection, None
        self._connection = connection = kept if kept is not None and _lives(kept) else connect(settings, name="page")
        try:
            yield connection
        except BaseException:
            self.rest()
            raise


def _lives(connection: pika.BlockingConnection) -> bool:
    """Whether it is open, after it has read what came since the last time."""
    if connection.is_open:
        with suppress(AMQPError):
            connection.process_data_events(0)
    return bool(connection.is_open)
