"""Requests and their answers, as a backend has them: its own reply queue, publisher confirms, one connection."""

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Self

import pika
from pika.exceptions import UnroutableError

from console.opened import CONNECT_DEADLINE_S
from gateway.errors import Unroutable
from gateway.messages import now
from gateway.rabbitmq import amqp
from gateway.rabbitmq.topology import Topology
from gateway.settings import Settings, SettingsError

#: How long a reply queue stays when nobody reads it, in milliseconds: an answer that comes late finds it for a day, and
#: is then gone with it, instead of lying in the dead queue.
LEFT_FOR_MS = 86_400_000


class Conversation:
    """Sends requests and hands out their envelopes. The reply queue is deleted in the end, unless it was left."""

    def __init__(self, settings: Settings) -> None:
        self._queue = f"gemini.ask.{uuid.uuid4().hex[:12]}"
        if (refusal := Topology(settings).refusal(self._queue)) is not None:
            raise SettingsError(f"No answer may go to {self._queue}: it {refusal}. Allow gemini\\.ask\\..* there")
        url = settings.amqp_address
        self._request_queue = settings.request_queue
        parameters = amqp.parameters(url, name="ask")
        parameters.blocked_connection_timeout = CONNECT_DEADLINE_S
        self._connection = amqp.connect(parameters, deadline_s=CONNECT_DEADLINE_S)
        self._channel: Any = self._connection.channel()
        self._channel.confirm_delivery()
        self._channel.queue_declare(self._queue, durable=True, arguments={"x-expires": LEFT_FOR_MS})
        self._came: deque[dict[str, Any]] = deque()
        self._channel.basic_consume(self._queue, self._receive, auto_ack=True)
        self._is_left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._connection.is_open:
            if kind is None and not self._is_left:
                self._channel.queue_delete(self._queue)
            self._connection.close()

    def leave(self) -> None:
        """An answer may come late: the queue stays for a while, to take it."""
        self._is_left = True

    def send(self, request: dict[str, Any]) -> None:
        """Return when RabbitMQ has it. Raises Unroutable when there is no request queue."""
        body = json.dumps({"timestamp": now(), **request, "callback_queue": self._queue}).encode()
        properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, reply_to=self._queue)
        try:
            self._channel.basic_publish("", self._request_queue, body, properties, mandatory=True)
        except UnroutableError:
            text = f"The queue {self._request_queue} does not exist: start a worker, which declares it (gemini run)"
            raise Unroutable(text, queue=self._request_queue) from None

    def answers(
        self, timeout_s: float, *, meanwhile: Callable[[], None] | None = None, every_s: float = 60.0
    ) -> Iterator[dict[str, Any]]:
        """Envelopes, as they come, until none has come for `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while True:
            while self._came:
                yield self._came.popleft()
                deadline = time.monotonic() + timeout_s
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            self._connection.process_data_events(min(left_s, every_s))
            if meanwhile is not None and not self._came:
                meanwhile()

    def _receive(self, _channel: object, _method: object, _properties: object, body: bytes) -> None:
        self._came.append(json.loads(body))
