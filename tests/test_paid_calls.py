"""What is booked of the calls of a delivery, and when; what a spent budget does."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.broker import costs, resources
from gateway.bills import Bill
from gateway.costs.call import NANO, PaidCall
from gateway.costs.store import SPANS
from gateway.errors import (
    CallTooLarge,
    GatewayError,
    RateLimited,
    RequestRejected,
    StoreUnavailable,
    Unwanted,
    UpstreamFailed,
)
from gateway.lanes import Lane
from gateway.messages import Completion, Job, Request, Usage
from gateway.settings import SettingsError
from middleware.costs import OTHER
from tests.world import World, job, world

USAGE = Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7, cost=0.25)
PAID = Completion("An answer.", USAGE, "served", generation_id="gen-1")
BILL = Bill(5, 6, 0.5, "served", "gen-2")
KEY = "sk-or-v1-key-one-1111"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, OPENROUTER_API_KEYS=KEY) as made:
        yield made


def run(here: World, *script: Any, of: Job | None = None) -> None:
    here.provider.script = list(script)
    here.deliver(here.message(of or job()))


def rows(here: World) -> list[PaidCall]:
    return [call for _, call in here.stores.costs.rows(3600.0)]


def billed(error: UpstreamFailed | RequestRejected | CallTooLarge) -> Any:
    error.bill = BILL
    return error


def test_a_paid_answer_is_a_row(here: World):
    """Booked with the answer, before it is published; what it is for is a digest."""
    booked = []
    original = here.publisher.publish

    def publish(*arguments: Any, **how: Any) -> None:
        booked.append(len(rows(here)))
        original(*arguments, **how)

    here.publisher.publish = publish  # type: ignore[method-assign]
    run(here, PAID)
    (row,) = rows(here)
    assert booked == [1]
    assert (row.model, row.prompt_tokens, row.completion_tokens) == ("served", 3, 4)
    assert (row.cost_nano, row.generation_id, row.cut_off) == (NANO // 4, "gen-1", False)


def test_an_answer_that_cost_something_and_is_of_no_use_is_a_row(here: World):
    """The last call of a request that failed."""
    run(here, billed(RequestRejected("Filtered", reason="content_filter")))
    assert [(row.cost_nano, row.generation_id) for row in rows(here)] == [(NANO // 2, "gen-2")]
    assert [one["status"] for one in here.publisher.to("gemini.responses")] == ["error"]


def test_a_call_that_cost_something_before_a_wait_is_a_row(here: World):
    """Booked with the wait."""
    run(here, billed(UpstreamFailed("An empty answer", reason="empty_answer")))
    assert [row.cost_nano for row in rows(here)] == [NANO // 2]
    (copy,) = here.copies("gemini.generate.backoff.2s")
    here.provider.script = [PAID]
    here.deliver(copy)
    assert sorted(row.cost_nano or 0 for row in rows(here)) == [NANO // 4, NANO // 2]


def test_an_answer_that_holds_no_schema_is_a_row(here: World):
    fields = {"response_format": {"type": "json_object"}}
    request = Request(request_id="r-1", prompt="Hi", callback_queue="gemini.responses", parameters=fields)
    run(here, PAID, of=job(request=request))
    assert [row.cost_nano for row in rows(here)] == [NANO // 4]


def test_a_call_that_was_refused_costs_nothing(here: World):
    """Nor does one that never reached the provider."""
    run(here, RateLimited("HTTP 429", reason="http_429", status=429, retry_after_s=9000.0))
    run(here, UpstreamFailed("Out of reach", reason="network"), of=job(2))
    assert rows(here) == []


@pytest.mark.parametrize("cut", [UpstreamFailed("Not in time", reason="deadline"), Unwanted("Cancelled in a stream")])
def test_a_call_whose_answer_nobody_has_read_may_have_been_paid(here: World, cut: GatewayError):
    cut.may_be_billed = True
    run(here, cut)
    assert [(row.cut_off, row.cost_nano) for row in rows(here)] == [(True, None)]


def test_a_call_of_a_process_that_has_died_may_have_been_paid(here: World):
    """Once, whoever takes it over."""
    attempt = here.stores.owner
    first = job()
    from gateway.ledger.store import Claim, Work  # noqa: PLC0415

    here.stores.ledger.begin(Claim(Work.of(first), f"{'f' * 32}.0.dead", "d-0", lease_s=600.0))
    run(here, PAID, of=first)
    assert attempt is here.stores.owner
    assert sorted((row.cut_off, row.cost_nano) for row in rows(here)) == [(False, NANO // 4), (True, None)]


def test_what_cannot_be_booked_with_the_answer_is_booked_later(here: World, monkeypatch: pytest.MonkeyPatch):
    """The answer goes out all the same."""

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(here.stores.ledger, "answer", away)
        run(here, PAID)
    assert len(here.publisher.to("gemini.responses")) == 1
    assert rows(here) == []
    here.books.start()
    assert here.books.stop(10.0)
    assert [row.cost_nano for row in rows(here)] == [NANO // 4]


def test_what_is_paid_is_booked_without_a_ledger(tmp_path: Path):
    with world(tmp_path, LEDGER_TTL_SECONDS="0") as here:
        run(here, PAID)
        run(here, billed(UpstreamFailed("An empty answer", reason="empty_answer")), of=job(2))
        assert sorted(row.cost_nano or 0 for row in rows(here)) == [NANO // 4, NANO // 2]


def test_the_sums_have_the_digest_of_the_key(here: World):
    run(here, PAID)
    (one,) = here.stores.costs.sums(SPANS[0], 60.0)
    assert (one.key, one.facts["cost_nano"]) == (here.settings.keys[0].digest, NANO // 4)


@contextmanager
def budget(folder: Path, spent: float, **settings: str) -> Iterator[World]:
    with world(folder, BUDGET_USD_PER_DAY="10", **settings) as here:
        bill = Bill(1, 1, spent, "m", None)
        here.stores.costs.book([PaidCall.of(bill, key="k", tag="", request_id="r")])
        here.books.budget.look()
        yield here


def test_with_a_spent_budget_requests_are_answered_with_an_error(tmp_path: Path):
    """At once, and no key is taken."""
    with budget(tmp_path, 10.0) as here:
        run(here)
        (envelope,) = here.publisher.to("gemini.responses")
        assert (envelope["status"], envelope["error_code"]) == ("error", "budget")
        assert here.provider.calls == []
        assert here.pool.status()[0].used == 0


def test_with_a_spent_budget_batch_waits_for_the_next_day(tmp_path: Path):
    """In the longest wait that ends before it; no retry is counted, and it is answered then."""
    with budget(tmp_path, 10.0) as here:
        here.books.budget._ends_at = time.monotonic() + 5000.0
        run(here, of=job(lane=Lane.BATCH))
        (copy,) = here.copies("gemini.batch.delay.3600s")
        assert (copy.args[0].retry_count, here.provider.calls) == (0, [])
        here.books.budget._ends_at = time.monotonic() + 5.0
        here.deliver(copy)
        (copy,) = here.copies("gemini.batch.delay.60s")
        here.books.budget._ends_at = time.monotonic()
        here.deliver(copy)
        (envelope,) = here.publisher.to("gemini.responses")
        assert (envelope["status"], here.publisher.to("gemini.batch.delay.86400s")) == ("success", [])


def test_a_deadline_is_kept_whatever_the_budget(tmp_path: Path):
    """It is not answered after it."""
    with budget(tmp_path, 10.0) as here:
        run(here, of=job(lane=Lane.BATCH, expires_at=time.time() + 0.001))
        (envelope,) = here.publisher.to("gemini.responses")
        assert (envelope["status"], envelope["error_code"]) == ("error", "expired")


def test_a_call_may_be_the_last_one(tmp_path: Path):
    """What it has cost counts before anybody has asked the store again."""
    with budget(tmp_path, 9.9) as here:
        run(here, replace(PAID, usage=USAGE))
        run(here, of=job(2))
        assert [one["status"] for one in here.publisher.to("gemini.responses")] == ["success", "error"]


def test_tags_are_booked_within_bounds(here: World, monkeypatch: pytest.MonkeyPatch):
    """Producers choose them."""
    monkeypatch.setattr(costs, "_names", set())
    monkeypatch.setattr("middleware.costs.MOST_NAMES", 2)
    resources.settings.open(here.settings.model_copy(update={"fairness_field": "n"}))
    for number in (7, 8, 9, 7):
        run(here, PAID, of=job(number))
    run(here, PAID, of=job(request=Request(request_id="r", prompt="Hi", callback_queue="gemini.responses")))
    assert sorted((row.tag, row.model) for row in rows(here)) == [
        ("7", "served"),
        ("8", "served"),
        *[(OTHER, OTHER)] * 2,
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"OPENROUTER_API_KEYS": "", "GEMINI_API_KEYS": "AIza-one-1111"}, "Gemini does not say what a call costs"),
        ({"BUDGET_USD_PER_DAY": "0"}, "give a number above 0"),
        ({"BUDGET_USD_PER_DAY": "ten"}, "give a number"),
        ({"BUDGET_USD_PER_DAY": "nan"}, "give a finite number"),
    ],
)
def test_a_budget_that_cannot_work_is_named(tmp_path: Path, settings: dict[str, str], said: str):
    with (
        pytest.raises(SettingsError, match=f"BUDGET_USD_PER_DAY: {said}"),
        world(tmp_path, **{"BUDGET_USD_PER_DAY": "5"} | settings),
    ):
        pass
