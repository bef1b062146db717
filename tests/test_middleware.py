"""Hooks on their own: what they do when the store is away, when work runs elsewhere, and when the worker stops."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import PriorityQueue
from types import SimpleNamespace
from typing import Any

import pytest
import sentry_sdk

from actors import broker as the_broker
from actors.boot import Boot
from actors.broker import MIDDLEWARE, cooldown, key_selection, resources, stopping
from bridge.delivery import Delivered
from dev.waiting import wait_until
from gateway import exits
from gateway.errors import (
    AuthenticationFailed,
    CallTooLarge,
    ConfirmTimeout,
    ConnectionLost,
    RateLimited,
    StoreUnavailable,
    Unroutable,
    UpstreamFailed,
)
from gateway.keys.pool import KeyPool
from gateway.ledger.owner import FileOwner
from gateway.ledger.store import Claim, Running, Started, Work
from gateway.reporting import sentry
from gateway.secrets import ApiKey
from middleware.attempt import Attempt, Parking, current_attempt
from middleware.cooldown import USEFUL_TOKENS
from middleware.hook import Hook
from middleware.ledger import GIVEN_UP_AT, SUSPECT_FROM
from middleware.process import STILL_MARGIN_S, Process
from middleware.progress import Progress
from tests.clock import Clock
from tests.world import Channel, Source, World, completion, delivery, job, world

LIMITED = RateLimited("HTTP 429", reason="http_429", status=429, retry_after_s=30.0)
BROKEN = UpstreamFailed("HTTP 503: overloaded", reason="http_503", status=503)
AWAY = StoreUnavailable("gone")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


class Once:
    """Fails the first time, then does what it stands in for."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.real = real
        self.failed = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.failed:
            self.failed = True
            raise AWAY
        return self.real(*args, **kwargs)


@pytest.mark.parametrize("store", ["the pool", "the ledger"])
def test_a_store_that_is_away_is_waited_for_without_a_thread(here: World, monkeypatch: pytest.MonkeyPatch, store: str):
    """Without it the limits would be a guess, and a call could be the second one. Nobody else is fetched meanwhile."""
    owner, name = (here.pool, "acquire") if store == "the pool" else (here.stores.ledger, "begin")
    monkeypatch.setattr(owner, name, Once(getattr(owner, name)))
    looks: list[Parking] = []
    here.on_parked = looks.append
    assert here.deliver(here.message(job())) == ("ack",)
    assert [parking.keeps_room for parking in looks] == [True]
    assert len(here.provider.calls) == 1


@pytest.mark.parametrize("where", ["pool", "ledger"])
def test_a_stop_ends_the_wait_for_a_store(here: World, monkeypatch: pytest.MonkeyPatch, where: str):
    """The delivery goes back; nothing was called."""

    def away(*_args: Any, **_kwargs: Any) -> None:
        stopping.set()
        raise AWAY

    if where == "pool":
        monkeypatch.setattr(here.pool, "acquire", away)
    else:
        monkeypatch.setattr(here.stores.ledger, "begin", away)
    assert here.deliver(here.message(job())) == ("requeue",)
    assert here.provider.calls == []


def test_an_answer_that_cannot_be_stored_is_published_all_the_same(here: World, monkeypatch: pytest.MonkeyPatch):
    """It is paid for."""
    monkeypatch.setattr(here.stores.ledger, "answer", Once(lambda: None))
    assert here.deliver(here.message(job())) == ("ack",)
    assert [e["status"] for e in here.publisher.to("gemini.responses")] == ["success"]


def test_an_answer_whose_note_fails_is_published_again_by_a_redelivery(here: World, monkeypatch: pytest.MonkeyPatch):
    """P2: the copy carries the same message id."""
    monkeypatch.setattr(here.stores.ledger, "published", Once(here.stores.ledger.published))
    message = here.message(job())
    assert here.deliver(message) == ("ack",)
    assert here.deliver(message) == ("ack",)
    assert len({properties.message_id for _queue, _body, properties in here.publisher.sent}) == 1
    assert len(here.publisher.sent) == 2
    assert len(here.provider.calls) == 1


def test_a_lease_that_cannot_be_given_back_costs_no_answer(here: World, monkeypatch: pytest.MonkeyPatch):
    """Stopping or not, the delivery goes its way."""
    monkeypatch.setattr(KeyPool, "release", Once(KeyPool.release))
    assert here.deliver(here.message(job())) == ("ack",)


def test_a_cooldown_that_cannot_be_stored_does_not_hide_the_answer(here: World, monkeypatch: pytest.MonkeyPatch):
    """The next key answers."""
    here.provider.script = [LIMITED]
    monkeypatch.setattr(KeyPool, "cool", Once(KeyPool.cool))
    assert here.deliver(here.message(job())) == ("ack",)
    assert [e["status"] for e in here.publisher.to("gemini.responses")] == ["success"]


def test_a_wait_whose_ledger_entry_cannot_be_given_back_is_still_a_wait(here: World, monkeypatch: pytest.MonkeyPatch):
    """Its copy runs when its time has come: nobody holds the work."""
    here.provider.script = [LIMITED, LIMITED]
    monkeypatch.setattr(here.stores.ledger, "scheduled", Once(lambda: None))
    assert here.deliver(here.message(job())) == ("ack",)
    (copy,) = here.copies("gemini.generate.delay.60s")
    resources.pool.open(KeyPool([ApiKey("sk-or-v1-fresh")], here.stores.keys, max_per_window=9))
    assert here.deliver(copy) == ("ack",)


def test_a_delivery_that_has_a_copy_in_a_wait_is_done_with(here: World):
    """F21: it comes again after a crash between the confirmed copy and the ack; its copy does the work, once."""
    here.provider.script = [BROKEN]
    message = here.message(job())
    here.deliver(message)
    assert here.deliver(message) == ("ack",)
    assert len(here.provider.calls) == 1
    (copy,) = here.copies("gemini.generate.backoff.2s")
    here.deliver(copy)
    assert here.deliver(copy) == ("ack",)
    assert len(here.provider.calls) == 2
    assert len(here.publisher.to("gemini.responses")) == 1


def test_a_second_delivery_waits_for_the_first_and_makes_no_call(here: World, monkeypatch: pytest.MonkeyPatch):
    """F4: the connection was lost in mid-call, RabbitMQ has delivered again, the call still runs."""
    message = here.message(job())
    calling, go_on, begin = threading.Event(), threading.Event(), here.stores.ledger.begin

    def hold() -> None:
        calling.set()
        go_on.wait(60)

    def noted(*arguments: Any, **named: Any) -> Any:
        entry = begin(*arguments, **named)
        if isinstance(entry, Running):
            go_on.set()
        return entry

    here.provider.during = hold
    monkeypatch.setattr(here.stores.ledger, "begin", noted)
    settled: list[tuple[str, ...]] = []
    deliveries = [threading.Thread(target=lambda: settled.append(here.deliver(message))) for _ in range(2)]
    deliveries[0].start()
    assert calling.wait(60)
    deliveries[1].start()
    for thread in deliveries:
        thread.join(60)
    assert settled == [("ack",), ("ack",)]
    assert len(here.provider.calls) == 1
    assert len(here.publisher.sent) == 1


def test_a_delivery_whose_first_run_died_is_run_at_once(here: World):
    """F62: the crash left the entry running; its process lives no longer."""
    message, dead = here.message(job()), FileOwner(here.settings.state_path.parent / "state.sqlite3-owners")
    dead.start()
    token = dead.take()
    here.stores.ledger.begin(Claim(Work.of(job()), token, message.message_id, lease_s=3600.0))
    looks: list[Parking] = []

    def on_parked(parking: Parking) -> None:
        looks.append(parking)
        if len(looks) == 5:
            dead.stop()

    here.on_parked = on_parked
    assert here.deliver(message) == ("ack",)
    assert len(here.provider.calls) == 1
    assert len(looks) == 5
    assert not any(parking.keeps_room for parking in looks)


def die_at(here: World, number: int, deaths: int) -> None:
    """A process that has begun a request has died, and it is the last of so many."""
    dead = FileOwner(here.settings.state_path.parent / "state.sqlite3-owners")
    dead.start()
    claim = Claim(Work.of(job(number)), dead.take(deaths - 1), here.message(job(number)).message_id, lease_s=3600.0)
    here.stores.ledger.begin(claim)
    dead.stop()


def test_of_those_at_which_workers_have_died_one_runs_at_a_time(here: World):
    """F69: who dies with it alone among them tells which one it is; the others are parked, and nothing is counted."""
    running, most, go_on = [0], [0], threading.Event()
    looks = dict.fromkeys(range(3), 0)

    def call() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        go_on.wait(60)
        running[0] -= 1

    def deliver(number: int) -> None:
        die_at(here, number, SUSPECT_FROM)
        assert here.deliver(here.message(job(number))) == ("ack",)

    def on_parked(_parking: Parking) -> None:
        number = int(threading.current_thread().name)
        looks[number] += 1
        if sum(count > 5 for count in looks.values()) >= 2:  # the others have been looked at again and again
            go_on.set()
        threading.Event().wait(0.001)

    here.provider.during, here.on_parked = call, on_parked
    threads = [threading.Thread(target=deliver, args=(number,), name=str(number)) for number in looks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1]
    assert len(here.provider.calls) == 3


def test_a_request_at_which_too_many_workers_have_died_is_given_up(here: World, sentry_events: list[Any]):
    """F6: no call; it lies in the dead queue with its reason, and can be sent again from there."""
    die_at(here, 1, GIVEN_UP_AT)
    assert here.deliver(here.message(job())) == ("ack",)
    assert here.provider.calls == []
    ((queue, body, properties),) = here.publisher.sent
    assert queue == "gemini.generate.dead"
    assert properties.headers["x-reason"] == "20 worker processes have died while it ran"
    assert len(sentry_events) == 1
    assert here.deliver(the_broker.encoder.read(body, queue="gemini.generate")) == ("ack",)
    assert len(here.provider.calls) == 1


def test_one_that_runs_elsewhere_meanwhile_keeps_no_suspect_from_running(here: World, monkeypatch: pytest.MonkeyPatch):
    """Of two processes that look at it one was faster."""
    die_at(here, 1, SUSPECT_FROM)
    die_at(here, 2, SUSPECT_FROM)
    begin, elsewhere = here.stores.ledger.begin, here.stores.owner.take()

    def slower(claim: Claim) -> Any:
        if claim.dead and claim.work == Work.of(job(1)):
            begin(replace(claim, token=elsewhere))
        return begin(claim)

    def on_parked(_parking: Parking) -> None:
        if len(here.provider.calls) == 0:
            assert here.deliver(here.message(job(2))) == ("ack",)
            here.stores.owner.drop(elsewhere)

    monkeypatch.setattr(here.stores.ledger, "begin", slower)
    looks = iter(range(100))
    here.on_parked = lambda parking: on_parked(parking) if next(looks) == 1 else None
    assert here.deliver(here.message(job(1))) == ("ack",)
    assert len(here.provider.calls) == 2


def test_work_that_runs_elsewhere_is_looked_up_ever_less_often(here: World):
    """Soon at first, and at least every second."""
    message, elsewhere = here.message(job()), here.stores.owner.take()
    here.stores.ledger.begin(Claim(Work.of(job()), elsewhere, message.message_id, lease_s=3600.0))
    waits: list[float] = []

    def on_parked(parking: Parking) -> None:
        waits.append(parking.after_s)
        if len(waits) == 8:
            here.stores.owner.drop(elsewhere)

    here.on_parked = on_parked
    here.deliver(message)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.05, 1.0)


def test_a_process_that_was_taken_for_dead_publishes_no_second_envelope(here: World):
    """It was stopped in mid-call, and goes on: the answer of who has taken over counts, and both calls are paid for."""
    message = here.message(job())

    def elsewhere() -> None:
        token = resources.owner().take()
        claim = Claim(Work.of(job()), token, message.message_id, lease_s=60.0, dead=current_attempt().token or "")
        assert isinstance(here.stores.ledger.begin(claim), Started)
        here.stores.ledger.answer(
            claim.work, token, envelope=b"{}", message_id="m", failure=False, delivery=message.message_id
        )
        here.stores.ledger.published(claim.work)

    here.provider.during = elsewhere
    assert here.deliver(message) == ("requeue",)
    assert here.publisher.sent == []
    assert here.deliver(message) == ("ack",)
    assert here.publisher.sent == []


def test_an_answer_whose_confirm_is_late_is_published_again_without_a_thread(here: World):
    """It is in the ledger; the redelivery that is looked at again finds it there, as its own."""
    here.publisher.refuse["gemini.responses"] = [ConnectionLost("gone", queue="gemini.responses")]
    looks: list[Parking] = []
    here.on_parked = looks.append
    assert here.deliver(here.message(job())) == ("ack",)
    assert len(looks) == 1
    assert len(here.provider.calls) == 1
    assert len(here.publisher.to("gemini.responses")) == 1


def test_an_answer_that_is_nowhere_else_is_published_again_by_its_thread(here: World, monkeypatch: pytest.MonkeyPatch):
    """The ledger is away: parked, it would be paid for again."""
    monkeypatch.setattr(here.stores.ledger, "answer", Once(lambda: None))
    here.publisher.refuse["gemini.responses"] = [ConfirmTimeout("late", queue="gemini.responses")] * 3
    assert here.deliver(here.message(job())) == ("ack",)
    assert len(here.provider.calls) == 1
    assert len(here.publisher.to("gemini.responses")) == 1


def test_an_answer_that_the_ledger_has_lost_meanwhile_is_sent_all_the_same(
    here: World, monkeypatch: pytest.MonkeyPatch
):
    """It was stored and parked, and the file was replaced. It is paid for, and known here."""
    here.publisher.refuse["gemini.responses"] = [ConnectionLost("gone", queue="gemini.responses")]
    begin, token = here.stores.ledger.begin, []

    def forgetful(claim: Claim) -> Any:
        token.append(claim.token)
        return begin(claim) if len(token) == 1 else Started(claim.delivery)

    monkeypatch.setattr(here.stores.ledger, "begin", forgetful)
    assert here.deliver(here.message(job())) == ("ack",)
    assert len(here.provider.calls) == 1
    assert len(here.publisher.to("gemini.responses")) == 1


def test_a_parked_answer_whose_delivery_is_gone_is_not_published_from_here(here: World):
    """F70: RabbitMQ has delivered it to somebody else, who finds it in the ledger as soon as it is let go."""
    here.publisher.refuse["gemini.responses"] = [ConnectionLost("gone", queue="gemini.responses")]
    channel, source = Channel(), Source()
    message = here.message(job())
    here.run(Delivered(message, delivery(channel, queue=message.queue_name, source=source)))
    ((parked, _parking),) = source.parked
    channel.is_open = False
    here.run(parked)
    assert here.publisher.sent == []
    assert here.deliver(message) == ("ack",)
    assert len(here.publisher.to("gemini.responses")) == 1
    assert len(here.provider.calls) == 1


def test_a_stop_ends_the_tries_to_publish_what_is_stored_nowhere(here: World, monkeypatch: pytest.MonkeyPatch):
    """It would try as fast as it can, until the process is killed."""
    monkeypatch.setattr(here.stores.ledger, "answer", Once(lambda: None))
    here.publisher.refuse["gemini.responses"] = [ConnectionLost("gone", queue="gemini.responses")] * 1000
    here.provider.during = stopping.set
    assert here.deliver(here.message(job())) == ("requeue",)
    assert len(here.publisher.refuse["gemini.responses"]) == 999


def test_nothing_is_held_when_a_delivery_is_settled(here: World):
    """Neither after an answer, nor after a wait or a fault: a redelivery would wait for a token that nobody uses."""
    here.provider.script = [completion(), BROKEN, RuntimeError("a fault")]
    for number in range(3):
        here.deliver(here.message(job(number)))
    assert not here.stores.owner._held


HOOKS = [hook for hook in MIDDLEWARE if isinstance(hook, Hook)]


@pytest.fixture
def sentry_events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What would be sent to Sentry."""
    events: list[Any] = []
    monkeypatch.setattr(sentry, "_hourly", sentry.Once(3600.0))
    with sentry_sdk.new_scope() as scope:
        client = sentry_sdk.Client(
            dsn="http://key@sentry.invalid/1",
            default_integrations=False,
            before_send=lambda event, _hint: events.append(event),
        )
        scope.set_client(client)
        yield events
        client.close(timeout=0)


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: type(hook).__name__)
def test_a_request_whose_hook_has_failed_is_not_run_without_it(
    here: World, monkeypatch: pytest.MonkeyPatch, sentry_events: list[Any], hook: Hook[Any]
):
    """F61: no call, one event, tried again on the short schedule as after any fault of ours, and answered after it."""
    with monkeypatch.context() as faulty:
        faulty.setattr(hook, "around", failing)
        assert here.deliver(here.message(job())) == ("ack",)
    assert here.provider.calls == []
    assert [e["exception"]["values"][-1]["type"] for e in sentry_events] == ["ValueError"]
    (copy,) = here.copies("gemini.generate.backoff.2s")
    assert here.publisher.to("gemini.responses") == []
    assert here.deliver(copy) == ("ack",)
    assert [e["status"] for e in here.publisher.to("gemini.responses")] == ["success"]
    assert len(here.provider.calls) == 1


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: type(hook).__name__)
def test_a_hook_that_does_not_yield_has_failed(here: World, monkeypatch: pytest.MonkeyPatch, hook: Hook[Any]):
    """A `return` before the `yield` would leave the actor without it."""
    monkeypatch.setattr(hook, "around", lambda _attempt: iter(()))
    assert here.deliver(here.message(job())) == ("ack",)
    assert here.provider.calls == []
    assert len(here.copies("gemini.generate.backoff.2s")) == 1


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook.kind is Attempt], ids=lambda hook: type(hook).__name__)
def test_a_held_reply_whose_hook_has_failed_waits_for_its_next_try(
    here: World, monkeypatch: pytest.MonkeyPatch, hook: Hook[Any]
):
    """F61: it is paid for. Given back at once it would fail until RabbitMQ gives it up."""
    here.publisher.refuse["gemini.responses"] = [Unroutable("missing", queue="gemini.responses")]
    here.deliver(here.message(job()))
    (held,) = here.copies("gemini.callbacks.delay.5s")
    with monkeypatch.context() as faulty:
        faulty.setattr(hook, "around", failing)
        assert here.deliver(held) == ("ack",)
    (again,) = here.copies("gemini.callbacks.delay.60s")
    assert here.deliver(again) == ("ack",)
    assert [e["status"] for e in here.publisher.to("gemini.responses")] == ["success"]
    assert len(here.provider.calls) == 1


@pytest.mark.parametrize("where", ["pool", "ledger", "publisher"])
def test_a_fault_in_what_a_hook_uses_ends_in_one_error_envelope(
    here: World, monkeypatch: pytest.MonkeyPatch, where: str
):
    """F61: nothing is paid for without a record. It is tried again until the schedule is used up."""
    owner, name = {
        "pool": (here.pool, "acquire"),
        "ledger": (here.stores.ledger, "begin"),
        "publisher": (here.publisher, "ready"),
    }[where]
    with monkeypatch.context() as faulty:
        faulty.setattr(owner, name, Faulty() if name == "ready" else fail)
        assert here.deliver(here.message(job(upstream_retries=3))) == ("ack",)
    assert here.provider.calls == []
    (envelope,) = here.publisher.to("gemini.responses")
    assert (envelope["error"], envelope["error_code"]) == ("Internal error", "internal")


def failing(_attempt: Attempt) -> Iterator[None]:
    raise ValueError("canary-prompt")
    yield


def fail(*_args: Any, **_kwargs: Any) -> None:
    raise ValueError("canary-prompt")


class Faulty:
    """Says neither yes nor no."""

    def __bool__(self) -> bool:
        raise ValueError("canary-prompt")


def test_all_keys_refused_in_turn_say_what_the_provider_said(here: World):
    """The last refusal is the text, the code is authentication."""
    here.provider.script = [
        AuthenticationFailed(f"HTTP 402: refused {n}", reason="openrouter_credits", status=402, is_named=True)
        for n in range(2)
    ]
    here.deliver(here.message(job()))
    (envelope,) = here.publisher.to("gemini.responses")
    assert envelope["error"] == "Authentication error: HTTP 402: refused 1"


def guessed(number: int, status: int) -> AuthenticationFailed:
    return AuthenticationFailed(f"HTTP {status}: refused {number}", reason=f"http_{status}", status=status)


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_guess_about_every_key_is_waited_for(here: World, status: int):
    """As any fault of the provider; a request that comes meanwhile waits too, and makes no call."""
    here.provider.script = [guessed(number, status) for number in range(2)]
    assert here.deliver(here.message(job(1))) == ("ack",)
    assert here.deliver(here.message(job(2))) == ("ack",)
    assert len(here.copies("gemini.generate.backoff.2s")) == 2
    assert len(here.provider.calls) == 2


def test_a_guess_about_the_only_key_is_waited_for(tmp_path: Path):
    """One answer that was misread must not fail the requests of others."""
    with world(tmp_path, OPENROUTER_API_KEYS="sk-or-v1-key-one-1111") as here:
        here.provider.script = [guessed(1, 401)]
        here.deliver(here.message(job()))
        assert len(here.copies("gemini.generate.backoff.2s")) == 1


def test_one_guess_among_refusals_is_waited_for(here: World):
    """The provider has not said so of each."""
    here.provider.script = [AuthenticationFailed("no", reason="openrouter_key_limit", is_named=True), guessed(1, 403)]
    here.deliver(here.message(job()))
    assert len(here.copies("gemini.generate.backoff.2s")) == 1


def test_a_guess_that_the_provider_confirms_is_an_authentication_error(here: World):
    """At once, from then on."""
    here.provider.script = [guessed(number, 401) for number in range(2)]
    here.deliver(here.message(job(1)))
    for key in here.settings.keys:
        here.pool.confirm(key.digest, "http_401")
    here.deliver(here.message(job(2)))
    (envelope,) = here.publisher.to("gemini.responses")
    assert (envelope["request_id"], envelope["error_code"]) == ("r-2", "authentication")


def test_a_guess_that_does_not_end_is_an_authentication_error(here: World):
    """After the short schedule; the text is the last refusal."""
    here.provider.script = [guessed(number, 401) for number in range(2)]
    here.deliver(here.message(job(upstream_retries=3)))
    (envelope,) = here.publisher.to("gemini.responses")
    assert (envelope["error"], envelope["error_code"]) == (
        "Authentication error: HTTP 401: refused 1",
        "authentication",
    )


def test_a_store_that_is_away_makes_no_outage_of_a_guess(here: World, monkeypatch: pytest.MonkeyPatch):
    """What cannot be looked up is not taken for said."""
    here.provider.script = [guessed(number, 401) for number in range(2)]
    monkeypatch.setattr(here.pool, "guesses", Once(here.pool.guesses))
    here.deliver(here.message(job()))
    assert len(here.copies("gemini.generate.backoff.2s")) == 1


def test_a_key_that_rests_by_a_guess_is_asked_about(here: World, monkeypatch: pytest.MonkeyPatch):
    """Whatever the status was; one about which the provider has spoken comes back when its rest is over."""
    suspects: list[tuple[str, str]] = []
    monkeypatch.setattr(cooldown, "suspect", lambda key, reason: suspects.append((str(key), reason)))
    here.provider.script = [guessed(1, 403), LIMITED]
    here.deliver(here.message(job()))
    assert suspects == [("****1111", "http_403")]


def test_a_guess_of_another_process_is_asked_about_by_who_meets_it(here: World, monkeypatch: pytest.MonkeyPatch):
    """The one that has made it may be gone."""
    here.provider.script = [guessed(1, 401), guessed(2, 402)]
    here.deliver(here.message(job(1)))
    suspects: set[tuple[str, str]] = set()
    monkeypatch.setattr(key_selection, "suspect", lambda key, reason: suspects.add((str(key), reason)))
    here.deliver(here.message(job(2)))
    assert suspects == {("****1111", "http_401"), ("****2222", "http_402")}


def too_large(tokens: int | None) -> CallTooLarge:
    error = CallTooLarge("HTTP 402: fewer max_tokens", reason="call_too_large", status=402)
    error.affordable_tokens = tokens
    return error


def test_a_call_that_is_too_dear_is_made_again_for_what_is_affordable(here: World):
    """At once; no key rests, no retry is counted, and each call is a use of a key."""
    here.provider.script = [too_large(3919)]
    assert here.deliver(here.message(job())) == ("ack",)
    assert [request.parameters.max_output_tokens for request in here.provider.requests] == [None, 3919]
    assert [envelope["status"] for envelope in here.publisher.to("gemini.responses")] == ["success"]
    assert [status.rest for status in here.pool.status()] == [None, None]
    assert sum(status.used for status in here.pool.status()) == 2


@pytest.mark.parametrize("tokens", [None, 0, USEFUL_TOKENS - 1])
def test_a_call_that_is_too_dear_fails_where_less_is_of_no_use(here: World, tokens: int | None):
    """For every key, and this request alone: the next one is answered."""
    here.provider.script = [too_large(tokens), too_large(tokens)]
    here.deliver(here.message(job(1)))
    here.deliver(here.message(job(2)))
    first, second = here.publisher.to("gemini.responses")
    assert (first["error_code"], second["status"]) == ("invalid_request", "success")
    assert (len(here.provider.calls), len(set(here.provider.calls[:2]))) == (3, 2)


@pytest.mark.parametrize("tokens", [None, USEFUL_TOKENS - 1])
def test_a_call_that_one_key_cannot_pay_for_is_made_with_another(here: World, tokens: int | None):
    """As it was asked for; no key rests, and no retry is counted."""
    here.provider.script = [too_large(tokens)]
    assert here.deliver(here.message(job())) == ("ack",)
    assert [envelope["status"] for envelope in here.publisher.to("gemini.responses")] == ["success"]
    assert len(set(here.provider.calls)) == 2
    assert [request.parameters.max_output_tokens for request in here.provider.requests] == [None, None]
    assert [(status.rest, status.used) for status in here.pool.status()] == [(None, 1), (None, 1)]


def test_a_key_that_cannot_pay_is_passed_over_though_it_is_the_next_in_turn(here: World):
    """Others have used the other key meanwhile; looking past it is no use of it."""
    others = ["google/gemini-2.5-flash"]
    here.provider.during = lambda: others and here.pool.acquire(others.pop())
    here.provider.script = [too_large(10)]
    here.deliver(here.message(job()))
    assert [envelope["status"] for envelope in here.publisher.to("gemini.responses")] == ["success"]
    assert len(set(here.provider.calls)) == 2
    assert sorted(status.used for status in here.pool.status()) == [1, 2]


@pytest.mark.parametrize("refusals", [[LIMITED, "too dear"], ["too dear", LIMITED]])
def test_a_call_that_one_key_cannot_pay_for_waits_for_the_other(here: World, refusals: list[Any]):
    """It is final when there is no other one, and not when that one rests."""
    here.provider.script = [too_large(10) if refusal == "too dear" else refusal for refusal in refusals]
    here.deliver(here.message(job()))
    assert len(here.provider.calls) == 2
    assert len(here.copies("gemini.generate.delay.60s")) == 1


@pytest.mark.parametrize(("is_of_key", "calls"), [(False, 1), (True, 2)])
def test_the_keys_of_an_account_that_cannot_pay_are_passed_over_together(tmp_path: Path, is_of_key: bool, calls: int):
    """Unless it is the limit of the key itself."""
    with world(tmp_path, OPENROUTER_API_KEYS="us=sk-or-v1-key-one-1111,us=sk-or-v1-key-two-2222") as here:
        error = too_large(10)
        error.is_of_key = is_of_key
        here.provider.script = [error]
        here.deliver(here.message(job()))
        assert len(here.provider.calls) == calls


def test_a_call_that_stays_too_dear_ends(here: World):
    """The credits go while others use them; what is asked for never grows."""
    here.provider.script = [too_large(tokens) for tokens in (4000, 3000, 5000, 2000)]
    here.deliver(here.message(job()))
    (envelope,) = here.publisher.to("gemini.responses")
    assert envelope["error_code"] == "invalid_request"
    assert [request.parameters.max_output_tokens for request in here.provider.requests] == [None, 4000, 3000, 3000]


def test_the_operator_is_told_once_that_credits_are_low(here: World, sentry_events: list[Any]):
    """And not by an event for each request."""
    here.provider.script = [too_large(3919), completion(), too_large(10), too_large(10)]
    for number in range(3):
        here.deliver(here.message(job(number)))
    assert [event["tags"]["what"] for event in sentry_events] == ["credits_low"]


def test_a_call_that_is_too_dear_waits_for_a_key_where_none_is_free(tmp_path: Path):
    """It had one, and goes on the schedule."""
    with world(tmp_path, OPENROUTER_API_KEYS="sk-or-v1-key-one-1111", KEYS_MAX_PER_MINUTE="1") as here:
        here.provider.script = [too_large(3919)]
        here.deliver(here.message(job()))
        assert len(here.copies("gemini.generate.delay.60s")) == 1


def test_calls_of_one_attempt_share_one_deadline(here: World, monkeypatch: pytest.MonkeyPatch):
    """The ledger's lease ends after it, so a rotation must not go on for ever."""
    seen: list[float] = []
    real = here.provider.complete

    def complete(request: Any, key: Any, *, deadline_s: float, listener: Any = None) -> Any:
        seen.append(deadline_s)
        return real(request, key, deadline_s=deadline_s)

    monkeypatch.setattr(here.provider, "complete", complete)
    here.provider.script = [LIMITED]
    here.deliver(here.message(job()))
    assert here.settings.request_timeout_seconds >= seen[0] > seen[1]


def test_the_first_signal_stops_and_the_second_is_ignored(here: World):
    """F50: Dramatiq's own handler would kill the process at the second one."""
    handled: list[int] = []
    reader, writer = socket.socketpair()
    with reader:
        writer.send(bytes([signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP]))
        writer.close()
        stops = {signum: lambda number, _frame: handled.append(number) for signum in (signal.SIGTERM, signal.SIGHUP)}
        Process(stopping, resources.settings)._wait(reader, stops)
    assert handled == [signal.SIGTERM]
    assert stopping.is_set()


def test_a_signal_is_handled_in_a_thread_of_its_own(here: World, monkeypatch: pytest.MonkeyPatch):
    """A handler interrupts whoever runs, with whatever locks it has."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)}
    handled: list[str] = []
    record = lambda _signum, _frame: handled.append(threading.current_thread().name)  # noqa: E731
    monkeypatch.setattr(signal, "getsignal", lambda _signum: record)
    try:
        Process(stopping, resources.settings).before_worker_boot(the_broker, SimpleNamespace())  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.wait(60)
        wait_until(lambda: handled, what="Dramatiq's handler")
        assert handled == ["signals"]
    finally:
        signal.set_wakeup_fd(-1)
        for signum, handler in before.items():
            signal.signal(signum, handler)


def test_a_stop_gives_back_what_was_not_started(here: World):
    """F51: another worker starts it while this one finishes its calls."""
    given_back: list[Any] = []
    work: PriorityQueue[Any] = PriorityQueue()
    work.put((1, "running"))
    work.get()
    waiting = SimpleNamespace(message=SimpleNamespace(queue_name="gemini.generate"))
    work.put(waiting)
    worker = SimpleNamespace(
        work_queue=work, consumers={"gemini.generate": SimpleNamespace(post_process_message=given_back.append)}
    )
    Process(stopping, resources.settings).before_worker_shutdown(the_broker, worker)  # type: ignore[arg-type]
    assert given_back == [waiting.message]
    assert work.unfinished_tasks == 1
    assert stopping.is_set()


def test_a_worker_fetches_as_much_as_it_has_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Twice as much, Dramatiq's default, lets requests wait here while another worker idles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUEUE_MAX_RETRIES", "many")
    worker = SimpleNamespace(worker_threads=7, queue_prefetch=14)
    with pytest.raises(SystemExit) as left:
        Boot(resources).before_worker_boot(the_broker, worker)  # type: ignore[arg-type]
    assert worker.queue_prefetch == 7
    assert left.value.code == exits.SETTINGS


def test_a_delay_is_refused(here: World):
    """Dramatiq would hold the message unacked in a worker's memory (Dramatiq #827)."""
    with pytest.raises(ValueError, match="no delays"):
        the_broker.enqueue(here.message(job()), delay=1000)


def test_an_enqueued_message_is_confirmed(here: World):
    """`generate.send(...)` returns when RabbitMQ has the message."""
    the_broker.enqueue(here.message(job()))
    assert [queue for queue, _body, _properties in here.publisher.sent] == ["gemini.generate"]


def test_a_worker_that_has_lost_a_thread_drains_and_says_so(here: World, monkeypatch: pytest.MonkeyPatch):
    """Half a worker looks alive; the platform starts a whole one."""
    asked = threading.Event()
    monkeypatch.setattr(os, "kill", lambda _pid, _signum: asked.set())
    alive, ended = threading.current_thread(), threading.Thread()
    worker: Any = SimpleNamespace(workers=[alive], consumers={"gemini.generate": ended})
    watchdog = Process(stopping, resources.settings, look_every_s=0.01)
    watchdog.after_worker_boot(the_broker, worker)
    assert asked.wait(60)
    with pytest.raises(SystemExit) as left:
        watchdog.after_worker_shutdown(the_broker, worker)
    assert left.value.code == exits.FAULT


def test_a_worker_that_settles_nothing_says_so_once(
    here: World, caplog: pytest.LogCaptureFixture, sentry_events: list[Any]
):
    """Its threads live, and nobody is served; when it goes on it says that, too."""
    clock, process = Clock(), Process(stopping, resources.settings)
    process.progress = Progress(clock)
    delivered = SimpleNamespace(looks=0, at_end=[], is_gone=lambda: False)
    next(process.around(delivered))  # type: ignore[call-overload]
    for seconds in (10, here.settings.request_timeout_seconds + STILL_MARGIN_S, 10):
        clock.advance(seconds)
        process._say_whether_it_stands_still()
    assert process.stands_still
    assert len(sentry_events) == 1
    delivered.at_end[0]()
    process._say_whether_it_stands_still()
    assert not process.stands_still
    assert [record.levelname for record in caplog.records if "settled" in record.message] == ["CRITICAL", "WARNING"]


def test_nothing_to_settle_is_no_standstill():
    """However long nobody asks; the time counts from the first delivery."""
    clock = Clock()
    progress = Progress(clock)
    clock.advance(3600)
    assert progress.still_for_s() == 0
    progress.begun()
    clock.advance(5)
    progress.begun()
    assert progress.still_for_s() == 5
    progress.settled()
    assert progress.still_for_s() == 0
    progress.settled()
    clock.advance(5)
    assert (progress.still_for_s(), progress.unsettled) == (0, 0)


def test_a_whole_worker_ends_without_a_word(here: World):
    """A stop is no failure."""
    watchdog = Process(stopping, resources.settings, look_every_s=0.01)
    stopping.set()
    worker: Any = SimpleNamespace(workers=[threading.current_thread()], consumers={})
    watchdog.after_worker_boot(the_broker, worker)
    watchdog.after_worker_shutdown(the_broker, worker)
