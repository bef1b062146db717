"""What a request has cost, and answers that have to hold a schema: through the middleware and over waits."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.errors import CallTooLarge, RateLimited, RequestRejected, UpstreamFailed
from gateway.messages import Completion, Request, Usage
from tests.world import World, completion, job, world

LIMITED = RateLimited("HTTP 429", reason="http_429", status=429, retry_after_s=30.0)
BROKEN = UpstreamFailed("HTTP 503: overloaded", reason="http_503", status=503)

RIVER = {"type": "object", "required": ["name"]}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, UPSTREAM_RETRY_DELAYS="2,10") as made:
        yield made


def asking(schema: Any = RIVER) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "river", "schema": schema}}
    request = {"request_id": "r-1", "prompt": "Which river?", "callback_queue": "gemini.responses"}
    return job(request=Request(**request, parameters={"response_format": wanted}))


def envelope(here: World) -> dict[str, Any]:
    (found,) = here.publisher.to("gemini.responses")
    return found


def clock(here: World, monkeypatch: pytest.MonkeyPatch, *calls_s: float) -> None:
    """Each call of the provider takes one of these times, on a clock of its own."""
    now, durations = [1000.0], list(calls_s)
    # By its name: `actors.generate` is the actor.
    monkeypatch.setattr(sys.modules["actors.generate"], "time", SimpleNamespace(monotonic=lambda: now[0]))

    def call() -> None:
        now[0] += durations.pop(0)

    here.provider.during = call


def test_the_envelope_says_what_it_took(here: World, monkeypatch: pytest.MonkeyPatch):
    """One call: all other time was waiting."""
    clock(here, monkeypatch, 1.5)
    here.provider.script = [Completion("Hi.", Usage(cost=0.002), "vendor/model", generation_id="gen-1")]
    here.deliver(here.message(job()))
    told = envelope(here)
    assert (told["attempts"], told["call_ms"], told["generation_id"]) == (1, 1500, "gen-1")
    assert told["usage"]["cost"] == 0.002
    assert told["waited_ms"] == told["processing_time_ms"] - 1500


def test_calls_with_other_keys_count(here: World, monkeypatch: pytest.MonkeyPatch):
    """The time is that of the last call; the others were not waiting either."""
    clock(here, monkeypatch, 0.25, 2.0)
    here.provider.script = [LIMITED]
    here.deliver(here.message(job()))
    told = envelope(here)
    assert (told["attempts"], told["call_ms"]) == (2, 2000)
    assert told["waited_ms"] == told["processing_time_ms"] - 2250


def test_calls_before_a_wait_count(here: World, monkeypatch: pytest.MonkeyPatch):
    """They travel with the copy that waits."""
    clock(here, monkeypatch, 1.0, 3.0, 5.0)
    here.provider.script = [BROKEN, BROKEN]
    here.deliver(here.message(job()))
    here.deliver(here.copies("gemini.generate.backoff.2s")[0])
    here.deliver(here.copies("gemini.generate.backoff.10s")[0])
    told = envelope(here)
    assert (told["attempts"], told["call_ms"]) == (3, 5000)
    assert told["waited_ms"] == told["processing_time_ms"] - 9000


def test_an_error_says_what_it_took(here: World, monkeypatch: pytest.MonkeyPatch):
    """Calls that failed were made, too."""
    clock(here, monkeypatch, 1.0, 2.0, 4.0)
    here.provider.script = [BROKEN] * 3
    here.deliver(here.message(job()))
    here.deliver(here.copies("gemini.generate.backoff.2s")[0])
    here.deliver(here.copies("gemini.generate.backoff.10s")[0])
    told = envelope(here)
    assert (told["status"], told["attempts"], told["call_ms"]) == ("error", 3, 4000)
    assert "generation_id" not in told


def test_an_error_without_a_call_has_no_time_of_one(here: World):
    """Fields without a value are left out."""
    here.provider.check = lambda _request: _refuse()  # type: ignore[method-assign]
    here.deliver(here.message(job()))
    told = envelope(here)
    assert told["attempts"] == 0
    assert told["waited_ms"] == told["processing_time_ms"]
    assert "call_ms" not in told


def test_a_redelivery_is_told_the_same(here: World):
    """The ledger has the envelope, with all of it."""
    here.deliver(here.message(job()))
    here.deliver(here.message(job()))
    first, second = (body for _, body, _ in here.publisher.sent)
    assert first == second
    assert len(here.provider.calls) == 1


def _refuse() -> None:
    raise RequestRejected("parameters.models: nothing like it", reason="not_for_gemini")


def test_a_request_that_cannot_be_asked_takes_no_key(here: World):
    """It is final, and no call was made."""
    here.provider.check = lambda _request: _refuse()  # type: ignore[method-assign]
    assert here.deliver(here.message(job())) == ("ack",)
    told = envelope(here)
    assert (told["error_code"], told["error"]) == ("invalid_request", "parameters.models: nothing like it")
    assert here.provider.calls == []
    assert all(status.used == 0 for status in here.pool.status())


def test_an_answer_that_holds_is_published(here: World):
    """As it came, to the last space."""
    here.provider.script = [completion('{"name":  "Rhine"}')]
    here.deliver(here.message(asking()))
    assert envelope(here)["content"] == '{"name":  "Rhine"}'


def test_an_answer_that_does_not_hold_is_asked_for_again(here: World):
    """On the short schedule, and the next one counts."""
    here.provider.script = [completion("A river, canary."), completion('{"name": "Rhine"}')]
    here.deliver(here.message(asking()))
    here.deliver(here.copies("gemini.generate.backoff.2s")[0])
    told = envelope(here)
    assert (told["status"], told["content"], told["attempts"]) == ("success", '{"name": "Rhine"}', 2)


def test_the_final_envelope_says_that_no_answer_held(here: World, caplog: pytest.LogCaptureFixture):
    """With the keyword of the schema, and nothing of the answer; P4 for the log as well."""
    caplog.set_level("DEBUG")
    here.provider.script = [completion('{"canary": 1}')] * 3
    here.deliver(here.message(asking()))
    here.deliver(here.copies("gemini.generate.backoff.2s")[0])
    here.deliver(here.copies("gemini.generate.backoff.10s")[0])
    told = envelope(here)
    assert (told["error_code"], told["attempts"]) == ("upstream", 3)
    assert told["error"] == "The model's answer does not hold the JSON schema of response_format (at 'required')"
    assert "canary" not in caplog.text


def test_an_answer_that_was_cut_is_final(here: World):
    """One call; nobody at the worker can mend it."""
    here.provider.script = [replace(completion('{"na'), finish_reason="length")]
    assert here.deliver(here.message(asking())) == ("ack",)
    told = envelope(here)
    assert (told["error_code"], told["attempts"]) == ("output_exhausted", 1)


def test_a_call_that_is_too_dear_is_asked_for_less_and_for_all_else(here: World):
    """Both calls count; the answer has to hold the schema as before."""
    dear = CallTooLarge("HTTP 402: fewer max_tokens", reason="call_too_large", status=402)
    dear.affordable_tokens = 3919
    here.provider.script = [dear, completion('{"name": "Rhine"}')]
    here.deliver(here.message(asking()))
    first, second = (request.parameters.given for request in here.provider.requests)
    assert second == {**first, "max_output_tokens": 3919}
    assert envelope(here)["attempts"] == 2


def test_a_schema_that_cannot_be_used_takes_no_key(here: World):
    """Refused in words; nobody pays for an answer that could not be checked."""
    here.deliver(here.message(asking({"$ref": "http://127.0.0.1:9/canary"})))
    told = envelope(here)
    assert told["error_code"] == "invalid_request"
    assert told["error"].startswith("parameters.response_format: a $ref points to no schema")
    assert here.provider.calls == []


def test_calls_of_tools_are_in_the_envelope(here: World):
    """Beside a text, which may be empty."""
    calls = [{"id": "c-1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    here.provider.script = [Completion("", Usage(), "vendor/model", tool_calls=calls)]
    here.deliver(here.message(job()))
    told = envelope(here)
    assert (told["status"], told["content"], told["tool_calls"]) == ("success", "", calls)
