"""Calls from other threads into the thread of a blocking connection."""

from collections import deque
from collections.abc import Callable

import pika
from pika.exceptions import ConnectionWrongStateError

#: How long the first call of a burst waits for the others, in seconds. Nobody waits for an ack: the envelope is out.
LINGER_S = 0.003


class ConnectionCalls:
    """Hands calls over to the thread of the connection, which runs them in order between its events.

    A burst wakes that thread once, and what its calls send leaves together.
    """

    def __init__(self, connection: pika.BlockingConnection) -> None:
        self._connection = connection
        self._calls: deque[Callable[[], object]] = deque()
        self._woken = False

    def call_soon(self, call: Callable[[], object]) -> None:
        """Have `call` run on the connection's thread. Raises AMQPError when the connection has ended."""
        if not self._connection.is_open:
            raise ConnectionWrongStateError("the connection has ended")
        self._calls.append(call)
        if not self._woken:  # it is cleared before the calls are run, so none is left behind
            self._woken = True
            self._connection.add_callback_threadsafe(_wake)

    def serve(self, time_limit_s: float, *, hurry: Callable[[], object] = lambda: False) -> None:
        """Process events, at most for so long, then run the calls; on the thread of the connection.

        When the thread was woken for a call it waits for a moment more, until it is in a `hurry`.
        """
        self._connection.process_data_events(time_limit_s)
        if self._woken and not hurry():
            self._connection.process_data_events(LINGER_S)
        self.run()

    def run(self) -> None:
        """Run what has come so far; on the thread of the connection. When that has ended nothing is left to do."""
        self._woken = False
        while self._calls:
            call = self._calls.popleft()
            if self._connection.is_open:
                call()


def _wake() -> None:
    """Nothing: that it was called has ended the wait for events."""
