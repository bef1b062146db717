"""The client for asyncio, with aio-pika."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, ChannelNotFoundEntity, DeliveryError, PublishError
from aiormq.exceptions import ChannelAccessRefused
from pamqp.common import FieldTable

from gemini_client import messages
from gemini_client.errors import ClientError, NoAnswer, NotSent, NoWorker, SendUnknown
from gemini_client.mailbox import MOST_KEPT, Event, Mailbox, Settle, Waiting
from gemini_client.messages import DIRECT_REPLY_TO, REQUESTS, Delta, Outgoing, Result

#: RabbitMQ has so many seconds to let us in.
CONNECT_S = 10.0


class AsyncPending:
    """An answer that is waited for: iterate over its deltas, then await its result. For one task at a time."""

    def __init__(self, request_id: str, mailbox: Mailbox, timeout_s: float) -> None:
        self.request_id = request_id
        self._came: asyncio.Queue[tuple[Event, Settle]] = asyncio.Queue()
        self._waiting = Waiting(request_id, lambda *came: self._came.put_nowait(came))
        self._mailbox = mailbox
        self._timeout_s = timeout_s
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._end: Result | ClientError | None = None
        mailbox.expect(self._waiting)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The pieces, as they come; ends with the answer, or whatever comes in its place: `result` tells."""
        while self._end is None:
            event = await self._next()
            if isinstance(event, Delta):
                yield event
            else:
                self._end = event

    async def result(self) -> Result:
        """The answer, when it is there. Raises RequestFailed, Disconnected, NoAnswer."""
        async for _ in self:
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

    async def _next(self) -> Event:
        event, settle = await self._came_in_time()
        settle()
        return event

    async def _came_in_time(self) -> tuple[Event, Settle]:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._came.get()
        except TimeoutError:
            self.give_up()
        try:
            return self._came.get_nowait()  # it may have come in between
        except asyncio.QueueEmpty:
            return NoAnswer(self.request_id, self._timeout_s), lambda: None


class AsyncClient:
    """Any number of tasks of one event loop may use one client; what it promises is what `sync.Client` promises."""

    def __init__(self, url: str, *, queue_name: str | None = None, requests: str = REQUESTS) -> None:
        self._url, self._queue, self._requests = url, queue_name, requests
        self._mailbox = Mailbox(collectable=queue_name is not None)
        self._connecting = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._settling: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Whoever waits gets an error; what nobody has read stays in the named queue. Idempotent."""
        await asyncio.gather(*self._settling, return_exceptions=True)
        if (connection := self._connection) is not None:
            await connection.close()
            self._lost(connection)

    async def ask(self, prompt: str | None = None, *, timeout_s: float = 120.0, **fields: Any) -> Result:
        """The answer to a prompt, or to `messages`; `fields` are the other fields of a request."""
        return await (await self.send(prompt, timeout_s=timeout_s, **fields)).result()

    async def stream(self, prompt: str | None = None, *, timeout_s: float = 120.0, **fields: Any) -> AsyncPending:
        """The same in pieces: iterate over it, then await its `result()`."""
        return await self.send(prompt, timeout_s=timeout_s, stream=True, **fields)

    async def send(self, prompt: str | None = None, *, timeout_s: float = 120.0, **fields: Any) -> AsyncPending:
        """Return when RabbitMQ has confirmed the request; see `sync.Client.send`."""
        if self._queue is None and "expires_at" not in fields:
            fields = {"expires_in_s": timeout_s, **fields}
        outgoing = messages.request(prompt, fields, queue=self._queue)
        pending = AsyncPending(outgoing.request_id, self._mailbox, timeout_s)
        try:
            await self._publish(outgoing, timeout_s)
        except BaseException:
            pending.give_up()
            raise
        pending.confirmed()
        return pending

    async def cancel(self, request_id: str, *, timeout_s: float = 30.0) -> None:
        """Return when RabbitMQ has it. Who waits for the request gets its envelope: cancelled or not."""
        await self._publish(messages.cancel(request_id), timeout_s)

    async def collect(self, request_id: str, *, timeout_s: float = 30.0) -> Result:
        """The answer to a request that was sent before, by this client or one before it with the same queue."""
        pending = AsyncPending(request_id, self._mailbox, timeout_s)
        pending.confirmed()
        try:
            await self._ready()
            return await pending.result()
        finally:
            pending.give_up()

    async def _publish(self, outgoing: Outgoing, timeout_s: float) -> None:
        request_id = outgoing.request_id
        properties = outgoing.properties | {"timestamp": datetime.fromtimestamp(outgoing.properties["timestamp"], UTC)}
        channel = await self._ready()
        try:
            message = aio_pika.Message(outgoing.body, **properties)
            await channel.default_exchange.publish(message, self._requests, mandatory=True, timeout=timeout_s)
        except PublishError:
            raise NoWorker(self._requests, request_id=request_id) from None
        except DeliveryError:
            raise NotSent(f"The queue {self._requests} does not take {request_id}", request_id=request_id) from None
        except (AMQPError, OSError, TimeoutError, asyncio.CancelledError, RuntimeError) as error:
            if isinstance(error, asyncio.CancelledError) and asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            unknown = f"RabbitMQ has not confirmed {request_id}: it may have it"
            raise SendUnknown(unknown, request_id=request_id) from None

    async def _ready(self) -> AbstractChannel:
        async with self._connecting:
            if self._channel is None or self._channel.is_closed:
                try:
                    await self._connect()
                except (AMQPError, OSError, TimeoutError) as error:
                    raise NotSent(f"RabbitMQ does not let us in ({type(error).__name__})") from None
            assert self._channel is not None  # noqa: S101 - made above
            return self._channel

    async def _connect(self) -> None:
        properties: FieldTable = {"connection_name": "gemini-client"}
        connection = await aio_pika.connect(self._url, timeout=CONNECT_S, client_properties=properties)
        try:
            await self._open(connection)
        except BaseException:
            await connection.close()
            raise

    async def _open(self, connection: AbstractConnection) -> None:
        if self._queue is not None:
            await self._declare_if_missing(connection, self._queue)
        channel = await connection.channel(on_return_raises=True)
        await channel.set_qos(prefetch_count=MOST_KEPT)
        queue = await channel.get_queue(self._queue or DIRECT_REPLY_TO, ensure=False)
        try:
            await queue.consume(self._receive, no_ack=self._queue is None, exclusive=self._queue is not None)
        except ChannelAccessRefused:
            raise NotSent(f"Somebody reads the queue {self._queue} already: one client a queue") from None
        self._connection, self._channel = connection, channel
        for closed in (connection.close_callbacks, channel.close_callbacks):
            closed.add(lambda *_: self._lost(connection))

    async def _declare_if_missing(self, connection: AbstractConnection, name: str) -> None:
        """On channels of their own: a queue that is not there closes the one that asks."""
        try:
            await (await connection.channel()).get_queue(name)
        except ChannelNotFoundEntity:
            await (await connection.channel()).declare_queue(name, durable=True)

    def _lost(self, connection: AbstractConnection) -> None:
        if self._connection is connection:
            self._connection = self._channel = None
            self._mailbox.lost()

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        came = messages.incoming(message.body, correlation_id=message.correlation_id, message_id=message.message_id)
        self._mailbox.deliver(came, partial(self._settle, message))

    def _settle(self, message: AbstractIncomingMessage) -> None:
        if self._queue is not None:
            task = asyncio.ensure_future(_acked(message))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)


async def _acked(message: AbstractIncomingMessage) -> None:
    with suppress(AMQPError, ChannelInvalidStateError):  # without the channel it comes again, and is known
        await message.ack()
