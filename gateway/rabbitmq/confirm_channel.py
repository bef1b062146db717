"""A channel in confirm mode that comes back by itself, on the event loop of the thread that owns it."""

import logging
import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Protocol

import pika
from pika.adapters.select_connection import IOLoop
from pika.exceptions import ChannelWrongStateError, ConnectionClosedByBroker, ConnectionWrongStateError

from gateway.errors import Nacked, Unroutable
from gateway.rabbitmq import amqp
from gateway.rabbitmq.coalesced import coalesce, flush
from gateway.rabbitmq.in_flight import InFlight, Outgoing
from gateway.rabbitmq.presence import Presence
from gateway.rabbitmq.request_reply import is_direct
from gateway.reporting.redaction import redact

#: How long a close waits for RabbitMQ's farewell, in seconds.
CLOSE_TIMEOUT_S = 3.0

#: How long after an alarm a message is looked for that was sent before it, in seconds.
FORGET_ALARM_S = 30.0

#: Reply codes with which RabbitMQ ends a connection over something that we have sent: frame, syntax and command errors.
_OUR_FAULT = frozenset({501, 502, 503, 505})

logger = logging.getLogger(__name__)


class Settled(Enum):
    """RabbitMQ's word about a message."""

    STORED = auto()
    REFUSED = auto()
    MISSING = auto()  # the queue; the message came back


class Owner(Protocol):
    """Who sends over the channel and hears what becomes of it, on the loop's thread."""

    def on_ready(self) -> None: ...
    def on_settled(self, outgoing: Outgoing, settled: Settled) -> None: ...
    def on_lost(self, lost: list[Outgoing], blame: str | None) -> None:
        """Messages without a word about them; `blame` is RabbitMQ's reason when one of them was the cause."""


class ConfirmChannel:
    """Connects, opens a channel, and does both again when they are lost, with backoff. For the loop's thread.

    `ready` is set while messages can be sent: connected, in confirm mode, no alarm. Any thread may wait for it.
    """

    def __init__(self, parameters: pika.URLParameters, owner: Owner, *, stopping: threading.Event) -> None:
        self.ready = threading.Event()
        self.in_flight = InFlight()
        self._parameters = parameters
        self._owner = owner
        self._presence = Presence(
            self._on_presence,
            lambda lost: owner.on_lost(lost, None),
            self._call_later,
        )
        self._stopping = stopping
        self._loop: Any = None
        self._connection: Any = None
        self._channel: Any = None
        self._blocked = False
        self._pause_s = amqp.FIRST_PAUSE_S

    def open(self, loop: IOLoop) -> None:
        """Begin to connect; from now on the channel belongs to this loop."""
        self._loop = loop
        self._connect()

    @property
    def unanswered(self) -> list[Outgoing]:
        """What RabbitMQ has said nothing of: messages that were sent, and those whose client is asked about."""
        return [*self.in_flight.messages(), *self._presence.messages()]

    def send(self, outgoing: Outgoing) -> bool:
        """Send a message; False, for another time, when the channel has just gone. One that has no wire form fails."""
        if self.in_flight.take_over(outgoing):
            return True
        direct = is_direct(outgoing.queue)
        if direct and not outgoing.present and not outgoing.dispensable:
            self._presence.ask(self._connection, outgoing)
            return True
        try:
            self._channel.basic_publish("", outgoing.queue, outgoing.body, outgoing.properties, mandatory=not direct)
        except (ChannelWrongStateError, ConnectionWrongStateError):
            self.ready.clear()  # the end of the channel is about to be reported
            return False
        except Exception as error:  # noqa: BLE001 - pika encodes a message before it sends a byte of it
            cause = type(error).__name__
            outgoing.fail(Nacked(f"A message to {outgoing.queue} cannot be encoded ({cause})", queue=outgoing.queue))
        else:
            self.in_flight.add(outgoing)
        return True

    def flush(self) -> None:
        """What was sent leaves now."""
        if self._connection is not None and self._connection.is_open:
            flush(self._connection)

    def close(self) -> None:
        """Close in order and end the loop; a connection that is being opened is closed when it is open. Idempotent."""
        self.ready.clear()
        if self._connection is None or self._connection.is_closed:
            self._loop.stop()
        elif self._connection.is_open:
            self._connection.close()
        self._loop.call_later(CLOSE_TIMEOUT_S, self._loop.stop)

    def abandon(self) -> None:
        """Report everything in flight as lost. The loop has ended: the connection is left to the garbage collector."""
        self._lose(blame=None)
        self._presence.give_up()
        self._connection = None

    def next_pause_s(self) -> float:
        """How long to wait before the next connection, in seconds."""
        pause_s = self._pause_s
        self._pause_s = min(pause_s * 2, amqp.LONGEST_PAUSE_S)
        return amqp.backoff_s(pause_s)

    def _connect(self) -> None:
        if self._stopping.is_set():
            self._loop.stop()
            return
        self._connection = pika.SelectConnection(
            self._parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_connection_lost,
            on_close_callback=self._on_connection_lost,
            custom_ioloop=self._loop,
        )

    def _on_open(self, connection: Any) -> None:
        if self._stopping.is_set():
            connection.close()
            return
        self._blocked = False
        coalesce(connection)
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._open_channel()

    def _open_channel(self) -> None:
        self._connection.channel(on_open_callback=self._on_channel_open)

    def _on_channel_open(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _frame: self._on_confirm_mode(channel))

    def _on_confirm_mode(self, channel: Any) -> None:
        self._channel = channel
        self._note_ready()

    def _on_blocked(self, _connection: Any, _method: Any) -> None:
        logger.warning("RabbitMQ takes no publishes: memory or disk alarm")
        self._blocked = True
        self.in_flight.note_alarm()
        self.ready.clear()

    def _on_unblocked(self, _connection: Any, _method: Any) -> None:
        logger.info("RabbitMQ takes publishes again")
        self._blocked = False
        self._loop.call_later(FORGET_ALARM_S, self.in_flight.forget_alarm)
        self._note_ready()

    def _note_ready(self) -> None:
        # Both, in whichever order they come: a channel can be opened during an alarm, and an alarm end without one.
        if self._channel is not None and not self._blocked and not self._stopping.is_set():
            self.ready.set()
            self._owner.on_ready()

    def _call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self._loop.call_later(seconds, call)

    def _on_presence(self, outgoing: Outgoing, there: bool) -> None:
        if not there:
            outgoing.fail(Unroutable(f"The client behind {outgoing.queue} is gone", queue=outgoing.queue))
            return
        outgoing.present = True
        if not outgoing.done:
            self._owner.on_lost([outgoing], None)  # it is the next to be sent
            self._owner.on_ready()

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        self.in_flight.mark_returned(method.routing_key, properties.message_id)

    def _on_confirm(self, frame: Any) -> None:
        self._pause_s = amqp.FIRST_PAUSE_S  # not before: a connection may be lost over its first message
        word = Settled.STORED if isinstance(frame.method, pika.spec.Basic.Ack) else Settled.REFUSED
        for outgoing in self.in_flight.settle(frame.method.delivery_tag, multiple=frame.method.multiple):
            self._owner.on_settled(outgoing, Settled.MISSING if outgoing.returned else word)

    def _on_channel_closed(self, _channel: Any, reason: Any) -> None:
        if not self._connection.is_open:
            return  # the connection goes, and says so itself
        text = redact(f"{reason.reply_code} {reason.reply_text}")
        logger.warning("RabbitMQ closed the publisher's channel: %s", text)
        self._lose(blame=text)
        self._open_channel()

    def _on_connection_lost(self, _connection: Any, reason: Any) -> None:
        ours = isinstance(reason, ConnectionClosedByBroker) and reason.reply_code in _OUR_FAULT
        # The code alone: RabbitMQ's text can repeat bytes of the frame.
        self._lose(blame=f"{reason.reply_code}, which ended the connection" if ours else None)
        self._presence.give_up()
        if self._stopping.is_set():
            self._loop.stop()
            return
        pause_s = self.next_pause_s()
        logger.warning("The publisher has no connection (%s): next try in %.1f s", type(reason).__name__, pause_s)
        self._loop.call_later(pause_s, self._connect)

    def _lose(self, *, blame: str | None) -> None:
        self._channel = None
        self.ready.clear()
        lost, self.in_flight = self.in_flight, InFlight()  # a new channel counts from one again
        self._owner.on_lost(lost.messages(), blame)
