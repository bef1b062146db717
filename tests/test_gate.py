"""The gate: what is a request, and who can be told when it is not."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.gate import MAX_BODY_BYTES, Sender, admit
from gateway.errors import ErrorCode, InvalidMessage
from gateway.messages import Request

NOBODY = Sender()
REQUEST = {"request_id": "r-1", "prompt": "Hello"}


def refusal(queue: str) -> str | None:
    return "is one of the worker's own queues" if queue.startswith("gemini.generate") else None


def gate(body: object, sender: Sender = NOBODY) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return admit(raw, sender, default_callback="gemini.responses", refusal=refusal)


def rejected(body: object, sender: Sender = NOBODY) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        gate(body, sender)
    return caught.value


def test_a_small_request_gets_the_documented_defaults():
    """Only an id and a prompt are needed."""
    request = gate(REQUEST)
    assert (request.callback_queue, request.retry_count, request.model, request.metadata) == (
        "gemini.responses",
        0,
        None,
        None,
    )


def test_a_full_request_keeps_every_field():
    """What the producer sends is what the worker gets."""
    full = {
        **REQUEST,
        "model": "gemini-pro",
        "parameters": {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "max_output_tokens": 256},
        "system_instruction": "Be brief.",
        "metadata": {"user": None, "tags": [1, "two", None]},
        "callback_queue": "my.answers",
        "timestamp": "2026-01-01T00:00:00Z",
        "retry_count": 2,
    }
    assert gate(full).model_dump(mode="json", exclude_unset=True) == full


def test_unknown_fields_and_nulls_are_ignored():
    """A null is a field that is not there."""
    assert gate({**REQUEST, "color": "red", "model": None, "parameters": None, "metadata": None}) == gate(REQUEST)


def test_amqp_properties_stand_in_for_missing_fields():
    """`correlation_id` and `reply_to` are RabbitMQ's own words for the two."""
    request = gate({"prompt": "Hello"}, Sender(request_id="c-1", reply_to="my.answers"))
    assert (request.request_id, request.callback_queue) == ("c-1", "my.answers")


def test_the_body_wins_over_amqp_properties():
    """A property is a stand-in, not an override."""
    request = gate({**REQUEST, "callback_queue": "mine"}, Sender(request_id="c-1", reply_to="other"))
    assert (request.request_id, request.callback_queue) == ("r-1", "mine")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", " \n\t"),
        ("prompt", 7),
        ("prompt", ["Hello"]),
        ("parameters", {"temperature": 2.1}),
        ("parameters", {"temperature": "0.7"}),
        ("parameters", {"top_p": -0.1}),
        ("parameters", {"top_k": 0}),
        ("parameters", {"max_output_tokens": 0}),
        ("parameters", {"max_output_tokens": True}),
        ("parameters", []),
        ("metadata", "text"),
        ("system_instruction", 1),
        ("model", ""),
        ("retry_count", -1),
        ("request_id", "é" * 128),
    ],
)
def test_a_wrong_field_is_named_and_its_value_is_not(field: str, value: object):
    """The error goes to logs and envelopes, where no prompt belongs."""
    error = rejected({**REQUEST, field: value})
    assert str(error).startswith(field)
    assert error.callback_queue == "gemini.responses"
    assert error.code is ErrorCode.INVALID_REQUEST


def test_an_error_text_never_quotes_the_prompt():
    """P4 holds for the very first error as well."""
    assert "canary" not in str(rejected({**REQUEST, "parameters": {"temperature": "canary"}, "metadata": "canary"}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"\xef\xbb\xbf{}",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"metadata": {"a": NaN}}',
        b'{"metadata": {"a": 1e999}}',
        b'{"metadata": {"a": ' + b"9" * 5000 + b"}}",
        b'{"metadata": ' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}",
        b"[" * 100_000,
        b"[1, 2]",
        b'"text"',
        b"null",
        b" " * (MAX_BODY_BYTES + 1),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_request_is_refused_without_an_answer(body: bytes):
    """F1, F2: nobody is named, so nobody can be answered."""
    assert rejected(body).callback_queue is None


def test_garbage_with_a_reply_to_is_answered():
    """AMQP says who asks even when the body does not."""
    error = rejected(b"garbage", Sender(request_id="c-1", reply_to="my.answers"))
    assert (error.request_id, error.callback_queue) == ("c-1", "my.answers")


def test_a_request_without_an_id_is_not_answered_into_the_shared_queue():
    """Nobody who reads the shared queue could tell whose error it is."""
    assert rejected({"prompt": "Hello"}).callback_queue is None


def test_a_request_without_an_id_is_answered_where_its_sender_reads():
    """A queue that the request names belongs to its sender."""
    assert rejected({"prompt": "Hello", "callback_queue": "mine"}).callback_queue == "mine"


@pytest.mark.parametrize("where", ["body", "reply_to"])
def test_a_callback_into_our_own_queues_is_refused_and_not_answered(where: str):
    """S1: an answer into the work queue would be a loop that pays for ever."""
    body = {**REQUEST, "callback_queue": "gemini.generate"} if where == "body" else REQUEST
    error = rejected(body, Sender(reply_to="gemini.generate" if where == "reply_to" else None))
    assert error.code is ErrorCode.CALLBACK_REFUSED
    assert error.callback_queue is None


def test_garbage_with_a_forbidden_reply_to_is_not_answered():
    """S1 again, on the path of the unreadable body."""
    assert rejected(b"garbage", Sender(reply_to="gemini.generate")).callback_queue is None


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.text() | st.floats() | st.integers(), st.lists).map(repr).map(str.encode)
)
def test_every_body_is_a_request_or_an_invalid_message(body: bytes):
    """No input reaches any other exception."""
    with suppress(InvalidMessage):
        assert gate(body).prompt
