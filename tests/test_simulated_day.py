"""A day of overload, with the real line, keys, ledger and schedule; RabbitMQ and the clocks are played."""

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pika
import pytest

from actors import broker as the_broker
from actors.broker import doors
from bridge.delivery import Delivered, Delivery
from bridge.turns import Turns
from gateway.lanes import Lane
from gateway.rabbitmq.topology import BATCH, WORK
from middleware.attempt import Parking
from tests.clock import Clock
from tests.world import Source, World, delivery, job, world

HOUR_S = 3600

PER_MINUTE, OVERLOAD = 2, 1.3

REQUESTS = "gemini.requests"


class Process(Source):
    """Keeps what waits in it until its time has come."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.staying: list[tuple[float, Delivered]] = []

    def park(self, message: Delivered, parking: Parking) -> bool:
        assert parking.for_key
        self.staying.append((self.clock() + parking.after_s, message))
        return True

    def sort_into(self, delivery: Delivery, queue: str) -> None:
        """It has room for everything."""

    def take_due(self) -> Delivered | None:
        due = next((place for place in self.staying if place[0] <= self.clock()), None)
        if due is not None:
            self.staying.remove(due)
        return due[1] if due is not None else None


class Rabbitmq:
    """Queues of numbered messages; what goes back keeps its place. What a consumer does for the waiting door."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.process = Process(clock)
        self.queues: dict[str, list[tuple[int, float, bytes]]] = defaultdict(list)
        self.turns = Turns({Lane.BATCH: (BATCH,)}, share=0.1, clock=clock)
        self.answered: list[int] = []
        self._numbers = itertools.count()

    def put(self, queue: str, body: bytes, *, for_s: float = 0.0) -> None:
        self.queues[queue].append((next(self._numbers), self.clock() + for_s, body))

    def get(self, queue: str) -> Delivery | None:
        if not self.queues[queue]:
            return None
        first = self.queues[queue].pop(0)
        return delivery(Channel(self.queues[queue], first), queue=queue, body=first[2], source=self.process)

    def open(self, delivery: Delivery) -> Delivered:
        return Delivered(the_broker.encoder.read(delivery.body, queue=WORK), delivery)

    @property
    def room(self) -> int:
        return 1

    may_sort = True

    def parked_for_key(self) -> list[Delivered]:
        return [message for _due, message in self.process.staying]

    def unpark(self, message: Delivered) -> None:
        self.process.staying = [place for place in self.process.staying if place[1] is not message]

    def end_waits(self) -> None:
        for queue in [name for name in self.queues if ".delay." in name]:
            while self.queues[queue] and self.queues[queue][0][1] <= self.clock():
                self.put(WORK, self.queues[queue].pop(0)[2])


class Channel:
    is_open = True

    def __init__(self, queue: list[tuple[int, float, bytes]], message: tuple[int, float, bytes]) -> None:
        self.queue = queue
        self.message = message

    def basic_ack(self, delivery_tag: int) -> None:
        pass

    def basic_nack(self, delivery_tag: int, *, requeue: bool) -> None:
        assert requeue
        bisect.insort(self.queue, self.message)


class Day:
    """One worker thread; a call takes no time."""

    def __init__(self, here: World, clock: Clock) -> None:
        self.here = here
        self.clock = clock
        self.rabbitmq = Rabbitmq(clock)
        self.answered: list[int] = []
        self.waited_in: set[str] = set()

    def pass_by(self, hours: int) -> None:
        arrived = 0
        for second in range(hours * HOUR_S):
            while arrived < second * PER_MINUTE * OVERLOAD / 60:
                self.rabbitmq.put(REQUESTS, self.here.message(job(arrived, received_at=self.clock())).encode())
                arrived += 1
            self.rabbitmq.end_waits()
            while self.work():
                self.sort_what_was_published()
            self.clock.advance(1.0)

    def work(self) -> bool:
        """Run one delivery; False when there is none to run now."""
        early = self.here.settings.queue_early_release
        found = self.rabbitmq.process.take_due() or (doors.waiting.next(self.rabbitmq) if early else None)
        if found is None and not (early and doors.waiting.keys_are_short):
            pushed = self.rabbitmq.get(WORK) or self.rabbitmq.get(REQUESTS)
            found = self.rabbitmq.open(pushed) if pushed is not None else None
        if found is None:
            return False
        self.here.run(found)
        return True

    def sort_what_was_published(self) -> None:
        for queue, body, properties in self.here.publisher.sent:
            if queue == "gemini.responses":
                self.answered.append(number_of(properties))
            else:
                self.waited_in.add(queue)
                self.rabbitmq.put(queue, body, for_s=float(queue.rsplit(".", 1)[1].removesuffix("s")))
        self.here.publisher.sent.clear()


def number_of(properties: pika.BasicProperties) -> int:
    return int(str(properties.correlation_id).removeprefix("r-"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr("bridge.waiting.time", SimpleNamespace(monotonic=made))
    monkeypatch.setattr("gateway.messages.time", SimpleNamespace(time=made))
    return made


def seen_after(hours: int, folder: Path, clock: Clock, *, early_release: bool = True) -> Day:
    with world(
        folder,
        clock,
        OPENROUTER_API_KEYS="sk-or-v1-key-one-1111",
        KEYS_MAX_PER_MINUTE=str(PER_MINUTE),
        QUEUE_EARLY_RELEASE=str(early_release),
    ) as here:
        made = Day(here, clock)
        made.pass_by(hours)
    return made


def test_through_a_day_of_overload_nobody_climbs_while_later_ones_are_answered(tmp_path: Path, clock: Clock):
    """F67: the keys' budget is used to the last call, and in the order of arrival."""
    seen = seen_after(24, tmp_path, clock)
    assert seen.waited_in == {"gemini.generate.delay.60s"}
    assert max(abs(place - number) for place, number in enumerate(seen.answered)) <= PER_MINUTE
    assert len(seen.answered) >= (24 * 60 - 1) * PER_MINUTE * 60 / 61


def test_with_the_plain_schedule_requests_climb(tmp_path: Path, clock: Clock):
    """`QUEUE_EARLY_RELEASE=false`: each request waits as long as its step says, whoever comes meanwhile."""
    seen = seen_after(2, tmp_path, clock, early_release=False)
    assert "gemini.generate.delay.600s" in seen.waited_in
