"""The client for threads, with pika."""

import queue
import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from functools import partial
from typing import Any, Self

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker, NackError, UnroutableError

from gemini_client import messages
from gemini_client.connection import Connection
from gemini_client.errors import ClientError, NoAnswer, NotSent, NoWorker, SendUnknown
from gemini_client.mailbox import MOST_KEPT, Event, Mailbox, Settle, Waiting
from gemini_client.messages import DIRECT_REPLY_TO, REQUESTS, Delta, Outgoing, Result

#: RabbitMQ's words for "there is none" and "somebody reads it already".
NOT_FOUND, ACCESS_REFUSED = 404, 403


class Pending:
    """An answer that is waited for: iterate over its deltas, then ask for the result. For one thread at a time."""

    def __init__(self, request_id: str, mailbox: Mailbox, timeout_s: float) -> None:
        self.request_id = request_id
        self._came: queue.SimpleQueue[tuple[Event, Settle]] = queue.SimpleQueue()
        self._waiting = Waiting(request_id, lambda *came: self._came.put(came))
        self._mailbox = mailbox
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._end: Result | ClientError | None = None
        mailbox.expect(self._waiting)

    def __iter__(self) -> Iterator[Delta]:
        """The pieces, as they come; ends with the answer, or whatever comes in its place: `result` tells."""
        while self._end is None:
            event = self._next()
            if isinstance(event, Delta):
                yield event
            else:
                self._end = event

    def result(self) -> Result:
        """The answer, when it is there. Raises RequestFailed, Disconnected, NoAnswer."""
        for _ in self:
            pass
        if isinstance(self._end, ClientError):
            raise self._end
        assert self._end is not None  # noqa: S101 - the iteration ends with it
        return self._end

    def confirmed(self) -> None:
        self._waiting.confirmed = True

    def give_up(self) -> None:
        """What comes is kept for `collect`."""
        self._mailbox.forget(self._waiting)

    def _next(self) -> Event:
        event, settle = self._came_in_time()
        settle()
        return event

    def _came_in_time(self) -> tuple[Event, Settle]:
        try:
            return self._came.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except queue.Empty:
            self.give_up()
        try:
            return self._came.get_nowait()  # it may have come in between
        except queue.Empty:
            return NoAnswer(self.request_id, self._timeout_s), lambda: None


class Client:
    """Any number of threads may use one client; it has one connection, and a thread that serves it.

    Answers come by direct reply-to, or to the durable `queue_name`, which this client alone reads: what nobody waited
    for is still there for `collect`, in a later process too. When the connection ends, every request that waits gets
    an error that says what is known of it, and the next call connects again.
    """

    def __init__(self, url: str, *, queue_name: str | None = None, requests: str = REQUESTS) -> None:
        self._queue, self._requests = queue_name, requests
        self._mailbox = Mailbox(collectable=queue_name is not None)
        self._connection = Connection(url, opened=self._opened, lost=self._mailbox.lost)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Whoever waits gets an error; what nobody has read stays in the named queue. Idempotent."""
        self._connection.close()

    def ask(self, prompt: str | None = None, *, timeout_s: float = 120.0, **fields: Any) -> Result:
        """The answer to a prompt, or to `messages`; `fields` are the other fields of a request."""
        return self.send(prompt, timeout_s=timeout_s, **fields).result()

    def stream(self, prompt: str | None = None, *, timeout_s: float = 120.0, **fields: Any) -> Pending:
        """The same in pieces: iterate over it, then ask for its `result()`."""
        return self.send(prompt, timeout_s=timeout_s, stream=True, **fields)

    def send(self, prompt: str | None = None, *, timeout_s: float = 120.0, **fields: Any) -> Pending:
        """Return when RabbitMQ has confirmed the request; its answer is waited for `timeout_s` seconds from now.

        By direct reply-to nobody could read a later answer: the request expires then, if it says nothing else of it.
        Raises NotSent, NoWorker, SendUnknown.
        """
        if self._queue is None and "expires_at" not in fields:
            fields = {"expires_in_s": timeout_s, **fields}
        outgoing = messages.request(prompt, fields, queue=self._queue)
        pending = Pending(outgoing.request_id, self._mailbox, timeout_s)
        try:
            self._publish(outgoing, timeout_s, pending)
        except BaseException:
            pending.give_up()
            raise
        return pending

    def cancel(self, request_id: str, *, timeout_s: float = 30.0) -> None:
        """Return when RabbitMQ has it. Who waits for the request gets its envelope: cancelled or not."""
        self._publish(messages.cancel(request_id), timeout_s)

    def collect(self, request_id: str, *, timeout_s: float = 30.0) -> Result:
        """The answer to a request that was sent before, by this client or one before it with the same queue."""
        pending = Pending(request_id, self._mailbox, timeout_s)
        pending.confirmed()
        try:
            self._connection.submit(lambda _channel: None).result(timeout_s)  # connects
            return pending.result()
        except NotInTime:
            raise NoAnswer(request_id, timeout_s) from None
        finally:
            pending.give_up()

    def _publish(self, outgoing: Outgoing, timeout_s: float, pending: Pending | None = None) -> None:
        request_id = outgoing.request_id
        unknown = SendUnknown(f"RabbitMQ has not confirmed {request_id}: it may have it", request_id=request_id)
        try:
            self._connection.submit(partial(self._put, outgoing, pending)).result(timeout_s)
        except UnroutableError:
            raise NoWorker(self._requests, request_id=request_id) from None
        except NackError:
            raise NotSent(f"The queue {self._requests} does not take {request_id}", request_id=request_id) from None
        except (NotInTime, AMQPError, OSError):
            raise unknown from None

    def _put(self, outgoing: Outgoing, pending: Pending | None, channel: Any) -> None:
        properties = pika.BasicProperties(**outgoing.properties)
        channel.basic_publish("", self._requests, outgoing.body, properties, mandatory=True)
        if pending is not None:
            pending.confirmed()

    def _opened(self, channel: Any) -> None:
        if self._queue is None:
            channel.basic_consume(DIRECT_REPLY_TO, self._receive, auto_ack=True)
            return
        _declare_if_missing(channel, self._queue)
        channel.basic_qos(prefetch_count=MOST_KEPT)
        try:
            channel.basic_consume(self._queue, self._receive, exclusive=True)
        except ChannelClosedByBroker as closed:
            if closed.reply_code != ACCESS_REFUSED:
                raise
            raise NotSent(f"Somebody reads the queue {self._queue} already: one client a queue") from None

    def _receive(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        came = messages.incoming(body, correlation_id=properties.correlation_id, message_id=properties.message_id)
        self._mailbox.deliver(came, partial(self._settle, channel, method.delivery_tag))

    def _settle(self, channel: Any, tag: int) -> None:
        """On the thread of the connection, whoever calls."""
        if self._queue is not None:
            with suppress(AMQPError):  # without the connection it comes again, and is known by its message_id
                channel.connection.add_callback_threadsafe(partial(channel.basic_ack, tag))


def _declare_if_missing(channel: Any, name: str) -> None:
    """On a channel of its own: a queue that is not there closes the one that asks."""
    asking = channel.connection.channel()
    try:
        asking.queue_declare(name, passive=True)
    except ChannelClosedByBroker as closed:
        if closed.reply_code != NOT_FOUND:
            raise
        channel.queue_declare(name, durable=True)
    else:
        asking.close()
