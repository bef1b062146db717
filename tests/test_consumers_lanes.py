"""Two lanes on a real RabbitMQ: what the consumer sorts out, and whom it hands out first."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pika
import pytest
from dramatiq.errors import ConnectionClosed

from actors.broker import broker, requests_wait, resources
from bridge import intake, turns
from bridge.consumer import Consumer
from bridge.delivery import Delivered
from gateway.lanes import Lane
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import BATCH, WORK
from tests.test_consumers import ROOM, answer, held, names, nothing_comes
from tests.test_consumers import _depths as depths
from tests.world import World, job, world

pytestmark = pytest.mark.rabbitmq

REQUESTS = "gemini.requests"


@pytest.fixture
def settings() -> dict[str, str]:
    return {"BATCH_SHARE": "0.25"}


@pytest.fixture
def here(tmp_path: Path, vhost_url: str, settings: dict[str, str]) -> Iterator[World]:
    with world(tmp_path, RABBITMQ_URL=vhost_url, KEYS_MAX_PER_MINUTE="10000", **settings) as made:
        connection = pika.BlockingConnection(pika.URLParameters(vhost_url))
        made.topology.declare(connection)
        connection.close()
        publisher = resources.publisher.open(Publisher(vhost_url, name="test"))
        publisher.start()
        assert publisher.wait_ready(timeout_s=60)
        yield made
        publisher.stop(timeout_s=10)


@pytest.fixture
def consumer(here: World) -> Iterator[Consumer]:
    broker.others.clear()
    broker.parked.take_all()
    requests_wait.clear()
    made = broker.consume(WORK, prefetch=ROOM, timeout=100)
    if made.waiting is not None:
        made.waiting.rest()
    yield made
    with suppress(ConnectionClosed):
        made.close()
    broker.others.clear()


def put(url: str, lane: Lane, *numbers: int, **metadata: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    for number in numbers:
        fields = {"request_id": f"r-{number}", "prompt": "Hello", "priority": lane, "metadata": metadata}
        channel.basic_publish("", REQUESTS, json.dumps(fields).encode(), mandatory=True)
    connection.close()


def lanes(messages: list[Delivered]) -> list[Lane]:
    return [message.args[0].lane for message in messages]


def served(consumer: Consumer, count: int) -> list[Delivered]:
    """So many, each answered before the next one is taken."""
    found: list[Delivered] = []
    while len(found) < count:
        found += (one := held(consumer, len))
        answer(*one)
    return found


def test_an_interactive_request_passes_every_batch_request_before_it(
    consumer: Consumer, vhost_url: str, monkeypatch: pytest.MonkeyPatch
):
    """However many: they are sorted out, a few at a time in memory, and take no room meanwhile."""
    most, at_once = 32, list[int]()
    sort_into = counting(intake.Intake.sort_into, lambda own: at_once.append(len(own._sorted)))
    monkeypatch.setattr(intake, "MOST_SORTED", most)
    monkeypatch.setattr(intake.Intake, "sort_into", sort_into)
    put(vhost_url, Lane.BATCH, *range(300))
    put(vhost_url, Lane.INTERACTIVE, 1000)
    found = held(consumer, lambda found: Lane.INTERACTIVE in lanes(found))
    # Its share it has also while the others are looked for.
    assert len(found) <= ROOM
    assert max(at_once) <= most + ROOM
    assert len(at_once) == 300


def test_large_requests_on_their_way_are_bounded_by_their_bytes(
    consumer: Consumer, vhost_url: str, monkeypatch: pytest.MonkeyPatch
):
    """A request may have 8 MiB. Only a few are in memory, and all come through."""
    at_once = list[int]()
    monkeypatch.setattr(intake, "MOST_BYTES_SORTED", 500)
    monkeypatch.setattr(
        intake.Intake, "sort_into", counting(intake.Intake.sort_into, lambda own: at_once.append(len(own._sorted)))
    )
    put(vhost_url, Lane.BATCH, *range(100))
    put(vhost_url, Lane.INTERACTIVE, 1000)
    held(consumer, lambda found: Lane.INTERACTIVE in lanes(found))
    assert max(at_once) <= 500 // 70 + 1 + ROOM


def test_batch_runs_while_nothing_interactive_is_ready(consumer: Consumer, vhost_url: str):
    """All the room is for it; one that comes then has the next thread that is free."""
    put(vhost_url, Lane.BATCH, *range(3 * ROOM))
    found = held(consumer, lambda found: len(found) == ROOM)
    assert names(found) == [f"r-{number}" for number in range(ROOM)]
    assert nothing_comes(consumer)
    put(vhost_url, Lane.INTERACTIVE, 1000)
    answer(found[0])
    assert names(held(consumer, len)) == ["r-1000"]


def test_under_interactive_load_batch_has_its_share(consumer: Consumer, vhost_url: str):
    """One of four, from when it is known that somebody waits there; each lane in order."""
    put(vhost_url, Lane.BATCH, *range(100))
    first = held(consumer, len)
    put(vhost_url, Lane.INTERACTIVE, *range(1000, 1100))
    answer(*first)
    found = served(consumer, 80)
    assert 18 <= lanes(found).count(Lane.BATCH) <= 24
    for lane in Lane:
        of_lane = [int(name[2:]) for name, own in zip(names(found), lanes(found), strict=True) if own is lane]
        assert of_lane == sorted(of_lane)


def test_batch_that_others_have_sorted_is_found_while_interactive_requests_fill_the_room(
    here: World, consumer: Consumer, vhost_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Nothing pushes it, and no thread is free: one of it is taken all the same, a second later."""
    monkeypatch.setattr(turns, "LOOK_EVERY_S", 0.05)
    put(vhost_url, Lane.INTERACTIVE, *range(10))
    assert lanes(held(consumer, lambda found: len(found) == ROOM)) == [Lane.INTERACTIVE] * ROOM
    connection = pika.BlockingConnection(pika.URLParameters(vhost_url))
    for number in (20, 21):
        body = here.message(job(number, lane=Lane.BATCH)).encode()
        connection.channel().basic_publish("", BATCH, body, mandatory=True)
    connection.close()
    assert names(held(consumer, len)) == ["r-20"]
    assert nothing_comes(consumer)


def test_a_plain_request_makes_no_round_trip_more(
    here: World, consumer: Consumer, vhost_url: str, monkeypatch: pytest.MonkeyPatch
):
    """It is pushed, and settled; its lane is asked for once a second, by one process, whatever comes."""
    calls: Counter[str] = Counter()
    for name in ("basic_get", "basic_publish", "basic_consume", "basic_cancel", "basic_qos"):
        method = getattr(pika.adapters.blocking_connection.BlockingChannel, name)
        counted = counting(method, lambda _own, name=name: calls.update([name]))
        monkeypatch.setattr(pika.adapters.blocking_connection.BlockingChannel, name, counted)
    monkeypatch.setattr(turns, "LOOK_EVERY_S", 3600.0)
    monkeypatch.setattr("bridge.waiting.LOOK_IDLE_S", 3600.0)
    put(vhost_url, Lane.INTERACTIVE, 0)
    answer(*held(consumer, len))
    assert nothing_comes(consumer)
    calls.clear()
    put(vhost_url, Lane.INTERACTIVE, *range(1, 51))
    published = calls.copy()
    assert len(served(consumer, 50)) == 50
    assert calls - published == Counter()


@pytest.mark.parametrize("settings", [{"FAIRNESS_FIELD": "tenant"}], ids=["fair"])
@pytest.mark.parametrize("lane", list(Lane))
def test_tags_take_turns(here: World, consumer: Consumer, vhost_url: str, settings: dict[str, str], lane: Lane):
    """However many one of them has in front."""
    assert here.topology.entry(lane, "many") != here.topology.entry(lane, "few")
    put(vhost_url, lane, *range(100), tenant="many")
    put(vhost_url, lane, *range(1000, 1005), tenant="few")
    found = names(served(consumer, 20 + ROOM))
    few = [place for place, name in enumerate(found) if len(name) == len("r-1000")]
    assert len(few) == 5
    assert few[-1] - few[0] <= 2 * len(few)


@pytest.mark.parametrize("settings", [{"QUEUE_EARLY_RELEASE": "false"}], ids=["plain schedule"])
def test_with_the_plain_schedule_interactive_requests_go_first_as_well(
    here: World, consumer: Consumer, vhost_url: str, settings: dict[str, str]
):
    """Nobody is released early there, and lanes are lanes."""
    assert consumer.waiting is None
    put(vhost_url, Lane.BATCH, *range(20))
    put(vhost_url, Lane.INTERACTIVE, 1000)
    assert "r-1000" in names(held(consumer, lambda found: len(found) == ROOM))


def test_what_was_being_sorted_when_the_connection_was_lost_is_not_lost(consumer: Consumer, vhost_url: str):
    """It comes again, and may be there twice: the ledger knows it by its id."""
    put(vhost_url, Lane.BATCH, *range(200))
    while not consumer.intake._sorted:
        next(consumer)
    with suppress(ConnectionClosed):
        consumer.close()
    again = broker.consume(WORK, prefetch=ROOM, timeout=100)
    try:
        found: set[str] = set()
        while len(found) < 200:
            messages = held(again, len)
            found |= set(names(messages))
            answer(*messages)
    finally:
        with suppress(ConnectionClosed):
            again.close()
    assert depths(vhost_url, REQUESTS) == [0]


def counting(method: Any, count: Any) -> Any:
    lock = threading.Lock()

    def counted(own: Any, *args: Any, **kwargs: Any) -> Any:
        found = method(own, *args, **kwargs)
        with lock:
            count(own)
        return found

    return counted
