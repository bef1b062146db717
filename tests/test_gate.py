"""The gate: what is a request, and who can be told when it is not."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.gate import MAX_BODY_BYTES, Sender, admit, admit_cancel
from gateway.errors import ErrorCode, InvalidMessage
from gateway.messages import Cancel, Request

NOBODY = Sender()
REQUEST = {"request_id": "r-1", "prompt": "Hello"}


def refusal(queue: str) -> str | None:
    return "is one of the worker's own queues" if queue.startswith("gemini.generate") else None


def gate(body: object, sender: Sender = NOBODY) -> Request:
    found = admitted(body, sender)
    assert isinstance(found, Request)
    return found


def admitted(body: object, sender: Sender = NOBODY) -> Request | Cancel:
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
        "expires_at": "2026-01-01T01:00:00+01:00",
        "expires_in_s": 2.5,
    }
    assert gate(full).model_dump(mode="json") == full


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expires_at", "tomorrow"),
        ("expires_at", "2026-01-01"),
        ("expires_at", "2026-01-01T00:00:00"),
        ("expires_at", 1_767_225_600),
        ("expires_in_s", 0),
        ("expires_in_s", -1),
        ("expires_in_s", "5"),
        ("expires_in_s", True),
    ],
)
def test_a_deadline_that_is_no_moment_or_no_duration_is_refused(field: str, value: object):
    """A time without a zone is another one for each reader, and a number may be seconds or milliseconds."""
    error = rejected({**REQUEST, field: value})
    assert error.code is ErrorCode.INVALID_REQUEST
    assert str(error).startswith(f"{field}: ")
    assert error.callback_queue == "gemini.responses"


@pytest.mark.parametrize("value", ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5+05:30", "20260101T000000Z"])
def test_a_deadline_is_any_time_of_iso_8601_with_a_zone(value: str):
    """It is kept as it was written."""
    assert gate({**REQUEST, "expires_at": value}).expires_at == value


@pytest.mark.parametrize(("named", "known_as"), [("r-1", "r-1"), (17, "17")])
def test_a_cancel_names_a_request(named: object, known_as: str):
    """It needs nothing else, and is no request that lacks its prompt."""
    assert admitted({"cancel": named, "callback_queue": "gemini.generate"}) == Cancel(cancel=known_as)
    assert admit_cancel(json.dumps({"cancel": named}).encode()) == Cancel(cancel=known_as)


@pytest.mark.parametrize("named", ["", "x" * 256, True, 1.5, ["r-1"], {"request_id": "r-1"}])
def test_a_cancel_of_what_can_be_no_request_is_refused(named: object):
    """Its sender is told where it says so, and not in the name of the request: that has one envelope, its own."""
    sender = Sender(request_id="r-1", reply_to="my.answers")
    error = rejected({"cancel": named}, sender)
    assert (error.request_id, error.callback_queue) == (None, "my.answers")
    assert str(error).startswith("cancel: ")
    assert rejected({"cancel": named}, Sender(request_id="r-1")).callback_queue is None


@pytest.mark.parametrize("field", ["prompt", "messages"])
def test_a_message_that_is_a_request_and_a_cancel_is_refused(field: str):
    """As a request it would have to be paid for."""
    error = rejected({"request_id": "r-2", "cancel": "r-1", field: "Hello"}, Sender(reply_to="my.answers"))
    assert str(error) == "cancel: a message is a request or the cancel of one, not both"
    assert error.callback_queue == "my.answers"
