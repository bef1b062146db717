"""What providers and things on the way really send: through HTTP, a worker and RabbitMQ, to the backend.

One test a kind; each decision alone is in `tests/test_responses.py`, with its recorded answer.
"""

import base64
import gzip
import json
import random
from collections import Counter
from typing import Any

import pytest

from dev.stack import Stack
from fake_openrouter.client import FakeClient
from tests.system.conftest import KEYS, MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

Running = tuple[Stack, FakeClient]

PAGE = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>canary-page</body></html>"
CHALLENGE = {"Content-Type": "text/html; charset=UTF-8", "cf-mitigated": "challenge"}


def error(code: object, message: str, **metadata: object) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "metadata": metadata or None}, "user_id": "user_canary"}


def dear(tokens: int) -> dict[str, Any]:
    asked = "This request requires more credits, or fewer max_tokens. You requested up to 8192 tokens"
    return {"status": 402, "body": error(402, f"{asked}, but can only afford {tokens}.", provider_name=None)}


def completion(**choice: object) -> dict[str, Any]:
    usage = {"prompt_tokens": "12", "completion_tokens": 3.0, "total_tokens": 15.0}
    return {"id": "gen-1", "model": "served/model", "choices": [{"index": 0, **choice}], "usage": usage}


def play(
    running: Running, rules: dict[str, list[dict[str, Any]]], **fields: Any
) -> tuple[dict[str, Any], Counter[str]]:
    """Answer the calls of each request with these behaviours in turn; the envelopes, and the calls of each request."""
    stack, fake = running
    fake.reset()
    fake.script(
        [{"prompt": f"[{name}]", "times": 1, **rule} for name, behaviours in rules.items() for rule in behaviours]
    )
    asked = [
        {"request_id": name, "prompt": f"[{name}] canary-prompt", "model": f"odd/{number}", **fields}
        for number, name in enumerate(rules)
    ]
    stack.publish(*asked)
    answers = {answer["request_id"]: answer.envelope for answer in stack.answers(len(rules), timeout_s=90)}
    calls = Counter(str(call["prompt"]).partition("]")[0].removeprefix("[") for call in fake.calls())
    assert "canary" not in json.dumps([answer for answer in answers.values() if answer["status"] == "error"])
    return answers, calls


def test_words_decide_before_a_status(running_stack: Running):
    """K1: one call's size, a prompt's length, a model's name; none rests the only key."""
    raw = json.dumps(
        {"error": {"message": "This model's maximum context length is 262144 tokens. canary", "code": 400}}
    )
    long = error(400, "Provider returned error", provider_name="Nvidia", raw=raw)
    rules = {
        "dear": [dear(3919)],
        "too dear": [dear(7)],
        "prompt too long": [{"status": 400, "body": long}],
        "prompt over the limit": [{"status": 402, "body": error(402, "Prompt tokens limit exceeded: 230799 > 91442.")}],
        "no model": [{"status": 400, "body": error(400, "vendor/name is not a valid model ID")}],
        "not allowed": [{"status": 404, "body": error(404, "No endpoints found matching your data policy")}],
        "money of others": [{"status": 402, "body": error(402, "Provider returned error", provider_name="DeepSeek")}],
        "usual": [],
    }
    answers, calls = play(running_stack, rules)

    assert {name: answer.get("error_code", "success") for name, answer in answers.items()} == {
        "dear": "success",
        "too dear": "invalid_request",
        "prompt too long": "invalid_request",
        "prompt over the limit": "invalid_request",
        "no model": "model_not_found",
        "not allowed": "model_not_found",
        "money of others": "success",
        "usual": "success",
    }
    assert "the prompt is too long" in answers["prompt too long"]["error"]
    assert calls == {**dict.fromkeys(rules, 1), "dear": 2, "money of others": 2}
    caps = [call["body"]["max_tokens"] for call in running_stack[1].calls() if call["prompt"].startswith("[dear]")]
    assert caps == [8192, 3919]


def test_what_is_not_the_provider_is_on_the_way(running_stack: Running):
    """K2: whatever its status, it is tried again soon, and no key, model or request is blamed."""
    page = {"body": PAGE, "headers": CHALLENGE}
    statuses = (200, 400, 401, 402, 403, 404, 405, 429, 451, 503)
    rules = {f"page {status}": [{"status": status, **page}] * 2 for status in statuses}
    rules |= {
        "another server": [{"status": 404, "body": {"detail": "Not Found"}}],
        "a gateway": [{"status": 403, "body": {"message": "Missing Authentication Token"}}],
        "nothing": [{"status": 401, "body": ""}],
        "for ever": [{"status": 403, **page}] * 3,
    }
    answers, calls = play(running_stack, rules)

    failed = answers.pop("for ever")
    assert {answer["status"] for answer in answers.values()} == {"success"}
    assert failed["error_code"] == "upstream"
    assert "not OpenRouter itself (text/html, a challenge of Cloudflare's)" in failed["error"]
    assert calls == {name: min(len(behaviours) + 1, 3) for name, behaviours in rules.items()}


def events(*objects: object) -> str:
    told = "".join(f"data: {json.dumps(each)}\n\n" for each in objects)
    return f": OPENROUTER PROCESSING\n\n{told}data: [DONE]\n\n"


def test_a_paid_answer_is_read_in_every_shape_or_final(running_stack: Running):
    """K3: one call each; never is what was paid for fetched again."""
    stream = events(
        {"model": "served/model", "choices": [{"index": 0, "delta": {"content": "Hel"}}]},
        {"choices": [{"index": 0, "delta": {"content": "lo."}, "finish_reason": "stop"}]},
        {"choices": [], "usage": completion()["usage"]},
    )
    whole = json.dumps(completion(message={"content": "Hello."}, finish_reason="stop"))
    second = completion(message={"content": None})
    second["choices"].append({"index": 1, "message": {"content": "Hello."}})
    zipped = base64.b64encode(gzip.compress(whole.encode())).decode()
    readable: dict[str, dict[str, Any]] = {
        "event stream": {"body": stream, "headers": {"Content-Type": "text/event-stream"}},
        "document and DONE": {"body": f"{whole}\n\ndata: [DONE]\n\n"},
        "text": {"body": completion(text="Hello.", finish_reason="stop")},
        "delta": {"body": completion(delta={"content": "Hello."}, finish_reason="stop")},
        "parts": {
            "body": completion(message={"content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]})
        },
        "second candidate": {"body": second},
        "gzip": {"body_base64": zipped, "headers": {"Content-Encoding": "gzip"}},
        "gzip in secret": {"body_base64": zipped},
        "no gzip": {"body": whole, "headers": {"Content-Encoding": "gzip"}},
    }
    unreadable: dict[str, dict[str, Any]] = {
        "br": {"body_base64": "GwsA+I8=", "headers": {"Content-Encoding": "br"}},
        "broken": {"body": '{"id": "gen-1", "choices": [{"message": {"content": "canary'},
        "another form": {"body": completion(message={"content": {"blob": "canary"}})},
        "tool call": {"body": completion(message={"content": None, "tool_calls": [{"id": "canary"}]})},
    }
    answers, calls = play(running_stack, {name: [rule] for name, rule in (readable | unreadable).items()})

    for name in readable:
        assert (name, answers[name].get("content")) == (name, "Hello.")
        assert answers[name]["usage"] == {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    assert {name: answers[name].get("error_code") for name in unreadable} == dict.fromkeys(unreadable, "upstream")
    assert "content encoding br" in answers["br"]["error"]
    assert set(calls.values()) == {1}


def test_reasons_to_stop_reach_the_backend(running_stack: Running):
    """K4: in the envelope, in one of a few words, and in the log; a code in words is as its status."""
    said = {"content": "Half of an"}
    rules = {
        "stop": [],
        "length": [{"body": completion(message=said, finish_reason="length", native_finish_reason="MAX_TOKENS")}],
        "native": [{"body": completion(message=said, finish_reason="stop", native_finish_reason="MAX_TOKENS")}],
        "filtered": [{"body": completion(message=said, finish_reason="stop", native_finish_reason="SAFETY")}],
        "new": [{"body": completion(message=said, finish_reason="brand_new")}],
        "bad request": [{"body": error("invalid_request_error", "no")}],
    }
    answers, calls = play(running_stack, rules)

    assert {name: answer.get("finish_reason", answer.get("error_code")) for name, answer in answers.items()} == {
        "stop": "stop",
        "length": "length",
        "native": "length",
        "filtered": "content_blocked",
        "new": "other",
        "bad request": "invalid_request",
    }
    assert set(calls.values()) == {1}
    assert "by served/model with key" in running_stack[0].processes[0].output()
    assert "finish_reason=length" in running_stack[0].processes[0].output()


#: A wait of two seconds in the forms that were seen.
WAITS: dict[str, dict[str, Any]] = {
    "a delta": {"headers": {"X-RateLimit-Reset": "2"}},
    "milliseconds": {"headers": {"retry-after-ms": "2000"}},
    "twice": {"headers": {"Retry-After": "2, 2"}},
    "with units": {"headers": {"Retry-After": "0m2s"}},
    "in words": {"raw": "Rate limit reached. Please try again in 2s. Visit https://console.groq.com"},
    "in a 200": {"status": 200, "code": "rate_limit_exceeded", "headers": {"Retry-After": "2"}},
}


def test_a_wait_is_kept_in_whichever_form_it_is_stated(make_stack: MakeStack):
    """K4: not a moment less, by the provider's own record, and not the minute that would be guessed."""
    stack, fake = make_stack(QUEUE_RETRY_DELAYS="7200")
    stack.start_worker()
    rules = {}
    for name, wait in WAITS.items():
        told = error(wait.get("code", 429), "Provider returned error", provider_name="Groq", raw=wait.get("raw", ""))
        rules[name] = [{"status": wait.get("status", 429), "body": told, "headers": wait.get("headers", {})}]
    answers, calls = play((stack, fake), rules)

    assert {answer["status"] for answer in answers.values()} == {"success"}
    assert calls == dict.fromkeys(WAITS, 2)
    for name in WAITS:
        first, second = (call["time"] for call in fake.calls() if call["prompt"].startswith(f"[{name}]"))
        assert second - first >= 2.0


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_pages_and_dear_calls_fail_no_request_and_rest_no_key(
    make_stack: MakeStack, store: str, request: pytest.FixtureRequest
):
    """Every tenth answer a page with some status, one in twenty a 402 about size: only what is at fault fails."""
    settings = {"REDIS_URL": request.getfixturevalue("redis_url")} if store == "redis" else {}
    stack, fake = make_stack(keys=2, UPSTREAM_RETRY_DELAYS="0.1,0.2,0.3", **settings)
    worker = stack.start_worker()
    chance = random.Random(13)
    rules = {f"{store}-{number}": answers_of_a_bad_day(chance) for number in range(300)}
    at_fault = {name for name, behaviours in rules.items() if behaviours[-2:] == [dear(100)] * 2}
    answers, calls = play((stack, fake), rules)

    assert at_fault
    assert {name for name, answer in answers.items() if answer["status"] == "error"} == at_fault
    assert {answers[name]["error_code"] for name in at_fault} == {"invalid_request"}
    assert calls == {name: len(rule) + (name not in at_fault) for name, rule in rules.items()}
    assert "cools down" not in worker.output()
    assert set(fake.stats()["per_key"]) == {key[-4:] for key in KEYS[:2]}


def answers_of_a_bad_day(chance: random.Random) -> list[dict[str, Any]]:
    """The answers to the calls of one request before the ordinary one; no more pages than are waited for."""
    behaviours: list[dict[str, Any]] = []
    pages = 0
    while (drawn := chance.random()) < 0.15 and pages < 3 and len(behaviours) - pages < 3:
        if drawn < 0.1:
            pages += 1
            status = chance.choice([200, 400, 401, 402, 403, 404, 405, 408, 409, 429, 451, 500, 502, 503, 520])
            behaviours.append({"status": status, "body": PAGE, "headers": CHALLENGE})
        else:
            behaviours.append(dear(chance.choice([100, 300, 3919])))
            if behaviours[-1] == dear(100):
                behaviours += chance.choice([[], [dear(100)]])  # for the other key, too: then no key is left
                break
    return behaviours
