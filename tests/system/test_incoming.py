"""Messages that are more, older or more travelled than a plain request; seen from a backend and from RabbitMQ."""

import json
import time
from typing import Any

import pytest

from dev.stack import Stack
from dev.waiting import wait_until
from fake_openrouter.client import FakeClient
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

Running = tuple[Stack, FakeClient]

#: What the first release of the bridge wrote; it stays readable as long as one of its messages may lie in a queue.
FIRST_FORM = {
    "queue_name": "gemini.generate",
    "actor_name": "generate",
    "args": [
        {
            "v": 1,
            "request": {
                "request_id": "first-form",
                "prompt": "First form",
                "parameters": {},
                "callback_queue": "first.answers",
                "retry_count": 0,
            },
            "received_at": 1_700_000_000.0,
            "retry_count": 0,
            "upstream_retries": 0,
            "redelivered": False,
        }
    ],
    "kwargs": {},
    "options": {},
    "message_id": "3a1d3a3e-0f0b-4a52-9a57-0d1f2b3c4d5e",
    "message_timestamp": 1_700_000_000_000,
}


def test_smuggled_properties_go_no_further_than_the_request_queue(running_stack: Running):
    """S2, F23: nothing of a request's properties and headers is in what we publish for it."""
    stack, _fake = running_stack
    with stack.channel() as channel:
        channel.queue_declare("smuggled", durable=True)
    stack.publish(
        {"request_id": "smuggler", "prompt": "Hello", "callback_queue": "smuggler.answers"},
        headers={"CC": ["smuggled"], "BCC": ["smuggled"], "x-death": [{"queue": "gemini.generate", "count": 9}]},
        priority=9,
        type="gemini.success",
        app_id="somebody else",
        content_encoding="gzip",
    )
    (answer,) = stack.answers(1, queue="smuggler.answers")
    assert answer["status"] == "success"
    assert answer.properties.headers in (None, {})
    assert answer.properties.app_id == "gemini-openrouter-worker"
    assert (answer.properties.priority, answer.properties.expiration) == (None, None)
    assert answer.properties.content_encoding is None
    # RabbitMQ obeys the headers of the sender's own publish; no publish of ours has them.
    assert stack.depth("smuggled") == 1
    with stack.channel() as channel:
        _method, _properties, copy = channel.basic_get("smuggled", auto_ack=True)
    assert json.loads(copy)["prompt"] == "Hello"


def test_an_expiring_request_does_not_make_expiring_work(running_stack: Running):
    """S2: its time to live ends with the queue that it was published to."""
    stack, _fake = running_stack
    request = {"request_id": "expiring", "prompt": "Hello", "callback_queue": "expiring.answers"}
    stack.publish(request, expiration="60000")
    assert stack.answers(1, queue="expiring.answers")[0].properties.expiration is None


def test_a_message_of_the_first_form_is_still_read(running_stack: Running):
    """F53: a deploy meets what the release before has left in the queues."""
    stack, _fake = running_stack
    stack.put("gemini.generate", json.dumps(FIRST_FORM).encode())
    (answer,) = stack.answers(1, queue="first.answers")
    assert (answer["request_id"], answer["status"]) == ("first-form", "success")


def test_a_delivery_that_was_fetched_and_never_started_runs_normally(make_stack: MakeStack):
    """F7: `redelivered` is set, and proves nothing: one call, at once."""
    stack, fake = make_stack(REQUEST_TIMEOUT_SECONDS=60)  # a lease to wait for would be longer than this test
    stack.publish({"request_id": "fetched", "prompt": "Hello"})
    fetch_and_give_back(stack)
    started = time.monotonic()
    stack.start_worker()
    (answer,) = stack.answers(1)
    assert (answer["request_id"], answer["status"]) == ("fetched", "success")
    assert len(fake.calls()) == 1
    assert time.monotonic() - started < 60


def fetch_and_give_back(stack: Stack) -> None:
    """As a worker does that is killed with a full prefetch window; true when RabbitMQ says `redelivered` after it."""
    with stack.channel() as channel:
        channel.basic_get("gemini.requests")
    found: list[Any] = []

    def came_back() -> bool:
        with stack.channel() as channel:
            method, _properties, _body = channel.basic_get("gemini.requests")
            found.append(method)
        return method is not None and method.redelivered

    wait_until(came_back, what="the redelivered request")
