"""The contract of the store of costs, over both stores; the budget, and who books."""

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dev.redis import empty
from dev.waiting import wait_until
from gateway.bills import Bill
from gateway.costs import books as the_books
from gateway.costs.books import Books
from gateway.costs.budget import Budget
from gateway.costs.call import NANO, PaidCall
from gateway.costs.redis import PIECE_S, RedisCostStore
from gateway.costs.sqlite import SqliteCostStore
from gateway.costs.store import COST_NANO, CUT_OFF, DAY_S, ROWS_KEPT_S, SPANS, UNPRICED, CostStore, Today
from gateway.errors import StoreUnavailable
from gateway.stores.redis_server import RedisServer
from gateway.stores.state_file import StateFile
from tests.clock import Clock

HOUR, DAY = SPANS
BILL = Bill(3, 4, 0.000_012_5, "google/gemini-2.5-flash", "gen-1")
MOST = 20


def paid(bill: Bill = BILL, *, key: str = "k1", tag: str = "") -> PaidCall:
    return PaidCall.of(bill, key=key, tag=tag, request_id="r-1")


@pytest.fixture
def clock() -> Clock:
    made = Clock()
    made.now = 20_000 * DAY_S + 3600.0 * 5
    return made


@pytest.fixture(params=["sqlite", "redis"])
def store(request: Any, tmp_path: Path, clock: Clock) -> Iterator[CostStore]:
    if request.param == "sqlite":
        file = StateFile(tmp_path / "state.sqlite3")
        yield SqliteCostStore(file, clock=clock, most_rows=MOST)
        file.close()
        return
    url = request.getfixturevalue("redis_url")
    empty(url)
    server = RedisServer(url)
    yield RedisCostStore(server, clock=clock, most_rows=MOST)
    server.close()


def test_a_call_is_a_row_and_in_the_sums_of_its_hour_and_day(store: CostStore, clock: Clock):
    """As it was, with its time; costs to the billionth."""
    call = paid(tag="nightly")
    store.book([call, paid(key="k2")])
    (at, first), _ = sorted(store.rows(60.0), key=lambda row: row[1].key)
    assert (round(at, 3), first) == (clock.now, call)
    for span in SPANS:
        one, two = store.sums(span, 60.0)
        assert (one.key, one.model, one.tag) == ("k1", "google/gemini-2.5-flash", "nightly")
        assert one.facts == {"calls": 1, "prompt": 3, "completion": 4, COST_NANO: 12_500}
        assert two.key == "k2"
        assert one.since == clock.now // span.length_s * span.length_s


def test_a_call_that_is_booked_twice_counts_once(store: CostStore, clock: Clock):
    """An answer of a store can be lost on its way, also at the end of an hour."""
    call = paid()
    store.book([call])
    clock.now += PIECE_S - 1
    store.book([call, call])
    assert [sum(row.facts[COST_NANO] for row in store.sums(span, 7200.0)) for span in SPANS] == [12_500, 12_500]
    assert len(store.rows(7200.0)) == 1


def test_sums_of_many_calls_are_exact(store: CostStore):
    """Tenths of a cent that no float holds."""
    store.book([paid(replace(BILL, cost=0.1 + number / NANO)) for number in range(100)])
    assert store.today().cost_nano == 100 * NANO // 10 + 4950


def test_what_a_provider_does_not_price_is_counted_apart(store: CostStore):
    """As what nobody has seen the end of."""
    store.book([paid(replace(BILL, cost=None)), PaidCall.lost("t", model="m", tag="", request_id="r")])
    found = {row.model: row.facts for row in store.sums(DAY, 60.0)}
    assert found == {BILL.model: {"calls": 1, "prompt": 3, "completion": 4, UNPRICED: 1}, "m": {CUT_OFF: 1}}


@pytest.mark.parametrize("cost", [math.inf, math.nan, -1.0, 1e300])
def test_a_cost_that_cannot_be_is_none(cost: float):
    assert paid(replace(BILL, cost=cost)).cost_nano is None


def test_the_day_begins_anew_at_midnight(store: CostStore, clock: Clock):
    store.book([paid()])
    assert store.today() == Today(12_500, 19 * 3600.0)
    clock.now += 19 * 3600.0
    assert store.today() == Today(0, DAY_S)


def test_rows_are_forgotten_and_sums_are_kept(store: CostStore, clock: Clock):
    """Single calls after a week, hours after a day, days after three months."""
    store.book([paid()])
    clock.now += ROWS_KEPT_S + PIECE_S
    store.sweep()
    assert store.rows(2 * ROWS_KEPT_S) == []
    assert len(store.sums(DAY, DAY.kept_s)) == 1
    assert store.sums(HOUR, HOUR.kept_s) == []
    clock.now += DAY.kept_s
    store.sweep()
    assert store.sums(DAY, DAY.kept_s) == []


def test_too_many_rows_are_forgotten_early(store: CostStore, clock: Clock):
    """The oldest; what they have cost is kept."""
    for _ in range(4):
        store.book([paid() for _ in range(MOST // 2)])
        clock.now += PIECE_S
    store.sweep()
    left = store.rows(ROWS_KEPT_S)
    assert MOST // 2 <= len(left) <= MOST
    assert min(at for at, _ in left) > clock.now - 3 * PIECE_S
    assert store.today().cost_nano == 4 * MOST // 2 * 12_500


def test_a_note_is_new_once(store: CostStore):
    assert [store.note("a", "one", kept_s=60.0), store.note("a", "two", kept_s=60.0)] == [True, False]
    assert store.notes(["a", "b"]) == {"a": "two"}
    assert store.notes([]) == {}


class Store:
    """A day's cost; the rest is noted."""

    def __init__(self, cost: float = 0.0, ends_in_s: float = 3600.0) -> None:
        self.cost, self.ends_in_s = cost, ends_in_s
        self.away = False
        self.looks = 0
        self.booked: list[PaidCall] = []
        self.noted: set[str] = set()
        self.swept = 0

    def today(self) -> Today:
        self.looks += 1
        return Today(round(self.cost * NANO), self.ends_in_s)

    def book(self, calls: Any) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.booked += calls

    def notes(self, names: Any) -> dict[str, str]:
        return {}

    def note(self, name: str, text: str, *, kept_s: float) -> bool:
        is_new = name not in self.noted
        self.noted.add(name)
        return is_new

    def sweep(self) -> None:
        self.swept += 1

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def test_a_budget_is_spent_by_all_and_by_oneself():
    """Own calls count at once, those of others from the next look on; the store is asked by looks only."""
    store, clock = Store(cost=0.5), Clock()
    budget = Budget(store, 1.0, clock=clock)
    budget.look()
    assert budget.closed_for_s == 0.0
    budget.spend(NANO // 2)
    assert budget.closed_for_s == pytest.approx(3600.0)
    budget.look()
    assert budget.closed_for_s == 0.0
    store.cost = 1.0
    budget.look()
    assert budget.closed_for_s == pytest.approx(3600.0)
    assert store.looks == 3


def test_a_budget_opens_at_midnight_by_itself():
    """Also where the store cannot be asked then."""
    store, clock = Store(cost=1.0, ends_in_s=100.0), Clock()
    budget = Budget(store, 1.0, clock=clock)
    budget.look()
    clock.now += 101.0
    assert budget.closed_for_s == 0.0


def test_without_a_budget_nothing_is_asked():
    store = Store(cost=1e6)
    budget = Budget(store, None)
    budget.look()
    budget.spend(NANO)
    assert (budget.closed_for_s, store.looks) == (0.0, 0)


def test_an_operator_is_told_once_by_one_process(caplog: pytest.LogCaptureFixture):
    """At four fifths, and when it is spent."""
    store = Store(cost=0.79)
    budgets = [Budget(store, 1.0), Budget(store, 1.0)]
    for cost in (0.79, 0.8, 0.9, 1.0, 1.1):
        store.cost = cost
        for budget in budgets:
            budget.look()
    texts = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.split(" are")[0] for text in texts] == [
        "$0.80 of $1.00 (BUDGET_USD_PER_DAY)",
        "$1.00 of $1.00 (BUDGET_USD_PER_DAY)",
    ]


def test_what_could_not_be_booked_is_booked_later():
    """When the store is there again, and at the end of the process."""
    store = Store()
    store.away = True
    books = Books(store, Budget(store, None), every_s=0.001)
    one, two = paid(), paid()
    books.now([one])
    books.start()
    wait_until(lambda: store.swept, what="a round of the thread")
    assert store.booked == []
    store.away = False
    wait_until(lambda: store.booked == [one], what="the call to be booked")
    books.later([two])
    assert books.stop(10.0)
    assert store.booked == [one, two]


def test_what_waits_for_a_store_has_bounds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(the_books, "MOST_LATE", 3)
    store = Store()
    books = Books(store, Budget(store, None))
    books.later([paid() for _ in range(5)])
    books.start()
    assert books.stop(10.0)
    assert len(store.booked) == 3
    assert "Not booked" in caplog.text


def test_names_of_keys_are_known_when_they_are_set_no_more(store: CostStore):
    books = Books(store, Budget(store, None), every_s=0.001)
    books.name_keys({"d1": "****1111 (team)"})
    books.start()
    wait_until(lambda: store.notes(["key.d1"]) == {"key.d1": "****1111 (team)"}, what="the name")
    assert books.stop(10.0)


def test_a_row_of_redis_is_small(redis_url: str):
    """What the documents say it takes."""
    empty(redis_url)
    server = RedisServer(redis_url)
    store = RedisCostStore(server)
    bill = replace(BILL, generation_id="gen-1767225600-" + "a" * 20)
    before = memory(server)
    for _ in range(20):
        store.book([paid(bill, key="0123456789abcdef", tag="nightly") for _ in range(100)])
    assert (memory(server) - before) / 2000 < 400
    server.close()


def memory(server: RedisServer) -> int:
    (text,) = server.run("return {redis.call('INFO', 'memory')}", None)
    return int(dict(line.split(":") for line in text.decode().split("\r\n") if ":" in line)["used_memory"])


def test_what_is_kept_names_no_request(store: CostStore):
    """By a digest it is found all the same."""
    store.book([PaidCall.of(BILL, key="k", tag="", request_id="canary-id")])
    assert "canary" not in json.dumps([str(row) for row in store.rows(60.0)])
