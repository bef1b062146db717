"""Requests in, answers out: the public contract, seen from a backend."""

from collections import Counter
from collections.abc import Callable

import pika
import pytest

from fake_openrouter.client import FakeClient
from tests.system.conftest import KEYS
from tests.system.stack import Stack, wait_until

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

MakeStack = Callable[..., tuple[Stack, FakeClient]]

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


def request(number: int, **fields: object) -> dict[str, object]:
    return {"request_id": f"r-{number}", "prompt": f"Question {number}", **fields}


def test_the_example_request_gets_the_documented_answer(make_stack: MakeStack):
    """Every field of the contract, in both directions."""
    stack, fake = make_stack(OPENROUTER_SITE_URL="https://example.org", OPENROUTER_SITE_NAME="Example")
    stack.start_worker()
    stack.start_bridge()
    stack.publish(EXAMPLE)
    (answer,) = stack.answers(1)

    assert set(answer.envelope) == {
        "request_id",
        "status",
        "content",
        "usage",
        "processing_time_ms",
        "model_used",
        "timestamp",
        "metadata",
    }
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

    (call,) = fake.calls()
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


def test_a_request_that_asks_twice_is_paid_once(make_stack: MakeStack):
    """The second answer is the first one again, under the same message id."""
    stack, fake = make_stack()
    stack.start_worker()
    stack.start_bridge()
    stack.publish(EXAMPLE)
    (first,) = stack.answers(1)
    stack.publish(EXAMPLE)
    (second,) = stack.answers(1)
    assert second.envelope == first.envelope
    assert second.properties.message_id == first.properties.message_id
    assert len(fake.calls()) == 1


def test_keys_take_turns_and_never_exceed_their_window(make_stack: MakeStack):
    """Three keys, five a window each, two processes: 4/4/4, then 15 of 20 go out and 5 wait for the window."""
    window_s = 8.0
    stack, fake = make_stack(
        keys=3, per_minute=5, window=window_s, WORKER_PROCESSES=2, QUEUE_RETRY_DELAYS="60,60,60,60"
    )
    stack.start_worker()
    stack.start_bridge()

    stack.publish(*(request(n) for n in range(12)))
    stack.answers(12)
    assert sorted(Counter(call["key_last4"] for call in fake.calls()).values()) == [4, 4, 4]
    wait_until(lambda: fake.stats()["window_used"] == 0, what="an empty window at the provider")

    fake.reset()
    stack.publish(*(request(n) for n in range(100, 120)))
    early = stack.answers(15)
    assert stack.depth("gemini.generate.delay.60s") == 5
    late = stack.answers(5, timeout_s=window_s * 2)
    assert {answer["status"] for answer in early + late} == {"success"}

    calls = fake.calls()
    assert len(calls) == 20
    assert {call["status"] for call in calls} == {200}
    for key in KEYS:
        times = sorted(call["time"] for call in calls if call["key_last4"] == key[-4:])
        assert all(later - earlier >= window_s for earlier, later in zip(times, times[5:], strict=False))


def test_a_burst_is_released_at_the_rate_of_the_keys(make_stack: MakeStack):
    """Twenty requests, five a window: four windows, no error, no 429, although the schedule says a minute."""
    stack, fake = make_stack(per_minute=5, window=2.0, QUEUE_RETRY_DELAYS="60,600")
    stack.start_worker()
    stack.start_bridge()
    stack.publish(*(request(n) for n in range(20)))
    assert {answer["status"] for answer in stack.answers(20, timeout_s=25)} == {"success"}
    assert {call["status"] for call in fake.calls()} == {200}


def test_a_429_moves_the_request_to_the_next_key_at_once(make_stack: MakeStack):
    """No wait and no retry is counted while another key is free."""
    stack, fake = make_stack(keys=2)
    fake.script([{"key": KEYS[0][-4:], "status": 429, "headers": {"Retry-After": "30"}, "times": 1}])
    stack.start_worker()
    stack.start_bridge()
    stack.publish(request(1))
    assert stack.answers(1)[0]["status"] == "success"
    stack.publish(request(2), request(3))
    assert {answer["status"] for answer in stack.answers(2)} == {"success"}
    assert [call["status"] for call in fake.calls() if call["key_last4"] == KEYS[0][-4:]] == [429]


@pytest.mark.parametrize(
    ("behaviour", "code", "calls"),
    [
        ({"status": 400}, "invalid_request", 1),
        ({"status": 404}, "model_not_found", 1),
        ({"status": 401}, "authentication", 1),
        ({"status": 402}, "authentication", 1),
        ({"status": 503}, "upstream", 3),
        ({"error_in_200": "top"}, "upstream", 3),
        ({"cut": 20}, "upstream", 3),
        ({"hang": True}, "timeout", 3),
    ],
    ids=str,
)
def test_a_failure_of_the_provider_ends_in_one_error_envelope(
    make_stack: MakeStack, behaviour: dict[str, object], code: str, calls: int
):
    """Final errors at once, the provider's own faults after the short schedule."""
    stack, fake = make_stack(UPSTREAM_RETRY_DELAYS="0.1,0.2", REQUEST_TIMEOUT_SECONDS=1)
    fake.script([behaviour])
    stack.start_worker()
    stack.start_bridge()
    stack.publish(request(1, metadata={"user": 7}))
    (answer,) = stack.answers(1)
    assert set(answer.envelope) == {
        "request_id",
        "status",
        "error",
        "error_code",
        "processing_time_ms",
        "timestamp",
        "metadata",
    }
    assert (answer["request_id"], answer["status"], answer["error_code"]) == ("r-1", "error", code)
    assert len(fake.calls()) == calls
    wait_until(lambda: stack.depth("gemini.generate") == 0, what="an empty work queue")


def test_what_is_no_request_is_answered_or_kept(make_stack: MakeStack):
    """F1: an error envelope where somebody can be told, else the dead queue, and the bridge goes on."""
    stack, _fake = make_stack()
    stack.start_worker()
    stack.start_bridge()
    stack.publish({"request_id": "bad", "prompt": " "}, b"\x00garbage", request(1, callback_queue="gemini.generate"))
    stack.publish(b"garbage", reply_to="my.answers", correlation_id="c-1")
    stack.publish(request(2))
    by_id = {answer["request_id"]: answer for answer in stack.answers(2)}
    assert by_id["bad"]["error_code"] == "invalid_request"
    assert by_id["r-2"]["status"] == "success"
    (mine,) = stack.answers(1, queue="my.answers")
    assert (mine["request_id"], mine["status"]) == ("c-1", "error")
    wait_until(lambda: stack.depth("gemini.requests.dead") == 2, what="two dead requests")
    with stack.channel() as channel:
        codes = Counter(
            channel.basic_get("gemini.requests.dead", auto_ack=True)[1].headers["x-error-code"] for _ in range(2)
        )
    assert codes == {"invalid_request": 1, "callback_refused": 1}


@pytest.mark.parametrize("name", ["gemini.generate", "gemini.requests", "gemini.generate.delay.60s", "amq.rabbitmq.x"])
def test_a_callback_that_would_loop_is_refused_before_any_call(make_stack: MakeStack, name: str):
    """S1, F41: a loop through our own queues would pay for ever."""
    stack, fake = make_stack()
    stack.start_worker()
    stack.start_bridge()
    stack.publish(request(1, callback_queue=name), request(2))
    (answer,) = stack.answers(1)
    assert answer["request_id"] == "r-2"
    wait_until(lambda: stack.depth("gemini.requests.dead") == 1, what="a dead request")
    assert len(fake.calls()) == 1


def test_a_full_callback_queue_delays_the_answer_and_never_pays_again(make_stack: MakeStack):
    """F41: the sealed answer waits in RabbitMQ until its queue takes it."""
    stack, fake = make_stack()
    with stack.channel() as channel:
        channel.queue_declare("small", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        channel.basic_publish("", "small", b"{}")
    stack.start_worker()
    stack.start_bridge()
    stack.publish(request(1, callback_queue="small"))
    wait_until(lambda: stack.depth("gemini.callbacks.delay.5s") == 1, what="a held answer")
    with stack.channel() as channel:
        channel.queue_purge("small")
        method, _properties, body = None, None, b""

        def arrived() -> bool:
            nonlocal method, body
            method, _properties, body = channel.basic_get("small", auto_ack=True)
            return method is not None

        wait_until(arrived, what="the held answer")
    assert b'"success"' in body
    assert len(fake.calls()) == 1


def test_a_missing_callback_queue_is_declared(make_stack: MakeStack):
    """F40: an answer is never published into nothing."""
    stack, _fake = make_stack()
    stack.start_worker()
    stack.start_bridge()
    stack.publish(request(1, callback_queue="new.answers"))
    wait_until(lambda: stack.depth("new.answers") == 1, what="the answer in its new queue")


def test_a_forged_message_on_the_work_queue_is_buried(make_stack: MakeStack):
    """F3: no call, no worker thread lost, and the next request is answered."""
    stack, fake = make_stack()
    stack.start_worker()
    stack.start_bridge()
    with stack.channel() as channel:
        for body in (b"garbage", FORGED):
            channel.basic_publish("", "gemini.generate", body, pika.BasicProperties(delivery_mode=2))
    stack.publish(request(1))
    assert stack.answers(1)[0]["status"] == "success"
    wait_until(lambda: stack.depth("gemini.generate.dead") == 2, what="two dead messages")
    assert len(fake.calls()) == 1
