"""What a backend does: publishes requests, reads envelopes, and looks at queues."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker, NackError

from dev.waiting import TooLate, wait_until


class Answer:
    """An envelope with its AMQP properties and the time it was read."""

    def __init__(self, envelope: dict[str, Any], properties: pika.BasicProperties, at: float) -> None:
        self.envelope = envelope
        self.properties = properties
        self.at = at

    def __getitem__(self, field: str) -> Any:
        return self.envelope[field]


class Backend:
    """A program that uses the worker, on one virtual host."""

    def __init__(self, url: str) -> None:
        self.url = url

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel of a connection of its own. Raises AMQPError, OSError."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            yield connection.channel()
        except Exception:
            _close(connection)
            raise
        # Not after a signal: where one has cut through pika, closing its connection hangs.
        _close(connection)

    def is_let_in(self) -> bool:
        """Whether RabbitMQ answers, takes the user of the URL, and has its virtual host."""
        try:
            with self.channel():
                return True
        except (AMQPError, OSError):
            return False

    def publish(self, *requests: dict[str, Any] | bytes, **properties: Any) -> None:
        """Publish to gemini.requests as a backend does: confirmed, into a queue that it declares itself."""
        with self.channel() as channel:
            channel.queue_declare("gemini.requests", durable=True)
            channel.confirm_delivery()
            for request in requests:
                body = request if isinstance(request, bytes) else json.dumps(request).encode()
                channel.basic_publish("", "gemini.requests", body, _persistent(**properties), mandatory=True)

    def put(self, queue: str, *bodies: bytes) -> None:
        """Publish straight into a queue, and again until RabbitMQ has it.

        A quorum queue refuses what it cannot take in time on a crowded machine. Without a confirm nobody is told.
        """
        with self.channel() as channel:
            channel.confirm_delivery()

            def confirmed(body: bytes) -> bool:
                try:
                    channel.basic_publish("", queue, body, _persistent(), mandatory=True)
                except NackError:
                    return False
                return True

            for body in bodies:
                wait_until(partial(confirmed, body), what=f"a confirm of {queue}")

    def answers(self, count: int, *, queue: str = "gemini.responses", timeout_s: float = 30.0) -> list[Answer]:
        """The next `count` envelopes of a callback queue. Raises TooLate."""
        found: list[Answer] = []
        with self.channel() as channel:
            channel.queue_declare(queue, durable=True)

            def next_one() -> bool:
                method, properties, body = channel.basic_get(queue, auto_ack=True)
                if method is not None:
                    found.append(Answer(json.loads(body), properties, time.time()))
                return len(found) >= count

            try:
                wait_until(next_one, timeout_s=timeout_s, what=f"{count} envelopes in {queue}")
            except TooLate as error:
                raise TooLate(f"{error}: {len(found)} came\n{self.tail()}") from None
        return found

    def depth(self, queue: str) -> int:
        """Ready messages in a queue; 0 when it does not exist."""
        return self._look_at(queue)[0]

    def consumers(self, queue: str) -> int:
        """How many consume a queue; 0 when it does not exist. A worker says that it is ready before it does."""
        return self._look_at(queue)[1]

    def wait_for_depth(self, queue: str, count: int, *, or_more: bool = False) -> None:
        """Return when so many messages lie ready in a queue; what is there instead is said after a minute."""
        found: list[int] = []

        def reached() -> bool:
            found[:] = [self.depth(queue)]
            return found == [count] or (or_more and found[0] > count)

        try:
            wait_until(reached, timeout_s=60, what=f"{count} messages in {queue}")
        except TooLate as error:
            raise TooLate(f"{error}: {found}\n{self.tail()}") from None

    def tail(self) -> str:
        """What helps to understand why something has not come."""
        return ""

    def _look_at(self, queue: str) -> tuple[int, int]:
        with self.channel() as channel:
            try:
                found = channel.queue_declare(queue, passive=True).method
            except ChannelClosedByBroker:
                return 0, 0
            return int(found.message_count), int(found.consumer_count)


def _persistent(**properties: Any) -> pika.BasicProperties:
    return pika.BasicProperties(delivery_mode=2, **properties)


def _close(connection: pika.BlockingConnection) -> None:
    if connection.is_open:
        connection.close()
