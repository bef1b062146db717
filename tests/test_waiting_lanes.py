"""While keys are short: whose turn it is between the lanes, and what a look costs."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.broker import requests_wait
from bridge.delivery import Delivered, Delivery
from bridge.waiting import MOST_OPENED, NOT_READY_S
from gateway.errors import StoreUnavailable
from gateway.keys.pool import KeyPool
from gateway.lanes import Lane
from gateway.messages import Job
from gateway.rabbitmq.topology import BATCH
from middleware.attempt import attempt_of
from tests.clock import Clock
from tests.test_waiting import DelayQueues, Room
from tests.world import World, job, world

REQUESTS, WORK = "gemini.requests", "gemini.generate"
WAITS, BATCH_WAITS = "gemini.generate.delay.60s", "gemini.batch.delay.60s"


class Lanes(DelayQueues):
    """Sorts as the request door does, and notes where it was looked."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: Counter[str] = Counter()

    def get(self, queue: str) -> Delivery | None:
        self.looks[queue] += 1
        return super().get(queue)

    def open(self, delivery: Delivery) -> Delivered | None:
        message = super().open(delivery)
        if message is None or delivery.queue != REQUESTS or message.args[0].lane is Lane.INTERACTIVE:
            return message
        self.waiting.setdefault(BATCH, []).append(delivery.body)
        self.turns.filled(BATCH)
        delivery.settle(confirmed=True)
        return None

    def put(self, here: World, queue: str, *jobs: Job) -> None:
        self.waiting.setdefault(queue, []).extend(here.message(one).encode() for one in jobs)


def batch(number: int, **fields: Any) -> Job:
    return job(number, lane=Lane.BATCH, **fields)


@pytest.fixture
def settings() -> dict[str, str]:
    return {}


@pytest.fixture
def here(tmp_path: Path, settings: dict[str, str]) -> Iterator[World]:
    key = {"OPENROUTER_API_KEYS": "sk-or-v1-key-one-1111", "KEYS_MAX_PER_MINUTE": "4"}
    with world(tmp_path, **key, **settings) as made:
        requests_wait.set()
        yield made


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("bridge.waiting.time", SimpleNamespace(monotonic=made))
    return made


def ids(*found: Delivered | None) -> list[str | None]:
    return [one.args[0].request_id if one is not None else None for one in found]


def use_up_the_keys(here: World) -> None:
    for _ in range(4):
        here.pool.acquire("any")


def test_the_interactive_lane_goes_first_wherever_its_requests_lie(here: World):
    """Then batch: who waits, then what is new."""
    queues = Lanes()
    queues.put(here, BATCH_WAITS, batch(1))
    queues.put(here, BATCH, batch(2))
    queues.put(here, REQUESTS, batch(3), job(4))
    room = Room(queues)
    assert ids(*(room.next() for _ in range(4))) == ["r-4", "r-1", "r-2", "r-3"]


def test_sorting_needs_no_key(here: World):
    """However many batch requests are before it, an interactive one is found and waits at the head of its line."""
    queues = Lanes()
    queues.put(here, REQUESTS, *(batch(number) for number in range(3 * MOST_OPENED)), job(1000))
    use_up_the_keys(here)
    room = Room(queues)
    for _ in range(3):
        assert room.next() is None
        assert room.patience_s(60.0) == 0.0
    assert room.next() is None
    assert room.patience_s(60.0) == 1.0
    assert "r-1000" in ids(*queues.parked)
    assert not queues.waiting[REQUESTS]


@pytest.mark.parametrize("settings", [{"INTERACTIVE_RESERVE": "0.5"}])
@pytest.mark.parametrize("where", [BATCH, WORK])
def test_one_of_the_batch_lane_that_is_held_stops_no_interactive_one(
    here: World, clock: Clock, monkeypatch: pytest.MonkeyPatch, where: str
):
    """The store went away when it was taken from its queue, or it lay among the work. Its lane alone has no key."""
    queues = Lanes()
    queues.put(here, where, batch(1))
    room = Room(queues)
    with monkeypatch.context() as patched:
        patched.setattr(here.pool, "acquire", away)
        with suppress(StoreUnavailable):
            room.next()
    for _ in range(2):
        here.pool.acquire("any", lane=Lane.BATCH)
    queues.put(here, REQUESTS, job(1000))
    clock.advance(1.1)
    assert "r-1000" in ids(*(room.next() for _ in range(4)))


def away(*_: object, **__: object) -> None:
    raise StoreUnavailable("away")


def test_what_is_on_its_way_is_bounded(here: World):
    """A look goes on when RabbitMQ has confirmed some of it."""
    queues = Lanes()
    queues.put(here, REQUESTS, *(batch(number) for number in range(5)), job(1000))
    queues.may_sort = False
    room = Room(queues)
    assert room.next() is None
    assert queues.got == []
    assert room.patience_s(60.0) == pytest.approx(NOT_READY_S, abs=1e-6)
    use_up_the_keys(here)
    assert Room(queues).next() is None
    assert queues.got == []


def test_a_look_that_ends_before_the_queue_does_gives_batch_no_key(here: World):
    """An interactive request may lie behind."""
    queues = Lanes()
    queues.put(here, REQUESTS, *(batch(number) for number in range(MOST_OPENED + 1)), job(1000))
    room = Room(queues)
    assert room.next() is None
    assert room.door.keys_are_short
    assert ids(room.next()) == ["r-1000"]


def test_the_heads_of_the_batch_lane_are_read_ahead_too(here: World):
    """Its deadlines are kept, and they stand in nobody's way: each lane has its own."""
    queues = Lanes()
    queues.room = 1
    queues.put(here, BATCH, batch(1, expires_at=time.time() + 5.0))
    queues.put(here, REQUESTS, job(2))
    use_up_the_keys(here)
    assert Room(queues).next() is None
    assert sorted(map(str, ids(*queues.parked))) == ["r-1", "r-2"]


def test_an_interactive_request_costs_what_it_did(here: World, monkeypatch: pytest.MonkeyPatch):
    """Two questions to the store and one look into each queue of its own lane."""
    asked: Counter[str] = Counter()
    for name in ("ready_in_s", "acquire"):
        method = getattr(KeyPool, name)

        def counted(own: KeyPool, *args: Any, name: str = name, method: Any = method, **kwargs: Any) -> Any:
            asked[name] += 1
            return method(own, *args, **kwargs)

        monkeypatch.setattr(KeyPool, name, counted)
    queues = Lanes()
    queues.put(here, REQUESTS, job(1), job(2))
    room = Room(queues)
    assert ids(room.next(), room.next()) == ["r-1", "r-2"]
    assert asked == {"ready_in_s": 2, "acquire": 2}
    waits = here.topology.key_waits[Lane.INTERACTIVE]
    assert queues.looks == {REQUESTS: 2, WORK: 2, **dict.fromkeys(waits, 2)}


@pytest.mark.parametrize("settings", [{"INTERACTIVE_RESERVE": "0.5"}], ids=["half"])
def test_batch_waits_here_while_interactive_requests_are_pushed_and_served(
    here: World, clock: Clock, settings: dict[str, str]
):
    """It keeps no room and no thread, and has its key when its part of the window is free again."""
    queues = Lanes()
    queues.put(here, BATCH, *(batch(number) for number in range(4)))
    room = Room(queues)
    assert ids(*(room.next() for _ in range(3))) == ["r-0", "r-1", None]
    assert ids(*queues.parked) == ["r-2"]
    assert not room.door.keys_are_short
    assert not room.door.holds_one
    assert not queues.turns.somebody_waits
    queues.put(here, WAITS, job(1000, retry_count=1))
    clock.advance(1.0)
    found = room.next()
    assert ids(found) == ["r-1000"]
    assert found is not None
    assert attempt_of(found).lease is not None


@pytest.mark.parametrize("settings", [{"INTERACTIVE_RESERVE": "0.5"}], ids=["half"])
def test_when_it_has_a_key_again_it_is_served_in_order(here: World, clock: Clock, settings: dict[str, str]):
    """Who was read first is the first."""
    queues = Lanes()
    queues.put(here, BATCH, *(batch(number) for number in range(4)))
    room = Room(queues)
    first = [room.next() for _ in range(3)]
    for message in first[:2]:
        assert message is not None
        message.settle()  # without a call: its use does not count
    clock.advance(1.0)
    assert ids(room.next(), room.next()) == ["r-2", "r-3"]
