"""What a process counts of its deliveries and calls, and how that gets into the store."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors import publish_error
from actors.broker import broker, process, usage
from dev.waiting import wait_until
from gateway.errors import ErrorCode, Nacked, RateLimited, RequestRejected, StoreUnavailable, UpstreamFailed
from gateway.messages import Caller, Completion, Failure, Reply, Request, Usage
from gateway.secrets import ApiKey
from gateway.usage.meter import COUNTS_AT_ONCE, MOST_ENDS, MOST_WAITS, Meter
from gateway.usage.reporter import Reporter
from gateway.usage.store import (
    CALLS,
    COMPLETION_TOKENS,
    COST_NANO,
    ERROR,
    FAILED,
    KEY,
    MODEL,
    OUTCOME,
    PROMPT_TOKENS,
    REFUSED,
    REQUESTS,
    SPENT_MS,
    Batch,
    Count,
    Process,
    Waiting,
)
from tests.world import World, job, world

PAID = Completion("An answer.", Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7, cost=0.0000125), "served")
ITSELF = Process("p-1", "host", 7, "1.2", 0.0, 8, 0, 0, None)
WAITING = Waiting("d-1", "r-1", "queue", 60.0, "rate_limit", "why", None, 1)
ONE = ApiKey("sk-or-v1-key-one-1111").digest
GEMINI = "google/gemini-2.5-flash"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    usage.meter = Meter()
    with world(tmp_path, OPENROUTER_API_KEYS="sk-or-v1-key-one-1111") as made:
        yield made


def run(here: World, *script: Any, **fields: Any) -> str:
    """Deliver a job, whose calls end like this; the id of the delivery."""
    here.provider.script = list(script)
    message = here.message(job(**fields))
    here.deliver(message)
    return str(message.message_id)


def counted() -> dict[tuple[str, str, str], int]:
    """Without the latencies, which depend on the day."""
    counts, *_ = usage.meter.take()
    return {tuple(count): value for count, value in counts.items() if not count.fact.startswith(("le_", SPENT_MS))}


def test_an_answer_counts_for_its_key_its_model_and_its_outcome(here: World):
    """Tokens, and the cost to the billionth; nothing is in flight afterwards."""
    run(here, PAID)
    facts = {CALLS: 1, PROMPT_TOKENS: 3, COMPLETION_TOKENS: 4, COST_NANO: 12_500}
    assert counted() == {
        **{(KEY, ONE, fact): value for fact, value in facts.items()},
        **{(MODEL, GEMINI, fact): value for fact, value in facts.items()},
        (OUTCOME, "answered", REQUESTS): 1,
    }
    assert usage.meter.in_flight == 0


def test_an_answer_that_is_not_used_counts_with_what_it_has_cost(here: World):
    """It does not hold its format, and is paid for."""
    wanted = Request(
        request_id="r-1", prompt="Hi", callback_queue="q", parameters={"response_format": {"type": "json_object"}}
    )
    run(here, PAID, request=wanted)
    facts = counted()
    assert (facts[KEY, ONE, CALLS], facts[KEY, ONE, COST_NANO]) == (1, 12_500)
    assert (KEY, ONE, FAILED) not in facts


@pytest.mark.parametrize("cost", [1e308, float("inf"), float("nan")])
def test_an_answer_is_used_whatever_it_is_said_to_cost(here: World, cost: float, caplog: pytest.LogCaptureFixture):
    """A fault of the counting would throw away what is paid for, and have it paid for again."""
    run(here, replace(PAID, usage=PAID.usage.model_copy(update={"cost": cost})))
    assert [envelope["status"] for envelope in here.publisher.to("gemini.responses")] == ["success"]
    assert len(here.provider.calls) == 1
    assert "is not counted" in caplog.text


def test_every_latency_has_a_bucket(here: World):
    """One for the call and one for the request."""
    run(here)
    counts, *_ = usage.meter.take()
    assert sorted(count.about for count in counts if count.fact.startswith("le_")) == [MODEL, OUTCOME]


def test_a_call_in_flight_is_seen(here: World):
    seen = []
    here.provider.during = lambda: seen.append(usage.meter.in_flight)
    run(here)
    assert seen == [1]


def test_a_failure_counts_under_its_code(here: World):
    """Once as a call, once as a request."""
    run(here, RequestRejected("No", reason="http_400", status=400))
    found = counted()
    assert found[ERROR, "invalid_request", CALLS] == found[ERROR, "invalid_request", REQUESTS] == 1
    assert (found[KEY, ONE, FAILED], found[MODEL, GEMINI, FAILED]) == (1, 1)


def test_a_wait_is_known_until_the_request_is_taken_up_again(here: World):
    """What it waits for, where, how long; nothing of its prompt."""
    limited = RateLimited("HTTP 429", reason="http_429", status=429, retry_after_s=9000.0)
    run(here, limited, received_at=2_000_000_000.0)
    _, (waiting,), _, _ = usage.meter.take()
    assert (waiting.queue, waiting.due_in_s, waiting.code) == ("gemini.generate.delay.60s", 60.0, "rate_limit")
    assert (waiting.request_id, waiting.retry_count, "canary" in repr(waiting)) == ("r-1", 1, False)
    (copy,) = here.copies("gemini.generate.delay.60s")
    here.deliver(copy)
    assert usage.meter.take()[2] == [copy.message_id]


def test_an_answer_that_its_queue_refuses_names_the_queue(here: World):
    here.publisher.refuse["gemini.responses"] = [Nacked("full", queue="gemini.responses")]
    run(here)
    found = counted()
    assert found[REFUSED, "gemini.responses", REQUESTS] == found[OUTCOME, "held", REQUESTS] == 1


@pytest.mark.parametrize("queue", ["amq.gen-one", "amq.rabbitmq.reply-to.token"])
def test_queues_of_clients_that_wait_are_one_row(here: World, queue: str):
    """Each has another name, and a row for each would have no end."""
    here.publisher.refuse[queue] = [Nacked("full", queue=queue)]
    request = Request(request_id="r", prompt="Hello", callback_queue=queue)
    run(here, request=request, caller=Caller(waits=True))
    assert {count[1] for count in counted() if count[0] == REFUSED} == {"reply_to"}


def test_a_request_that_was_refused_as_it_came_in_counts(here: World):
    """Its envelope takes the way of held replies, but it was not held."""
    failure = Failure(error="no", error_code=ErrorCode.INVALID_REQUEST, processing_time_ms=0, timestamp="now")
    reply = Reply.of(failure, queue="gemini.responses", work_id="w")
    here.deliver(here.message(reply, publish_error.actor_name))
    here.deliver(here.message(reply.model_copy(update={"attempts": 3}), publish_error.actor_name))
    found = counted()
    assert found == {(OUTCOME, "rejected", REQUESTS): 1, (ERROR, "invalid_request", REQUESTS): 1}


def test_a_parked_attempt_counts_once(here: World):
    """When it has come to something."""
    here.publisher.ready = False

    def comes_back(_parking: object) -> None:
        here.publisher.ready = True

    here.on_parked = comes_back
    run(here)
    assert counted()[OUTCOME, "answered", REQUESTS] == 1


def test_names_beyond_the_limit_are_other():
    """A producer that sends a new model every time fills no store."""
    meter = Meter(most_names=2)
    for name in ("a", "b", "c", "d", "a"):
        meter.add(MODEL, name, {CALLS: 1})
    counts, *_ = meter.take()
    assert counts == {
        Count(MODEL, "a", CALLS): 2,
        Count(MODEL, "b", CALLS): 1,
        Count(MODEL, "other", CALLS): 2,
    }


def test_waits_are_noted_in_bounds():
    """Whatever comes between two reports."""
    meter = Meter()
    for number in range(MOST_ENDS + 10):
        meter.waits(replace(WAITING, id=str(number)))
        meter.waits_no_more(f"other-{number}")
    ended: list[str] = []
    _, waits, some, more = meter.take()
    ended += some
    while more:
        _, _, some, more = meter.take()
        ended += some
    assert (len(waits), len(ended)) == (MOST_WAITS, MOST_ENDS)


class Store:
    """Keeps batches; refuses so often first."""

    def __init__(self, refuses: int = 0, fault: Exception | None = None) -> None:
        self.refuses = refuses
        self.fault = fault or StoreUnavailable("gone")
        self.batches: list[Batch] = []
        self.left = threading.Event()

    def report(self, _process: Process, batch: Batch) -> None:
        if self.refuses:
            self.refuses -= 1
            raise self.fault
        self.batches.append(batch)

    def leave(self, _process: Process) -> None:
        self.left.set()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def test_a_report_says_everything_in_pieces():
    """So that nobody who writes beside it waits long; an empty one still shows life."""
    meter, store = Meter(), Store()
    for number in range(COUNTS_AT_ONCE + 1):
        meter.add(KEY, str(number), {CALLS: 1})
    reporter = Reporter(store, meter, lambda: ITSELF)
    reporter.report()
    reporter.report()
    assert [(batch.number, len(batch.counts)) for batch in store.batches] == [(1, COUNTS_AT_ONCE), (2, 1), (0, 0)]


def test_what_is_not_stored_is_sent_again_under_its_number():
    """And what has happened meanwhile comes behind it."""
    meter, store = Meter(), Store(refuses=1)
    reporter = Reporter(store, meter, lambda: ITSELF)
    meter.add(KEY, "a", {CALLS: 1})
    with pytest.raises(StoreUnavailable):
        reporter.report()
    meter.add(KEY, "a", {CALLS: 2})
    reporter.report()
    found = [(batch.number, sum(batch.counts.values())) for batch in store.batches]
    assert found == [(1, 1), (2, 2)]


def test_what_no_store_takes_is_dropped(caplog: pytest.LogCaptureFixture):
    """Sent again it would fail again, and nothing behind it would ever be reported."""
    meter, store = Meter(), Store(refuses=1, fault=OverflowError("too large"))
    reporter = Reporter(store, meter, lambda: ITSELF)
    meter.add(KEY, "a", {CALLS: 1})
    reporter.report()
    meter.add(KEY, "a", {CALLS: 2})
    reporter.report()
    found = [(batch.number, sum(batch.counts.values())) for batch in store.batches]
    assert found == [(2, 2)]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_fault_of_the_description_costs_no_counts():
    """It is no fault of theirs."""
    meter, store, faults = Meter(), Store(), [ValueError("no")]

    def describe() -> Process:
        if faults:
            raise faults.pop()
        return ITSELF

    reporter = Reporter(store, meter, describe)
    meter.add(KEY, "a", {CALLS: 1})
    with pytest.raises(ValueError, match="no"):
        reporter.report()
    reporter.report()
    assert sum(sum(batch.counts.values()) for batch in store.batches) == 1


def test_a_process_reports_a_last_time_and_leaves():
    """What was counted since the last report is not lost in an orderly end."""
    meter, store = Meter(), Store()
    reporter = Reporter(store, meter, lambda: ITSELF, every_s=3600.0)
    reporter.start()
    wait_until(lambda: store.batches, what="the first report")
    meter.add(KEY, "a", {CALLS: 1})
    assert reporter.stop(10.0)
    assert reporter.stop(10.0)
    assert store.left.is_set()
    assert store.batches[-1].counts == {Count(KEY, "a", CALLS): 1}


def test_a_store_that_is_away_ends_no_thread():
    """Nor does a fault of ours."""
    meter, store = Meter(), Store(refuses=1)
    reporter = Reporter(store, meter, lambda: ITSELF, every_s=0.001)
    reporter.start()
    wait_until(lambda: store.batches, what="a report")
    assert reporter.stop(10.0)


def test_a_worker_says_who_it_is_and_why_it_is_not_ready(here: World, monkeypatch: pytest.MonkeyPatch):
    """As the watchdog and the publisher see it."""

    class Worker:
        worker_threads = 8

    usage.after_worker_boot(broker, Worker())  # type: ignore[arg-type]
    told = wait_until(here.stores.usage.processes, what="a report")
    assert (told[0].lives, told[0].process.threads, told[0].process.not_ready) == (True, 8, None)
    here.publisher.ready = False
    assert "RabbitMQ takes no publishes" in str(usage._not_ready())
    monkeypatch.setattr(process, "stands_still", True)
    assert "settles none" in str(usage._not_ready())
    process.stopping.set()
    assert "asked to stop" in str(usage._not_ready())
    usage.after_worker_shutdown(broker, Worker())  # type: ignore[arg-type]
    assert here.stores.usage.processes() == []


def test_a_call_that_the_provider_fails_waits_and_counts(here: World):
    """A short wait is one as well."""
    run(here, UpstreamFailed("HTTP 503", reason="http_503", status=503))
    counts, (waiting,), _, _ = usage.meter.take()
    assert (waiting.queue, waiting.code) == ("gemini.generate.backoff.2s", "upstream")
    assert counts[Count(OUTCOME, "scheduled", REQUESTS)] == 1


def test_a_fault_of_ours_waits_without_its_text(here: World):
    """Which may hold anything."""
    run(here, ValueError("canary"))
    _, (waiting,), _, _ = usage.meter.take()
    assert (waiting.code, waiting.why) == ("internal", "ValueError")
