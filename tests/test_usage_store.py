"""The contract of the store of reports, over both stores."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dev.redis import empty
from gateway.stores.redis_server import RedisServer
from gateway.stores.state_file import StateFile
from gateway.usage.redis import RedisUsageStore
from gateway.usage.sqlite import SqliteUsageStore
from gateway.usage.store import (
    CALLS,
    COST_NANO,
    KEY,
    KNOWN_S,
    LIFE_S,
    MODEL,
    SPANS,
    WAITS_KEPT,
    Batch,
    Cell,
    Count,
    Process,
    UsageStore,
    Waiting,
    bucket,
    span_for,
)
from tests.clock import Clock

MINUTE, HOUR, DAY = SPANS
LARGEST = 2**63 - 1
ONE = Process("p-1", "host", 7, "1.2", 1_700_000_000.0, 50, 3, 4, None)
TWO = replace(ONE, id="p-2", not_ready="draining")
WAITING = Waiting("d-1", "r-1", "gemini.generate.delay.60s", 60.0, "rate_limit", "No key available", None, 1)
GEMINI = Count(MODEL, "google/gemini|odd", CALLS)

Make = Callable[..., UsageStore]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "redis"])
def store(request: Any, clock: Clock, tmp_path: Path) -> Any:
    """A fresh store of each kind."""
    if request.param == "sqlite":
        file = StateFile(tmp_path / "state.sqlite3")
        yield SqliteUsageStore(file, clock=clock)
        file.close()
        return
    url = request.getfixturevalue("redis_url")
    empty(url)
    server = RedisServer(url)
    yield RedisUsageStore(server, clock=clock)
    server.close()


def values(cells: list[Cell]) -> list[tuple[str, str, int]]:
    return [(cell.name, cell.fact, cell.value) for cell in cells]


def test_a_process_lives_as_long_as_it_reports(store: UsageStore, clock: Clock):
    """Its last words stay for an hour: an operator sees that one is missing."""
    store.report(ONE, Batch())
    clock.now += LIFE_S - 1
    store.report(TWO, Batch())
    assert [(seen.process, seen.lives) for seen in store.processes()] == [(TWO, True), (ONE, True)]
    clock.now += 2
    assert [(seen.process.id, seen.lives) for seen in store.processes()] == [("p-2", True), ("p-1", False)]
    clock.now += KNOWN_S
    store.report(TWO, Batch())
    assert [seen.process.id for seen in store.processes()] == ["p-2"]


def test_a_process_that_ends_in_order_is_not_missed(store: UsageStore):
    """And leaving twice is no error."""
    store.report(ONE, Batch())
    store.leave(ONE)
    store.leave(ONE)
    assert store.processes() == []


def test_counts_of_all_processes_add_up(store: UsageStore):
    """Names may hold what separates fields; large sums stay exact."""
    cost = Count(MODEL, GEMINI.name, COST_NANO)
    store.report(ONE, Batch(1, {GEMINI: 2, cost: 2**51}))
    store.report(TWO, Batch(1, {GEMINI: 3, cost: 2**51 + 1}))
    for span in SPANS:
        assert values(store.cells(span, MODEL, 60)) == [(GEMINI.name, CALLS, 5), (GEMINI.name, COST_NANO, 2**52 + 1)]


def test_a_batch_that_comes_twice_counts_once(store: UsageStore):
    """Its answer was lost, so it was sent again."""
    for batch in (Batch(1, {GEMINI: 2}), Batch(1, {GEMINI: 2}), Batch(), Batch(2, {GEMINI: 1})):
        store.report(ONE, batch)
    assert values(store.cells(HOUR, MODEL, 60)) == [(GEMINI.name, CALLS, 3)]


def test_each_span_has_its_pieces_and_its_end(store: UsageStore, clock: Clock):
    """A key has no minutes; what is older than asked for, or than kept, is not there."""
    store.report(ONE, Batch(1, {GEMINI: 1, Count(KEY, "digest", CALLS): 1}))
    assert store.cells(MINUTE, KEY, 60) == []
    assert values(store.cells(HOUR, KEY, 60)) == [("digest", CALLS, 1)]
    clock.now += 2 * 3600
    store.report(ONE, Batch(2, {GEMINI: 1}))
    assert [cell.value for cell in store.cells(MINUTE, MODEL, 600)] == [1]
    assert [cell.value for cell in store.cells(MINUTE, MODEL, 3 * 3600)] == [1, 1]
    assert [cell.since % 3600 for cell in store.cells(HOUR, MODEL, 86400)] == [0, 0]
    clock.now += DAY.kept_s + DAY.length_s
    store.report(ONE, Batch(3, {GEMINI: 1}))
    for span in SPANS:
        assert sum(cell.value for cell in store.cells(span, MODEL, 10 * DAY.kept_s)) == 1


def test_a_wait_is_there_until_it_is_over(store: UsageStore, clock: Clock):
    """By itself when its time has come, or when somebody says so; the next one due comes first."""
    later = replace(WAITING, id="d-2", due_in_s=600.0)
    store.report(ONE, Batch(1, waits=[later, WAITING]))
    clock.now += 10
    assert store.waits() == [replace(WAITING, due_in_s=50.0), replace(later, due_in_s=590.0)]
    store.report(TWO, Batch(1, ended=["d-2", "unknown"]))
    assert [wait.id for wait in store.waits()] == ["d-1"]
    clock.now += 51
    assert store.waits() == []


def test_a_request_that_waits_again_has_one_line(store: UsageStore):
    """Under the id of its delivery, in its new queue."""
    store.report(ONE, Batch(1, waits=[WAITING]))
    store.report(ONE, Batch(2, waits=[replace(WAITING, queue="other")], ended=["d-1"]))
    assert [wait.queue for wait in store.waits()] == ["other"]


def test_of_many_waits_some_are_known(store: UsageStore):
    """A hundred thousand requests that wait cost the store what a thousand do."""
    many = [replace(WAITING, id=f"d-{number}") for number in range(WAITS_KEPT + 5)]
    store.report(ONE, Batch(1, waits=many))
    assert len(store.waits()) == WAITS_KEPT


@pytest.mark.parametrize(("last_s", "name"), [(60, "hour"), (86400, "hour"), (2 * 86400, "day"), (9e9, "day")])
def test_the_finest_span_that_reaches_back_is_read(last_s: float, name: str):
    """A day by hours, a week by days; and beyond that what there is."""
    assert span_for(last_s).name == name


@pytest.mark.parametrize(("seconds", "name"), [(0.0, "le_0.1"), (0.1, "le_0.1"), (0.11, "le_0.25"), (999, "le_inf")])
def test_a_latency_has_its_bucket(seconds: float, name: str):
    """An upper end belongs to its bucket."""
    assert bucket(seconds) == name


@pytest.mark.parametrize("values", [(10**30,), (LARGEST, LARGEST)])
def test_a_count_that_is_too_large_is_not_taken_for_a_store_that_is_away(store: UsageStore, values: tuple[int, ...]):
    """It would be sent again for ever."""
    for number, value in enumerate(values, 1):
        with suppress(OverflowError):
            store.report(ONE, Batch(number, {GEMINI: value}))
    store.report(ONE, Batch(9, {Count(KEY, "digest", CALLS): 1}))
    assert [cell.value for cell in store.cells(DAY, KEY, 60)] == [1]
