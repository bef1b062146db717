"""What nobody waits for any more makes no call; what is paid for is told all the same."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.broker import requests_wait
from gateway.errors import ErrorCode, RateLimited, UpstreamFailed
from gateway.messages import Job
from middleware.attempt import Parking
from tests.world import World, completion, job, world

LIMITED = RateLimited("HTTP 429", reason="http_429", status=429, retry_after_s=3000.0)
LATE = UpstreamFailed("The provider did not answer in time", reason="deadline", code=ErrorCode.TIMEOUT)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, OPENROUTER_API_KEYS="sk-or-v1-key-one-1111") as made:
        yield made


def due(left_s: float, **fields: Any) -> Job:
    """A request with so many seconds left."""
    return job(expires_at=time.time() + left_s, **fields)


def codes(here: World) -> list[str]:
    return [envelope.get("error_code", "success") for envelope in here.publisher.to("gemini.responses")]


def uses(here: World) -> list[int]:
    return [status.used for status in here.pool.status()]


def test_a_request_whose_deadline_has_passed_takes_no_key(here: World):
    """Its envelope says so, and is stored: a redelivery finds it, and makes none."""
    message = here.message(due(-1.0))
    assert here.deliver(message) == ("ack",)
    assert here.deliver(message) == ("ack",)
    assert codes(here) == ["expired"]
    assert here.publisher.to("gemini.responses")[0]["metadata"] == {"n": 1}
    assert (here.provider.calls, uses(here)) == ([], [0])


def test_an_expired_request_may_be_asked_again(here: World):
    """As after any error; it is the same work with another deadline."""
    here.deliver(here.message(due(-1.0)))
    assert here.deliver(here.message(due(60.0, received_at=time.time() + 1))) == ("ack",)
    assert codes(here) == ["expired", "success"]


def test_the_call_has_no_more_time_than_the_deadline_leaves(here: World, monkeypatch: pytest.MonkeyPatch):
    """Nor more than REQUEST_TIMEOUT_SECONDS."""
    given: list[float] = []

    def complete(_request: Any, _key: Any, *, deadline_s: float, listener: Any = None) -> Any:
        given.append(deadline_s)
        return completion()

    monkeypatch.setattr(here.provider, "complete", complete)
    here.deliver(here.message(due(60.0)))
    here.deliver(here.message(job(2, expires_at=time.time() + 9_999.0)))
    here.deliver(here.message(job(3)))
    assert 0 < given[0] <= 60.0
    assert 60.0 < given[1] <= here.settings.request_timeout_seconds
    assert 60.0 < given[2] <= here.settings.request_timeout_seconds


def test_an_answer_that_comes_after_the_deadline_is_told(here: World, monkeypatch: pytest.MonkeyPatch):
    """It is paid for."""
    later = time.time() + 120
    here.provider.during = lambda: monkeypatch.setattr("gateway.messages.time.time", lambda: later)
    here.deliver(here.message(due(60.0)))
    assert codes(here) == ["success"]


def test_an_answer_of_before_is_told_after_the_deadline(here: World):
    """The crash came between storing and publishing; the redelivery comes late."""
    message = here.message(due(60.0))
    here.publisher.refuse["gemini.responses"] = []
    here.deliver(message)
    (kept,) = message.args
    late = message.copy(args=(kept.model_copy(update={"expires_at": time.time() - 1}),), message_id="another")
    assert here.deliver(late) == ("ack",)
    assert codes(here) == ["success", "success"]
    assert len(here.provider.calls) == 1


def test_a_call_that_its_deadline_has_cut_is_not_made_again(here: World, monkeypatch: pytest.MonkeyPatch):
    """The request has expired: the provider is not to blame, and no wait is begun."""
    later = time.time() + 120
    here.provider.script = [LATE]
    here.provider.during = lambda: monkeypatch.setattr("gateway.messages.time.time", lambda: later)
    assert here.deliver(here.message(due(60.0))) == ("ack",)
    assert codes(here) == ["expired"]


def test_while_no_key_is_free_a_near_deadline_is_waited_for_without_a_thread(
    here: World, monkeypatch: pytest.MonkeyPatch
):
    """Parked until then, for a key; no copy is sent anywhere, and the worker knows that somebody waits."""
    seen: list[Parking] = []

    def on_parked(parking: Parking) -> None:
        seen.append(parking)
        monkeypatch.setattr("gateway.messages.time.time", lambda: later)

    later = time.time() + 60
    here.on_parked = on_parked
    here.provider.script = [LIMITED]
    here.deliver(here.message(job(2)))
    requests_wait.clear()
    assert here.deliver(here.message(due(50.0))) == ("ack",)
    (parking,) = seen
    assert (parking.for_key, parking.keeps_room) == (True, False)
    assert 0 < parking.after_s <= 50.0
    assert requests_wait.is_set()
    assert codes(here) == ["expired"]
    assert len(here.provider.calls) == 1


def test_a_request_that_was_cancelled_takes_no_key(here: World):
    """Whatever its content: a cancel names the id."""
    here.stores.ledger.cancel("r-1")
    message = here.message(job())
    assert here.deliver(message) == ("ack",)
    assert here.deliver(message) == ("ack",)
    assert codes(here) == ["cancelled"]
    assert (here.provider.calls, uses(here)) == ([], [0])


def test_a_cancel_in_mid_call_leaves_the_answer_as_it_comes(here: World):
    """It is paid for; and what is answered stays so."""
    here.provider.during = lambda: here.stores.ledger.cancel("r-1") and None
    message = here.message(job())
    here.deliver(message)
    here.deliver(message.copy(message_id="asked again"))
    assert codes(here) == ["success", "success"]
    assert len(here.provider.calls) == 1


def test_a_cancel_in_mid_call_ends_the_request_before_its_next_call(here: World):
    """The provider was at fault: the request waits, and comes back to be told."""
    here.provider.script = [UpstreamFailed("HTTP 503", reason="http_503", status=503)]
    here.provider.during = lambda: here.stores.ledger.cancel("r-1") and None
    here.deliver(here.message(job()))
    (copy,) = here.copies("gemini.generate.backoff.2s")
    assert here.deliver(copy) == ("ack",)
    assert codes(here) == ["cancelled"]
    assert len(here.provider.calls) == 1


def test_a_copy_that_waits_is_told_of_a_cancel_and_the_one_before_it_is_not(here: World):
    """A crash has left both: of two copies of a delivery only the later one is worked on."""
    here.provider.script = [LIMITED]
    message = here.message(job())
    here.deliver(message)
    here.stores.ledger.cancel("r-1")
    assert here.deliver(message) == ("ack",)
    assert codes(here) == []
    (copy,) = here.copies("gemini.generate.delay.60s")
    assert here.deliver(copy) == ("ack",)
    assert codes(here) == ["cancelled"]


def test_what_an_operator_has_dropped_takes_no_key(here: World):
    """It is answered, once: also where the one that it was copied from is still there."""
    message = here.message(job(hop=1, dropped=True))
    here.deliver(message)
    here.deliver(here.message(job(hop=1), message_id=message.message_id))
    assert codes(here) == ["cancelled"]
    assert "operator" in here.publisher.to("gemini.responses")[0]["error"]
    assert (here.provider.calls, uses(here)) == ([], [0])
