"""Both clients behind one face, for tests, and a worker that does what a test says."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pika

from gemini_client.aio import AsyncClient, AsyncPending
from gemini_client.messages import Delta, Result
from gemini_client.sync import Client


class Loop:
    """An event loop on a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Waited:
    """A `Pending` of the asyncio client, as the other one is."""

    def __init__(self, loop: Loop, pending: AsyncPending) -> None:
        self.loop, self.pending, self.request_id = loop, pending, pending.request_id

    def __iter__(self) -> Iterator[Delta]:
        pieces = self.pending.__aiter__()
        while True:
            try:
                yield self.loop.run(anext(pieces))
            except StopAsyncIteration:
                return

    def result(self) -> Result:
        return self.loop.run(self.pending.result())


class OnALoop:
    """The asyncio client, as the other one is."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.loop = Loop()
        self.client = self.loop.run(self._made(*args, **options))

    async def _made(self, *args: Any, **options: Any) -> AsyncClient:
        return AsyncClient(*args, **options)

    def send(self, *args: Any, **fields: Any) -> Waited:
        return Waited(self.loop, self.loop.run(self.client.send(*args, **fields)))

    def stream(self, *args: Any, **fields: Any) -> Waited:
        return Waited(self.loop, self.loop.run(self.client.stream(*args, **fields)))

    def ask(self, *args: Any, **fields: Any) -> Result:
        return self.loop.run(self.client.ask(*args, **fields))

    def collect(self, *args: Any, **fields: Any) -> Result:
        return self.loop.run(self.client.collect(*args, **fields))

    def cancel(self, *args: Any, **fields: Any) -> None:
        self.loop.run(self.client.cancel(*args, **fields))

    def close(self) -> None:
        self.loop.run(self.client.close())

    def end(self) -> None:
        """Its loop, too."""
        self.close()
        self.loop.end()


CLIENTS = {"sync": Client, "asyncio": OnALoop}


class Scripted:
    """Reads gemini.requests in place of a worker; a test says what is answered."""

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.queue_declare("gemini.requests", durable=True)

    def next(self) -> tuple[dict[str, Any], pika.BasicProperties]:
        for method, properties, body in self.channel.consume("gemini.requests", inactivity_timeout=30):
            assert method is not None, "no request came"
            self.channel.basic_ack(method.delivery_tag)
            return json.loads(body), properties
        raise AssertionError

    def say(self, to: pika.BasicProperties, message_id: str | None = None, **told: Any) -> None:
        told = {"request_id": to.correlation_id, **told}
        properties = pika.BasicProperties(correlation_id=to.correlation_id, message_id=message_id)
        self.channel.basic_publish("", to.reply_to, json.dumps(told), properties)
        self.connection.process_data_events(0)

    def answer(self, to: pika.BasicProperties, content: str = "Hello", message_id: str | None = "m-1") -> None:
        self.say(to, message_id, status="success", content=content, usage={"total_tokens": 3})

    def close(self) -> None:
        self.connection.close()
