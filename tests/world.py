"""One delivery through the real middleware and Dramatiq's own worker code, with RabbitMQ and the provider played."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from queue import PriorityQueue
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import dramatiq
import pika
from dramatiq.worker import WorkerThread

from actors import broker as the_broker
from actors.broker import requests_wait, resources
from bridge.delivery import Delivered, Delivery
from gateway.costs.books import Books
from gateway.costs.budget import Budget
from gateway.keys.pool import KeyPool
from gateway.messages import Completion, Job, Request, Usage
from gateway.providers import Provider as RealProvider
from gateway.providers.live import Listener
from gateway.rabbitmq.publisher import Publisher as RealPublisher
from gateway.rabbitmq.topology import WORK, Topology
from gateway.resources import open_stores
from gateway.settings import Settings, load_settings
from middleware.attempt import Parking

Published = tuple[str, bytes, pika.BasicProperties]


class Publisher:
    """Confirms what it is given, unless a test has put an error for the queue."""

    def __init__(self) -> None:
        self.sent: list[Published] = []
        self.refuse: dict[str, list[Exception]] = {}
        self.may_make: dict[str, set[bool]] = {}  # what was said for each queue about making it
        self.ready = True

    def wait_ready(self, timeout_s: float) -> bool:
        return self.ready

    def publish(self, queue: str, body: bytes, properties: pika.BasicProperties, **how: Any) -> None:
        if "makes_queue" in how:
            self.may_make.setdefault(queue, set()).add(how["makes_queue"])
        if self.refuse.get(queue):
            raise self.refuse[queue].pop(0)
        self.sent.append((queue, body, properties))

    def submit(self, queue: str, body: bytes, properties: pika.BasicProperties, **_: Any) -> "Future[None]":
        future: Future[None] = Future()
        try:
            self.publish(queue, body, properties)
        except Exception as error:  # noqa: BLE001 - a future carries any
            future.set_exception(error)
        else:
            future.set_result(None)
        return future

    def offer(self, queue: str, body: bytes, properties: pika.BasicProperties) -> "Future[None]":
        return self.submit(queue, body, properties)

    def to(self, queue: str) -> list[dict[str, Any]]:
        """The bodies that went to one queue."""
        return [json.loads(body) for name, body, _properties in self.sent if name == queue]

    def stop(self, timeout_s: float) -> bool:
        return True


class Provider:
    """Answers with the next scripted completion or error, and notes with which key it was called."""

    def __init__(self) -> None:
        self.script: list[Completion | BaseException] = []
        self.calls: list[str] = []
        self.requests: list[Request] = []
        self.during: Callable[[], None] = lambda: None
        self.speak: Callable[[Listener], None] = lambda _listener: None

    def resolve_model(self, model: str | None) -> str:
        return model or "google/gemini-2.5-flash"

    def check(self, request: Request) -> None:
        """Anything can be asked."""

    def complete(
        self, request: Request, key: Any, *, deadline_s: float, listener: Listener | None = None
    ) -> Completion:
        self.calls.append(key.reveal())
        self.requests.append(request)
        self.during()
        if listener is not None:
            self.speak(listener)
        answer = self.script.pop(0) if self.script else completion()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def with_keys(self, keys: Any) -> "Provider":
        return self

    def close(self) -> None:
        """Nothing to close."""


def completion(text: str = "An answer.") -> Completion:
    return Completion(
        content=text,
        usage=Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7),
        model_used="google/gemini-2.5-flash",
    )


class Channel:
    """Records how deliveries are settled."""

    is_open = True

    def __init__(self) -> None:
        self.sent: list[str] = []

    def basic_ack(self, delivery_tag: int) -> None:
        self.sent.append("ack")

    def basic_nack(self, delivery_tag: int, *, requeue: bool) -> None:
        self.sent.append("requeue" if requeue else "drop")


class Source:
    """Settles at once, and notes what waits for later."""

    def __init__(self) -> None:
        self.later: list[float] = []
        self.gone: list[Delivery] = []
        self.parked: list[tuple[Delivered, Parking]] = []
        self.sorted: list[str] = []

    def call_soon(self, call: Callable[[], object], *, after_s: float = 0.0) -> bool:
        if after_s:
            self.later.append(after_s)
        call()
        return True

    def settled(self, delivery: Delivery) -> None:
        self.gone.append(delivery)

    def park(self, message: Delivered, parking: Parking) -> bool:
        self.parked.append((message, parking))
        return True

    def sort_into(self, delivery: Delivery, queue: str) -> None:
        self.sorted.append(queue)


def delivery(  # what AMQP says of one
    channel: Channel,
    *,
    queue: str = "gemini.requests",
    body: bytes = b"",
    tag: int = 1,
    redelivered: bool = False,
    source: Source | None = None,
    **properties: Any,
) -> Delivery:
    return Delivery(
        source=source or Source(),
        channel=channel,
        queue=queue,
        tag=tag,
        body=body,
        properties=pika.BasicProperties(**properties),
        redelivered=redelivered,
    )


class World:
    """The resources of one test: real pool, ledger, topology and policy; played publisher and provider."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.stores = open_stores(settings)
        self.publisher = Publisher()
        self.provider = Provider()
        self.pool = KeyPool(
            settings.keys,
            self.stores.keys,
            max_per_window=settings.keys_max_per_minute,
            window_s=settings.keys_window_seconds,
            cooldown_s=settings.keys_cooldown_seconds,
            reserve=settings.interactive_reserve,
            clock=clock,
        )
        self.topology = Topology(settings)
        self.books = Books(self.stores.costs, Budget(self.stores.costs, settings.budget_usd_per_day))
        self.on_parked: Callable[[Parking], None] = lambda _parking: _moment()

    def install(self) -> None:
        resources.stopping.clear()
        requests_wait.clear()
        resources.settings.open(self.settings)
        resources.topology.open(self.topology)
        resources.publisher.open(cast("RealPublisher", self.publisher))
        resources.pool.open(self.pool)
        resources.ledger.open(self.stores.ledger)
        resources.usage.open(self.stores.usage)
        resources.books.open(self.books)
        resources.owner.open(self.stores.owner).start()
        resources.provider.open(cast("RealProvider", self.provider))

    def message(self, job: Job, actor: str = "generate", **fields: Any) -> "dramatiq.Message[Any]":
        return dramatiq.Message("gemini.generate", actor, (job,), {}, {}, **fields)

    def deliver(self, message: "dramatiq.Message[Any]") -> tuple[str, ...]:
        """Run one delivery as a Dramatiq worker thread does, as often as it is parked; how it was settled."""
        channel, source = Channel(), Source()
        self.run(Delivered(message, delivery(channel, queue=message.queue_name, source=source)))
        while source.parked:
            parked, parking = source.parked.pop()
            self.on_parked(parking)
            self.run(parked)
        return tuple(channel.sent)

    def run(self, delivered: Delivered) -> None:
        consumer = SimpleNamespace(post_process_message=lambda proxy: proxy.settle())
        work: PriorityQueue[Any] = PriorityQueue()
        work.put(0)
        thread = WorkerThread(broker=the_broker, consumers={WORK: consumer}, work_queue=work, worker_timeout=1)
        thread.process_message(delivered)

    def copies(self, queue: str) -> "list[dramatiq.Message[Any]]":
        """The messages of ours that went to one queue."""
        return [
            the_broker.encoder.read(body, queue=json.loads(body)["queue_name"])
            for name, body, _properties in self.publisher.sent
            if name == queue
        ]

    def close(self) -> None:
        self.stores.owner.stop()
        self.stores.close()


def _moment() -> None:
    """Let others run."""
    threading.Event().wait(0.001)


@contextmanager
def world(folder: Path, clock: Callable[[], float] = time.time, **environment: str) -> Iterator[World]:
    """A world with its own state file and the given settings, as environment variables name them."""
    defaults = {
        "OPENROUTER_API_KEYS": "sk-or-v1-key-one-1111,sk-or-v1-key-two-2222",
        "STATE_PATH": str(folder / "state.sqlite3"),
    }
    with mock.patch.dict(os.environ, {**defaults, **environment}, clear=True):
        settings = load_settings()
    made = World(settings, clock)
    made.install()
    try:
        yield made
    finally:
        made.close()


def job(number: int = 1, **fields: Any) -> Job:
    request = Request(
        request_id=f"r-{number}",
        prompt="Hello canary-prompt",
        callback_queue="gemini.responses",
        metadata={"n": number},
    )
    return Job(**{"request": request, "received_at": 1_700_000_000.0} | fields)
