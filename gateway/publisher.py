"""Confirmed publishing: one connection for the process, pipelined, each message with a deadline of its own.

A thread of its own runs the connection, so heartbeats are served whatever the other threads do. `submit` hands a
message over and returns a future; its result is RabbitMQ's confirm, its exception one of the four PublishErrors.

    submitted ──▶ in flight ──▶ confirmed | nacked | unroutable
        ▲             │
        └─────────────┘ the connection was lost: sent again, with the same message_id, until the deadline

All state but the inbox belongs to the publisher's thread.
"""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop

from gateway import amqp
from gateway.errors import ConfirmTimeout, ConnectionLost, Nacked, PublishError, Unroutable

#: How often deadlines are looked at, in seconds.
TICK_S = 0.25

#: How long a stop waits for RabbitMQ's farewell, in seconds.
CLOSE_TIMEOUT_S = 3.0

#: Deadline of a publish that names none, in seconds.
TIMEOUT_S = 30.0

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Outgoing:
    queue: str
    body: bytes = field(repr=False)
    properties: pika.BasicProperties
    deadline: float
    confirmed: "Future[None]" = field(default_factory=Future)
    sent: bool = False
    returned: bool = False
    redeclared: bool = False


class Publisher:
    """Publishes to queues by name and reports only what RabbitMQ has confirmed.

    `redeclare` is asked once per message to make a queue that is missing; it runs on a thread of its own. Thread-safe.
    Callers bound what is on its way: a worker thread waits for its own confirm, the bridge has its prefetch.
    """

    def __init__(self, url: str, *, name: str, redeclare: Callable[[str], bool] | None = None) -> None:
        self._parameters = amqp.parameters(url, name=name)
        self._redeclare = redeclare
        self._inbox: deque[_Outgoing] = deque()
        self._suspects: deque[_Outgoing] = deque()
        self._in_flight: dict[int, _Outgoing] = {}
        self._tags = itertools.count(1)
        self._ready = threading.Event()
        self._idle = threading.Event()
        self._stopping = False
        self._woken = False
        self._pause_s = amqp.FIRST_PAUSE_S
        self._connection: Any = None
        self._channel: Any = None
        self._loop: Any = None
        self._thread: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        """Whether RabbitMQ takes publishes now: connected, and no memory or disk alarm."""
        return self._ready.is_set()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until RabbitMQ takes publishes, at most `timeout_s` seconds; whether it does."""
        return self._ready.wait(timeout_s)

    def start(self) -> None:
        """Start the thread. Not in the constructor: a process may be forked between the two."""
        self._loop = IOLoop()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for what is on its way, then close; whether all was confirmed. Idempotent."""
        if self._thread is None or not self._thread.is_alive():
            return True
        self._idle.clear()
        self._call(self._note_idle)
        confirmed = self._idle.wait(timeout_s)
        self._call(self._close)
        self._thread.join(2 * CLOSE_TIMEOUT_S)
        return confirmed

    def submit(
        self, queue: str, body: bytes, properties: pika.BasicProperties, *, timeout_s: float = TIMEOUT_S
    ) -> "Future[None]":
        """Hand a message over; the future is done when it is confirmed, refused, or `timeout_s` seconds have passed.

        `properties` need a `message_id`: RabbitMQ returns an unroutable message without saying which one it was.
        """
        if not properties.message_id:
            raise ValueError("a published message needs a message_id")
        outgoing = _Outgoing(queue, body, properties, time.monotonic() + timeout_s)
        self._inbox.append(outgoing)
        if self._stopping:
            _fail(outgoing, ConnectionLost("The publisher has stopped", queue=queue))
        elif not self._woken:
            # One wake-up for a burst. The flag is cleared before the inbox is read, so no message is left behind.
            self._woken = True
            self._call(self._on_wake)
        return outgoing.confirmed

    def publish(
        self, queue: str, body: bytes, properties: pika.BasicProperties, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Publish and wait for the confirm. Raises Unroutable, Nacked, ConfirmTimeout or ConnectionLost."""
        self.submit(queue, body, properties, timeout_s=timeout_s).result()

    # -- from here on: the publisher's thread ------------------------------------------------------------------------

    def _call(self, callback: Callable[[], None]) -> None:
        self._loop.add_callback_threadsafe(callback)

    def _run(self) -> None:
        self._connect()
        self._tick()
        try:
            self._loop.start()
        except Exception:
            logger.exception("The publisher has failed")
            raise
        finally:
            self._stopping = True
            self._ready.clear()
            self._fail_all()
            self._loop.close()

    def _connect(self) -> None:
        if not self._stopping:
            self._connection = pika.SelectConnection(
                self._parameters,
                on_open_callback=self._on_open,
                on_open_error_callback=self._on_lost,
                on_close_callback=self._on_lost,
                custom_ioloop=self._loop,
            )

    def _on_open(self, connection: Any) -> None:
        if self._stopping:
            connection.close()
            return
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._open_channel()

    def _open_channel(self) -> None:
        self._connection.channel(on_open_callback=self._on_channel_open)

    def _on_channel_open(self, channel: Any) -> None:
        self._channel = channel
        self._tags = itertools.count(1)
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _frame: self._on_ready())

    def _on_ready(self) -> None:
        self._pause_s = amqp.FIRST_PAUSE_S
        self._ready.set()
        self._send()

    def _on_blocked(self, _connection: Any, _method: Any) -> None:
        logger.warning("RabbitMQ takes no publishes: memory or disk alarm")
        self._ready.clear()

    def _on_unblocked(self, _connection: Any, _method: Any) -> None:
        logger.info("RabbitMQ takes publishes again")
        self._on_ready()

    def _on_channel_closed(self, _channel: Any, reason: BaseException) -> None:
        """RabbitMQ closes a channel for one message; the others must not go down with it, again and again."""
        if not self._connection.is_open:
            return
        self._ready.clear()
        logger.warning("RabbitMQ closed the publisher's channel: %s", reason)
        lost = self._take_in_flight()
        if len(lost) == 1:
            # It was alone: this is the message that RabbitMQ will not have.
            _fail(lost[0], Nacked(f"RabbitMQ refused the message: {reason}", queue=lost[0].queue))
        else:
            self._suspects.extendleft(reversed(lost))
        self._open_channel()

    def _on_lost(self, _connection: Any, reason: BaseException | str) -> None:
        self._ready.clear()
        if self._stopping:
            self._loop.stop()
            return
        self._inbox.extendleft(reversed(self._take_in_flight()))
        pause_s = amqp.backoff_s(self._pause_s)
        self._pause_s = min(self._pause_s * 2, amqp.LONGEST_PAUSE_S)
        logger.warning("The publisher has no connection (%s): next try in %.1f s", type(reason).__name__, pause_s)
        self._loop.call_later(pause_s, self._connect)

    def _take_in_flight(self) -> list[_Outgoing]:
        taken = list(self._in_flight.values())
        self._in_flight.clear()
        for outgoing in taken:
            outgoing.returned = False
        return taken

    def _on_wake(self) -> None:
        self._woken = False
        self._send()

    def _send(self) -> None:
        """Send what waits; suspects one at a time, each alone in flight."""
        while self._ready.is_set() and (self._suspects or self._inbox):
            if self._suspects and self._in_flight:
                return
            alone = bool(self._suspects)
            outgoing = self._suspects.popleft() if alone else self._inbox.popleft()
            if outgoing.confirmed.done():
                continue
            outgoing.sent = True
            self._in_flight[next(self._tags)] = outgoing
            self._channel.basic_publish("", outgoing.queue, outgoing.body, outgoing.properties, mandatory=True)
            if alone:
                return

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        """Mark the message that was returned; its confirm follows. A return names no delivery tag."""
        for outgoing in self._in_flight.values():
            same = outgoing.queue == method.routing_key and outgoing.properties.message_id == properties.message_id
            if same and not outgoing.returned:
                outgoing.returned = True
                return

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        acked = isinstance(method, pika.spec.Basic.Ack)
        for tag in self._tags_of(method):
            outgoing = self._in_flight.pop(tag, None)
            if outgoing is not None:  # else its deadline has passed
                self._conclude(outgoing, acked=acked)
        if self._suspects:
            self._send()

    def _tags_of(self, method: Any) -> list[int]:
        if not method.multiple:
            return [method.delivery_tag]
        return list(itertools.takewhile(lambda tag: tag <= method.delivery_tag, self._in_flight))

    def _conclude(self, outgoing: _Outgoing, *, acked: bool) -> None:
        if outgoing.returned:
            self._missing(outgoing)
        elif acked:
            _resolve(outgoing)
        else:
            _fail(outgoing, Nacked(f"The queue {outgoing.queue} refused the message", queue=outgoing.queue))

    def _missing(self, outgoing: _Outgoing) -> None:
        outgoing.returned = False
        if self._redeclare is None or outgoing.redeclared:
            _fail(outgoing, Unroutable(f"The queue {outgoing.queue} does not exist", queue=outgoing.queue))
            return
        outgoing.redeclared = True
        threading.Thread(target=self._declare_missing, args=(outgoing,), name="redeclare", daemon=True).start()

    def _declare_missing(self, outgoing: _Outgoing) -> None:
        """Runs on a thread of its own: declaring takes a connection of its own."""
        if self._redeclare is not None and self._redeclare(outgoing.queue):
            logger.warning("The queue %s was missing and has been declared", outgoing.queue)
        self._inbox.append(outgoing)  # a queue that is still missing returns the message again
        self._call(self._send)

    def _tick(self) -> None:
        now = time.monotonic()
        for tag, outgoing in list(self._in_flight.items()):
            if outgoing.deadline <= now:
                del self._in_flight[tag]
                self._expire(outgoing)
        for waiting in (self._inbox, self._suspects):
            for outgoing in [o for o in list(waiting) if o.deadline <= now]:
                waiting.remove(outgoing)
                self._expire(outgoing)
        self._send()
        self._loop.call_later(TICK_S, self._tick)

    def _expire(self, outgoing: _Outgoing) -> None:
        if outgoing.sent:
            text = f"RabbitMQ has not confirmed a message to {outgoing.queue} in time"
            _fail(outgoing, ConfirmTimeout(text, queue=outgoing.queue))
        else:
            text = f"No connection that takes a message to {outgoing.queue} in time"
            _fail(outgoing, ConnectionLost(text, queue=outgoing.queue))

    def _note_idle(self) -> None:
        if self._inbox or self._suspects or self._in_flight:
            self._loop.call_later(0.02, self._note_idle)
        else:
            self._idle.set()

    def _close(self) -> None:
        """Close in order; a connection that is being opened cannot be closed in pika before it is open."""
        self._stopping = True
        self._ready.clear()
        if self._connection is None or self._connection.is_closed:
            self._loop.stop()
        elif self._connection.is_open:
            self._connection.close()
        self._loop.call_later(CLOSE_TIMEOUT_S, self._loop.stop)

    def _fail_all(self) -> None:
        for outgoing in [*self._take_in_flight(), *self._suspects, *self._inbox]:
            _fail(outgoing, ConnectionLost("The publisher has stopped", queue=outgoing.queue))
        self._suspects.clear()
        self._inbox.clear()


def _resolve(outgoing: _Outgoing) -> None:
    with suppress(InvalidStateError):  # it was cancelled, or the publisher has stopped
        outgoing.confirmed.set_result(None)


def _fail(outgoing: _Outgoing, error: PublishError) -> None:
    with suppress(InvalidStateError):
        outgoing.confirmed.set_exception(error)
