"""Requests of every kind, each with what must become of it when nothing goes wrong."""

import json
import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import pika
from pika.exceptions import AMQPError

Ending = Literal["success", "error", "dead"]


@dataclass(frozen=True)
class Kind:
    """A kind of request: what the provider does to it, how often it is called for it, and how it ends."""

    name: str
    weight: int
    ending: Ending = "success"
    calls: int = 1
    rule: dict[str, Any] | None = field(default=None, compare=False)
    copies: int = 1
    streams: bool = False


#: The schedule of waits for a faulty provider in a round has two steps, hence three calls for what never succeeds.
KINDS = (
    Kind("plain", 10),
    Kind("slow", 4, rule={"delay_s": 1.0}),
    Kind("longer than RabbitMQ waits for an ack", 1, rule={"delay_s": 6.0, "times": 1}),
    Kind("429 once", 3, calls=2, rule={"status": 429, "times": 1}),
    Kind("500 once", 3, calls=2, rule={"status": 500, "times": 1}),
    Kind("503 always", 1, ending="error", calls=3, rule={"status": 503}),
    Kind("400", 2, ending="error", rule={"status": 400}),
    Kind("invalid", 2, ending="error", calls=0),
    Kind("garbage", 1, ending="dead", calls=0),
    Kind("to a queue that does not exist", 2),
    Kind("sent twice", 1, copies=2),
    Kind("streamed", 4, streams=True, rule={"stream": {"pause_s": 0.1}}),
    Kind("a stream that stops once", 2, calls=2, streams=True, rule={"stream": {"then": "end"}, "times": 1}),
    Kind("a stream that is lost once", 2, calls=2, streams=True, rule={"stream": {"then": "lose"}, "times": 1}),
    Kind("a stream that always fails", 1, "error", calls=3, streams=True, rule={"stream": {"then": "error"}}),
)


#: How many are of the batch lane, and whose requests take turns where that is set.
BATCH_SHARE = 0.3
TENANTS = ("one", "two", "three", None)


@dataclass(frozen=True)
class Request:
    """One request of a round; `id` is in its prompt, where the provider's rules and record find it."""

    id: str
    kind: Kind
    canary: str
    model: str | None = None
    batch: bool = False
    tenant: str | None = None

    @property
    def queue(self) -> str:
        return f"chaos.made.{self.id}" if self.kind.name.startswith("to a queue") else "gemini.responses"

    @property
    def prompt(self) -> str:
        return f"[{self.id}] {self.canary}"

    @property
    def body(self) -> bytes:
        if self.kind.ending == "dead":
            return f"{self.prompt} is not JSON".encode()
        fields: dict[str, Any] = {"request_id": self.id, "prompt": self.prompt, "callback_queue": self.queue}
        if self.kind.streams:
            fields["stream"] = True
        if self.model is not None:
            fields["model"] = self.model
        if self.batch:
            fields["priority"] = "batch"
        if self.tenant is not None:
            fields["metadata"] = {"tenant": self.tenant}
        if self.kind.name == "invalid":
            fields["parameters"] = {"temperature": self.canary}
        return json.dumps(fields).encode()

    @property
    def rules(self) -> list[dict[str, Any]]:
        return [{"prompt": f"[{self.id}]", **self.kind.rule}] if self.kind.rule else []


def requests(count: int, *, name: str, canary: str, rng: random.Random) -> list[Request]:
    kinds = rng.choices(KINDS, [kind.weight for kind in KINDS], k=count)
    return [
        Request(f"{name}-{number}", kind, canary, batch=rng.random() < BATCH_SHARE, tenant=rng.choice(TENANTS))
        for number, kind in enumerate(kinds)
    ]


class Producer:
    """A backend: publishes the requests over `seconds` and notes which ones RabbitMQ has confirmed."""

    def __init__(
        self, url: str, requests: Iterable[Request], *, seconds: float, go: threading.Event | None = None
    ) -> None:
        self.confirmed: list[Request] = []  # once for each copy
        self.unsure: list[Request] = []  # sent, and never heard of again
        self._url = url
        self._todo = [request for request in requests for _ in range(request.kind.copies)]
        self._pause_s = seconds / max(1, len(self._todo))
        self._stop = threading.Event()
        self._go = go
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Wait until everything is published."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise AssertionError(f"the producer has {len(self._todo)} requests left after {timeout_s:g} s")

    def _run(self) -> None:
        while self._todo:
            try:
                self._publish_over(pika.BlockingConnection(self._parameters()))
            except (AMQPError, OSError):
                self._stop.wait(0.3)

    def _parameters(self) -> pika.URLParameters:
        parameters = pika.URLParameters(self._url)
        parameters.blocked_connection_timeout = 2
        parameters.heartbeat = 5
        parameters.socket_timeout = parameters.stack_timeout = 5
        return parameters

    def _publish_over(self, connection: pika.BlockingConnection) -> None:
        channel = connection.channel()
        channel.queue_declare("gemini.requests", durable=True)
        channel.confirm_delivery()
        while self._todo:
            while self._go is not None and not self._go.is_set():
                connection.sleep(0.05)
            request = self._todo.pop(0)
            properties = pika.BasicProperties(delivery_mode=2, message_id=request.id)
            try:
                channel.basic_publish("", "gemini.requests", request.body, properties, mandatory=True)
            except pika.exceptions.UnroutableError:
                self._todo.insert(0, request)  # the queue has just been deleted
                channel.queue_declare("gemini.requests", durable=True)
            except AMQPError:
                self.unsure.append(request)
                raise
            else:
                self.confirmed.append(request)
            connection.sleep(self._pause_s)
        connection.close()
