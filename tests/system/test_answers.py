"""Requests in, answers out: the public contract, seen from a backend."""

from collections import Counter
from typing import Any

import pika
import pytest

from dev.stack import Stack
from dev.waiting import wait_until
from fake_openrouter.client import FakeClient
from tests.system.conftest import KEYS, MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

Running = tuple[Stack, FakeClient]

EXAMPLE = {
    "request_id": "3f0c4c1e-6d62-4d1f-9f59-5d6f1f1c7a10",
    "prompt": "Name three rivers.",
    "model": "gemini-pro",
    "parameters": {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "max_output_tokens": 256},
    "system_instruction": "Be brief.",
    "metadata": {"user": 7, "tags": ["a", None]},
    "callback_queue": "gemini.responses",
    "timestamp": "2026-01-01T00:00:00Z",
    "retry_count": 0,
}

#: Stock Dramatiq loses a worker thread to the queue name, and restarts its consumer for ever over the options.
FORGED = (
    b'{"queue_name":"other","actor_name":"generate","args":[],"kwargs":{},'
    b'"options":null,"message_id":"x","message_timestamp":1}'
)


def calls_about(fake: FakeClient, prompt: str) -> list[dict[str, Any]]:
    return [call for call in fake.calls() if call["prompt"] == prompt]


def request(number: int, **fields: object) -> dict[str, object]:
    return {"request_id": f"r-{number}", "prompt": f"Question {number}", **fields}


def test_the_example_request_gets_the_documented_answer(running_stack: Running):
    """Every field of the contract, in both directions."""
    stack, fake = running_stack
    stack.publish(EXAMPLE)
    (answer,) = stack.answers(1)

    assert set(answer.envelope) == {
        "request_id",
        "status",
        "content",
        "usage",
        "processing_time_ms",
        "model_used",
        "finish_reason",
        "timestamp",
        "metadata",
        "attempts",
        "waited_ms",
        "call_ms",
        "generation_id",
    }
    assert answer["attempts"] == 1
    assert answer["waited_ms"] == max(0, answer["processing_time_ms"] - answer["call_ms"])
    assert answer["request_id"] == EXAMPLE["request_id"]
    assert answer["status"] == "success"
    assert answer["metadata"] == EXAMPLE["metadata"]
    assert {"prompt_tokens", "completion_tokens", "total_tokens"} <= set(answer["usage"])
    assert answer["model_used"] == "google/gemini-2.5-flash"
    assert answer["timestamp"].endswith("Z")
    properties = answer.properties
    assert (properties.correlation_id, properties.content_type, properties.delivery_mode) == (
        EXAMPLE["request_id"],
        "application/json",
        2,
    )
    assert properties.message_id
    assert properties.app_id
    assert properties.type
    assert properties.headers in (None, {})

    (call,) = calls_about(fake, EXAMPLE["prompt"])
    assert call["body"] == {
        "model": "google/gemini-2.5-flash",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Name three rivers."},
        ],
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "max_tokens": 256,
        "stream": False,
    }
    headers = {name.lower(): value for name, value in call["headers"].items()}
    assert (headers["http-referer"], headers["x-title"]) == ("https://example.org", "Example")


def test_an_answer_is_part_of_the_trace_of_its_request(running_stack: Running):
    """Its headers are those of the request that make a trace, and no other."""
    stack, _fake = running_stack
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "baggage": "user=7"}
    stack.publish(request(900), headers={**trace, "x-other": "secret", "tracestate": "\n"})
    (answer,) = stack.answers(1)
    assert answer.properties.headers == trace


def test_a_request_that_asks_twice_is_paid_once(running_stack: Running):
    """The second answer is the first one again, under the same message id."""
    stack, fake = running_stack
    asked = request(20)
    stack.publish(asked)
    (first,) = stack.answers(1)
    stack.publish(asked)
    (second,) = stack.answers(1)
    assert second.envelope == first.envelope
    assert second.properties.message_id == first.properties.message_id
    assert len(calls_about(fake, "Question 20")) == 1


FAILURES = {
    # what the provider does: error_code of the envelope, calls it takes
    "400": ({"status": 400}, "invalid_request", 1),
    "404": ({"status": 404}, "model_not_found", 1),
    "503": ({"status": 503}, "upstream", 3),
    "error in a 200": ({"error_in_200": "top"}, "upstream", 3),
    "error in a choice": ({"error_in_200": "choice"}, "upstream", 3),
    "cut body": ({"cut": 20}, "upstream", 3),
    "invalid JSON": ({"invalid_json": True}, "upstream", 1),  # paid for: final
}

#: What would hold a call for ever: each attempt ends at its deadline.
ENDLESS = {
    "no answer": {"hang": True},
    "white space for ever": {"whitespace": True},
    "a byte at a time": {"drip": {"interval_s": 0.2, "where": "headers"}},
}


def test_every_failure_of_the_provider_ends_in_one_error_envelope(running_stack: Running):
    """Final errors at once, the provider's own faults after the short schedule; the rest of the flow goes on."""
    stack, fake = running_stack
    fake.script([{"prompt": f"Fail: {name}", **behaviour} for name, (behaviour, _code, _calls) in FAILURES.items()])
    stack.publish(*({"request_id": name, "prompt": f"Fail: {name}", "metadata": {"a": 1}} for name in FAILURES))
    found = {answer["request_id"]: answer for answer in stack.answers(len(FAILURES))}
    for name, (_behaviour, code, calls) in FAILURES.items():
        envelope = found[name].envelope
        assert set(envelope) == {
            "request_id",
            "status",
            "error",
            "error_code",
            "processing_time_ms",
            "timestamp",
            "metadata",
            "attempts",
            "waited_ms",
            "call_ms",
        }
        assert (name, envelope["status"], envelope["error_code"]) == (name, "error", code)
        assert (name, envelope["attempts"]) == (name, calls)
        assert (name, len(calls_about(fake, f"Fail: {name}"))) == (name, calls)
    assert stack.depth("gemini.responses") == 0


def test_a_provider_that_never_ends_an_answer_is_a_timeout(make_stack: MakeStack):
    """F30: after the short schedule; nothing holds a thread beyond the deadline."""
    stack, fake = make_stack(UPSTREAM_RETRY_DELAYS="0.1,0.2", REQUEST_TIMEOUT_SECONDS=1)
    fake.script([{"prompt": f"Fail: {name}", **behaviour} for name, behaviour in ENDLESS.items()])
    stack.start_worker()
    stack.publish(*({"request_id": name, "prompt": f"Fail: {name}"} for name in ENDLESS))
    assert {answer["error_code"] for answer in stack.answers(len(ENDLESS))} == {"timeout"}
    assert Counter(call["prompt"] for call in fake.calls()) == {f"Fail: {name}": 3 for name in ENDLESS}


@pytest.mark.parametrize("status", [401, 402])
def test_refused_keys_are_answered_with_an_authentication_error(make_stack: MakeStack, status: int):
    """Each key is tried once, then the producer reads why; a 401 of every key is a guess, and is waited for."""
    stack, fake = make_stack(keys=2, UPSTREAM_RETRY_DELAYS="0.1,0.2")
    fake.script([{"status": status}])
    stack.start_worker()
    stack.publish(request(1))
    (answer,) = stack.answers(1)
    assert answer["error_code"] == "authentication"
    assert answer["error"].startswith("Authentication error: ")
    assert len(fake.calls()) == 2


FORBIDDEN = {"error": {"code": 403, "message": "Forbidden", "metadata": None}}


@pytest.mark.parametrize(
    ("store", "refusal"),
    [("sqlite", {"status": 401}), ("redis", {"status": 403, "body": FORBIDDEN})],
    ids=["401 with SQLite", "403 with Redis"],
)
def test_a_guess_about_every_key_makes_no_outage(
    make_stack: MakeStack, store: str, refusal: dict[str, Any], request: pytest.FixtureRequest
):
    """The keys are asked about until they are accepted again; requests wait, and nobody has to bring the keys back."""
    settings = {"REDIS_URL": request.getfixturevalue("redis_url")} if store == "redis" else {}
    stack, fake = make_stack(keys=2, UPSTREAM_RETRY_DELAYS="8,8", **settings)
    fake.script([{**refusal, "times": 2}])
    worker = stack.start_worker()
    stack.publish({"request_id": f"guess-{store}", "prompt": "Hello"})
    assert stack.answers(1)[0]["status"] == "success"
    worker.wait_for_output("is accepted again", count=2)
    assert [call["status"] for call in fake.calls()] == [refusal["status"]] * 2 + [200]


def test_what_is_no_request_is_answered_or_kept(running_stack: Running):
    """F1: an error envelope where somebody can be told, else the dead queue, and the bridge goes on."""
    stack, _fake = running_stack
    stack.publish({"request_id": "bad", "prompt": " "}, b"\x00garbage", request(1, callback_queue="gemini.generate"))
    stack.publish(b"garbage", reply_to="my.answers", correlation_id="c-1")
    stack.publish(request(2))
    by_id = {answer["request_id"]: answer for answer in stack.answers(2)}
    assert by_id["bad"]["error_code"] == "invalid_request"
    assert by_id["r-2"]["status"] == "success"
    (mine,) = stack.answers(1, queue="my.answers")
    assert (mine["request_id"], mine["status"]) == ("c-1", "error")
    stack.wait_for_depth("gemini.requests.dead", 2)
    with stack.channel() as channel:
        codes = Counter(
            channel.basic_get("gemini.requests.dead", auto_ack=True)[1].headers["x-error-code"] for _ in range(2)
        )
    assert codes == {"invalid_request": 1, "callback_refused": 1}


def test_a_callback_that_would_loop_is_refused_before_any_call(running_stack: Running):
    """S1, F41: a loop through our own queues would pay for ever."""
    stack, fake = running_stack
    names = ["gemini.generate", "gemini.requests", "gemini.generate.delay.60s", "gemini.callbacks", "amq.rabbitmq.x"]
    stack.publish(*(request(60 + number, callback_queue=name) for number, name in enumerate(names)), request(70))
    (answer,) = stack.answers(1)
    assert answer["request_id"] == "r-70"
    stack.wait_for_depth("gemini.requests.dead", len(names))
    assert not any(calls_about(fake, f"Question {60 + number}") for number in range(len(names)))
    with stack.channel() as channel:
        channel.queue_purge("gemini.requests.dead")


def test_a_full_callback_queue_delays_the_answer_and_never_pays_again(running_stack: Running):
    """F41: the finished answer waits in RabbitMQ until its queue takes it."""
    stack, fake = running_stack
    with stack.channel() as channel:
        channel.queue_declare("small", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    stack.put("small", b"{}")
    stack.publish(request(30, callback_queue="small"))
    stack.wait_for_depth("gemini.callbacks.delay.5s", 1)
    with stack.channel() as channel:
        channel.queue_purge("small")
        method, _properties, body = None, None, b""

        def arrived() -> bool:
            nonlocal method, body
            method, _properties, body = channel.basic_get("small", auto_ack=True)
            return method is not None

        wait_until(arrived, what="the held answer")
    assert b'"success"' in body
    assert len(calls_about(fake, "Question 30")) == 1


def test_answers_to_missing_queues_wait_and_hold_up_nobody(running_stack: Running):
    """F40, F63: no queue is made; each is delivered when its owner has made one. Others are answered meanwhile."""
    stack, fake = running_stack
    stack.publish(*(request(400 + number, callback_queue=f"missing.{number}") for number in range(20)), request(42))
    assert stack.answers(1)[0]["request_id"] == request(42)["request_id"]
    with stack.channel() as channel:
        for number in range(20):
            with pytest.raises(pika.exceptions.ChannelClosedByBroker):
                channel.connection.channel().queue_declare(f"missing.{number}", passive=True)
        for number in range(20):
            channel.queue_declare(f"missing.{number}", durable=True)
    for number in range(20):
        assert stack.answers(1, queue=f"missing.{number}", timeout_s=90)[0]["status"] == "success"
    assert len(calls_about(fake, "Question 407")) == 1


def test_a_missing_callback_queue_is_made_where_that_is_set(make_stack: MakeStack):
    """CALLBACK_QUEUE_CREATE, for backends that only read."""
    stack, _fake = make_stack(CALLBACK_QUEUE_CREATE=1)
    stack.start_worker()
    stack.publish(request(40, callback_queue="new.answers"))
    stack.wait_for_depth("new.answers", 1)


def test_a_forged_message_on_the_work_queue_is_buried(running_stack: Running):
    """F3: no call, no worker thread lost, and the next request is answered."""
    stack, _fake = running_stack
    stack.put("gemini.generate", b"garbage", FORGED)
    stack.publish(request(50))
    assert stack.answers(1)[0]["status"] == "success"
    stack.wait_for_depth("gemini.generate.dead", 2)


def test_keys_take_turns_and_never_exceed_their_window(make_stack: MakeStack):
    """Three keys, five a window each, two processes: of 20 requests 15 go out, and 5 wait for the window."""
    window_s, late_s = 7.0, 4.0
    stack, fake = make_stack(
        keys=3, per_minute=5, window=window_s, late=late_s, WORKER_PROCESSES=2, QUEUE_RETRY_DELAYS="60,60,60,60"
    )
    stack.start_worker()
    stack.publish(*(request(n) for n in range(20)))
    answers = stack.answers(20)
    assert {answer["status"] for answer in answers} == {"success"}

    calls = fake.calls()
    assert len(calls) == 20
    assert {call["status"] for call in calls} == {200}
    for key in KEYS:
        times = sorted(call["time"] for call in calls if call["key_last4"] == key[-4:])
        assert len(times) >= 5
        assert all(later - earlier >= window_s - late_s for earlier, later in zip(times, times[5:], strict=False))


def test_a_429_moves_the_request_to_the_next_key_at_once(make_stack: MakeStack):
    """No wait and no retry is counted while another key is free."""
    stack, fake = make_stack(keys=2)
    fake.script([{"key": KEYS[0][-4:], "status": 429, "headers": {"Retry-After": "30"}, "times": 1}])
    stack.start_worker()
    stack.publish(request(1))
    assert stack.answers(1)[0]["status"] == "success"
    stack.publish(request(2), request(3))
    assert {answer["status"] for answer in stack.answers(2)} == {"success"}
    assert [call["status"] for call in fake.calls() if call["key_last4"] == KEYS[0][-4:]] == [429]
