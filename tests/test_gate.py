"""The gate: what is a request, and who can be told when it is not."""

import codecs
import gzip
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.body import MAX_BODY_BYTES, MOST_VALUES
from bridge.gate import Sender, admit, admit_cancel
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


def test_a_message_of_many_values_is_refused():
    """A few bytes, decompressed, have millions."""
    body = json.dumps({**REQUEST, "metadata": {"rows": [[]] * (MOST_VALUES + 1)}}).encode()
    with pytest.raises(InvalidMessage, match="more than 100000 values"):
        admit(body, NOBODY, default_callback="gemini.responses", refusal=lambda _queue: None)


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
        "priority": "batch",
        "stream": True,
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
        ("parameters", {"temperature": True}),
        ("parameters", {"top_k": 1.5}),
        ("parameters", {"top_k": "40"}),
        ("parameters", {"max_output_tokens": 1e300}),
        ("parameters", ["temperature"]),
        ("parameters", ""),
        ("metadata", ""),
        ("metadata", [1]),
        ("metadata", "text"),
        ("system_instruction", 1),
        ("model", 1),
        ("retry_count", -1),
        ("retry_count", 0.5),
        ("retry_count", False),
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
        b"\xef\xbb\xbf",
        b"\x1f\x8b",
        b'{"request_id": "r-1", "prompt": "cut',
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


def test_a_client_that_waits_needs_no_id():
    """K5: pika's example has none. Its request has the same one when it comes again, and no other client's."""
    body = {"prompt": "Marco"}
    made = [gate(body, Sender(reply_to=queue)).request_id for queue in ("amq.gen-a", "amq.gen-a", "amq.gen-b")]
    assert made[0] == made[1] != made[2]
    assert gate({**body, "prompt": "Polo"}, Sender(reply_to="amq.gen-a")).request_id not in made
    assert gate(body, Sender(reply_to="amq.gen-a", request_id="c-1")).request_id == "c-1"


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


@pytest.mark.parametrize(
    ("field", "sent", "meant"),
    [
        ("parameters", {"max_output_tokens": 2048.0, "top_k": 4e1}, {"max_output_tokens": 2048, "top_k": 40}),
        (
            "parameters",
            {"seed": 7.0, "reasoning": {"max_tokens": 1024.0}},
            {"seed": 7, "reasoning": {"max_tokens": 1024}},
        ),
        ("parameters", [], {}),
        ("metadata", [], {}),
        ("retry_count", 0.0, 0),
        ("retry_count", 2.0, 2),
        ("request_id", 12345, "12345"),
        ("request_id", 12345.0, "12345"),
        ("request_id", -(2**63), "-9223372036854775808"),
        ("model", "", None),
        ("model", " ", None),
        ("callback_queue", "", "gemini.responses"),
        ("callback_queue", " \t", "gemini.responses"),
        ("callback_queue", None, "gemini.responses"),
    ],
)
def test_what_other_languages_write_is_what_they_mean(field: str, sent: object, meant: object):
    """K7: one kind of numbers, PHP's empty object, a blank for nothing."""
    found = gate({**REQUEST, field: sent}).model_dump(mode="json", exclude_none=field != "model")[field]
    assert json.dumps(found, sort_keys=True) == json.dumps(meant, sort_keys=True)  # 2.0 is not 2 here


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (json.dumps(REQUEST).encode() + b"\x00", {}),
        (json.dumps(REQUEST).encode() + b"\r\n\x00\x00", {}),
        (codecs.BOM_UTF8 + json.dumps(REQUEST).encode(), {}),
        (json.dumps(REQUEST).encode("utf-16"), {}),
        (json.dumps(REQUEST).encode("utf-16-be"), {"content_encoding": "utf-16"}),
        (gzip.compress(json.dumps(REQUEST).encode()), {"content_encoding": "gzip"}),
        (b'{"request_id": "old", "prompt": "Hi", "request_id": "r-1", "prompt": "Hello"}', {}),
    ],
    ids=["NUL", "NULs", "BOM", "UTF-16", "UTF-16 without a BOM", "gzip", "the same key twice"],
)
def test_a_body_in_another_form_is_the_same_request(body: bytes, facts: dict[str, str]):
    """K7; of two values of a key the last one counts, as with most readers."""
    assert gate(body, Sender(**facts)) == gate(REQUEST)


@pytest.mark.parametrize(
    ("given", "known"),
    [
        (True, "true"),
        (False, "false"),
        (1.5, "1.5"),
        ("é" * 128, "é" * 128),
        (10**30, "c-1"),
        ([7], "c-1"),
        ({}, "c-1"),
    ],
)
def test_a_refused_id_says_whose_error_it_is(given: object, known: str):
    """K7: as it stands there, else by the name that AMQP has for it."""
    error = rejected({**REQUEST, "request_id": given}, Sender(request_id="c-1"))
    assert error.request_id == known


BROKEN = {
    "cut": b'{"request_id": "r-1", "callback_queue": "mine", "prompt": "Hel',
    "cut before": b'lo", "callback_queue": "mine", "request_id": "r-1"}',
    "a comma too many": b'{"request_id": "r-1", "callback_queue": "mine", "prompt": "Hello",}',
    "a comment": b'{"request_id": "r-1", /* mine */ "callback_queue": "mine", "prompt": "Hello"}',
    "Python's quotes": b"{'request_id': 'r-1', 'callback_queue': 'mine', 'prompt': None}",
    "a quote too many": b'{"prompt": "say "Hello"", "request_id": "r-1", "callback_queue": "mine"}',
    "encoded twice": json.dumps(json.dumps({**REQUEST, "callback_queue": "mine"})).encode(),
    "encoded twice and cut": json.dumps(json.dumps({**REQUEST, "callback_queue": "mine"})).encode()[:-2],
    "an array": json.dumps([{**REQUEST, "callback_queue": "mine"}]).encode(),
    "two objects": b'{"request_id": "r-1", "callback_queue": "mine"}\n{"prompt": "Hello"}',
    "NaN": b'{"request_id": "r-1", "callback_queue": "mine", "prompt": "Hello", "parameters": {"top_p": NaN}}',
    "1e400": b'{"request_id": "r-1", "callback_queue": "mine", "prompt": "Hello", "parameters": {"top_p": 1e400}}',
    "half a character": b'{"request_id": "r-1", "callback_queue": "mine", "prompt": "\\ud83d"}',
    "Latin-1 that is called nothing": '{"request_id": "r-1", "callback_queue": "mine", "prompt": "é"}'.encode(
        "latin-1"
    ),
    "escapes": b'{"request_id": "r\\u002d1", "callback_queue": "m\\u0069ne", ',
    "deep": b'{"request_id": "r-1", "callback_queue": "mine", "metadata": ' + b'{"a":' * 40 + b"1" + b"}" * 41,
    "deeper": b'{"request_id": "r-1", "callback_queue": "mine", "metadata": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "large": b'{"prompt": "' + b"x" * MAX_BODY_BYTES + b'", "request_id": "r-1", "callback_queue": "mine"}',
    "a bomb": gzip.compress(
        b'{"request_id": "r-1", "callback_queue": "mine", "prompt": "' + b"x" * MAX_BODY_BYTES + b'"}'
    ),
}


@pytest.mark.parametrize("how", [how for how in BROKEN if how != "a bomb"])
def test_whoever_can_be_found_in_a_refused_body_is_answered(how: str):
    """K7: by whatever can still be read."""
    error = rejected(BROKEN[how], Sender(reply_to="gemini.generate", request_id="c-1"))
    assert (error.callback_queue, error.request_id) == ("mine", "r-1")


@pytest.mark.parametrize("how", BROKEN)
def test_the_property_stands_in_for_what_is_not_found(how: str):
    """K7: where the body names a queue that may not be used, or none that can be read."""
    body = BROKEN[how].replace(b"mine", b"gemini.generate").replace(b"m\\u0069ne", b"gemini.generate")
    assert rejected(body, Sender(reply_to="other")).callback_queue == "other"


@pytest.mark.parametrize(
    "body",
    [
        b'[{"callback_queue": "mine"}, {"callback_queue": "other"}]',
        b'{"prompt": "{\\"callback_queue\\": \\"mine\\"}", "callback_queue": ',
        b'{"callback_queue": 7, "prompt": "Hello",}',
        b'{"callback_queue": "gemini.generate",}',
        b'{"callback_queue": "",}',
        b'{"callback_queue": "\\ud800",}',
    ],
    ids=["two of them", "one that somebody talks of", "a number", "ours", "none", "half a character"],
)
def test_a_queue_that_is_not_surely_the_senders_is_not_answered(body: bytes):
    """S1: a broken body is no way to have errors sent anywhere."""
    assert rejected(body).callback_queue is None


def test_an_encoding_that_is_not_read_is_named():
    """K7: in words; a body that can be read all the same is read, whatever its properties say."""
    brotli = b"\x0b\x02\x80hello\x03"
    error = rejected(brotli, Sender(content_encoding="br", reply_to="mine"))
    assert (str(error), error.callback_queue) == ("content_encoding 'br' is not supported", "mine")
    assert gate(REQUEST, Sender(content_encoding="br")) == gate(REQUEST)


def test_a_direct_reply_to_is_complete_only_as_a_property():
    """K5: the body has the name that the client used, the property what RabbitMQ has made of it."""
    direct = "amq.rabbitmq.reply-to"
    assert (
        gate({**REQUEST, "callback_queue": direct}, Sender(reply_to=f"{direct}.a/b")).callback_queue == f"{direct}.a/b"
    )


@pytest.mark.parametrize("address", ["an.exchange/a.key", "direct://an.exchange/a.key", "/a/b"])
def test_an_exchange_is_refused_in_words(address: str):
    """K5, row 18a: nobody there can be told, so it is for an operator."""
    error = rejected(REQUEST, Sender(reply_to=address))
    assert str(error).startswith("reply_to: only queues are answered")
    assert (error.code, error.callback_queue) == (ErrorCode.CALLBACK_REFUSED, None)


def test_a_body_that_names_a_queue_needs_no_reply_to():
    """K5: what the property says is not looked at then."""
    assert gate({**REQUEST, "callback_queue": "mine"}, Sender(reply_to="an.exchange/a.key")).callback_queue == "mine"
    assert gate(REQUEST, Sender(reply_to="/mine")).callback_queue == "mine"


def test_a_callback_that_is_refused_is_told_where_the_sender_reads():
    """K7: the body names a queue that may not be used, the property one that may."""
    error = rejected({**REQUEST, "callback_queue": "gemini.generate"}, Sender(reply_to="mine"))
    assert (error.code, error.callback_queue) == (ErrorCode.CALLBACK_REFUSED, "mine")


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


@pytest.mark.parametrize("value", ["", "BATCH", "low", 1, 0, True, ["batch"]])
def test_a_priority_that_there_is_none_of_is_refused(value: object):
    """A number is AMQP's, and a property."""
    assert str(rejected({**REQUEST, "priority": value})).startswith("priority: ")


@pytest.mark.parametrize("value", ["true", 1, 0, [], {}])
def test_stream_is_true_or_false(value: object):
    """No other value is taken for one of them."""
    assert str(rejected({**REQUEST, "stream": value})).startswith("stream: ")
    assert not gate({**REQUEST, "stream": None}).stream


@pytest.mark.parametrize(
    ("more", "sender", "told"),
    [
        ({}, Sender(), "gemini.responses"),
        ({"callback_queue": "mine"}, Sender(reply_to="other"), "mine"),
        ({}, Sender(reply_to="mine"), "mine"),
        ({"request_id": None}, Sender(), None),
    ],
    ids=["nobody is named", "the body names a queue", "reply_to does", "without an id"],
)
def test_an_unknown_parameter_is_told_where_the_sender_reads(more: dict[str, object], sender: Sender, told: str | None):
    """Like every other fault."""
    error = rejected({**REQUEST, "parameters": {"max_tokens": 5}, **more}, sender)
    assert str(error) == "parameters.max_tokens: unknown, did you mean max_output_tokens?"
    assert error.callback_queue == told


def test_a_cancel_with_unknown_parameters_is_a_cancel():
    """Nothing of it is paid for."""
    assert admitted({"cancel": "r-1", "parameters": {"max_tokens": 5}}) == Cancel(cancel="r-1")


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
