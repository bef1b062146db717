"""Answers that have to hold a JSON schema, and schemas that are not meant well."""

import gc
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import structured
from gateway.errors import ErrorCode, RequestRejected, UpstreamFailed
from gateway.messages import Completion, Request, Usage
from gateway.providers.endings import Ending
from gateway.structured import answers
from gateway.structured import schema as schemas
from gateway.structured.schema import Schema, TooCostly

RIVER = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "km": {"type": "integer"},
        "mouth": {"$ref": "#/$defs/place"},
        "since": {"type": "string", "pattern": r"^\d{4}$"},
    },
    "required": ["name", "km"],
    "additionalProperties": False,
    "$defs": {"place": {"enum": ["sea", "lake", None]}},
}
RHINE = {"name": "Rhine", "km": 1233, "mouth": "sea", "since": "1817"}

#: 2 to the power of 40 steps, in a schema of 2 kB.
DOUBLING: dict[str, Any] = {
    "$ref": "#/$defs/d0",
    "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {"type": "string"}},
}


def request(schema: Any = None, **format_: Any) -> Request:
    wanted = format_ or {"type": "json_schema", "json_schema": {"name": "river", "schema": schema}}
    return Request(request_id="r-1", prompt="Hello", callback_queue="q", parameters={"response_format": wanted})


def answer(content: str, **fields: Any) -> Completion:
    return Completion(content=content, usage=Usage(), model_used="m", **fields)


def hold(content: object, schema: Any = None, **format_: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    structured.hold(request(schema, **format_), answer(text))


def fault(schema: Any) -> str:
    with pytest.raises(RequestRejected) as caught:
        structured.admit(request(schema))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "canary" not in str(caught.value)
    return str(caught.value).removeprefix("parameters.response_format: ")


@pytest.mark.parametrize("river", [RHINE, {"name": "Rhine", "km": 1233.0}, {"name": "", "km": 0, "mouth": None}])
def test_an_answer_that_holds_the_schema_passes(river: Any):
    """Also with 1233.0 for an integer: JSON has one kind of number."""
    structured.admit(request(RIVER))
    hold(river, RIVER)


@pytest.mark.parametrize(
    ("river", "keyword"),
    [
        ({"name": "canary"}, "required"),
        ({"name": "canary", "km": "canary"}, "type"),
        ({**RHINE, "mouth": "canary"}, "enum"),
        ({**RHINE, "since": "canary"}, "pattern"),
        ({**RHINE, "canary": 1}, "additionalProperties"),
        ([RHINE], "type"),
    ],
)
def test_an_answer_that_does_not_hold_is_the_providers_fault(river: Any, keyword: str):
    """Tried again; the text has the keyword, and nothing of the answer."""
    with pytest.raises(UpstreamFailed) as caught:
        hold(river, RIVER)
    assert str(caught.value) == f"The model's answer does not hold the JSON schema of response_format (at '{keyword}')"


@pytest.fixture
def no_garbage() -> Iterator[None]:
    """What earlier tests have left is not finalised where the stack is full: that would fail there, and here."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize("text", ["canary", '{"name": "canary', "```json\n{}\n```", '{"km": NaN}', "[" * 100_000, ""])
@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_an_answer_that_is_no_json_is_the_providers_fault(text: str, kind: str):
    """Whichever way JSON was asked for."""
    with pytest.raises(UpstreamFailed, match="is no JSON, which response_format asks for") as caught:
        hold(text, type=kind, json_schema={"schema": {}})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("text", ['{"name": "canary', '{"name": "canary"}', ""])
def test_an_answer_that_was_cut_is_not_asked_for_again(text: str):
    """The next one would be cut there, too, and be paid for."""
    with pytest.raises(RequestRejected, match="cut at max_output_tokens") as caught:
        structured.hold(request(RIVER), answer(text, finish_reason=Ending.LENGTH))
    assert caught.value.code is ErrorCode.OUTPUT_EXHAUSTED
    assert "canary" not in str(caught.value)


def test_an_answer_that_was_cut_and_holds_is_one():
    """Of what the cap has cut off there was nothing but white space."""
    structured.hold(request(RIVER), answer(json.dumps(RHINE), finish_reason=Ending.LENGTH))


def test_a_json_object_was_asked_for():
    """And a list is none."""
    hold({}, type="json_object")
    with pytest.raises(UpstreamFailed, match="is no JSON object"):
        hold([], type="json_object")


def test_an_answer_longer_than_any_model_writes_is_not_looked_at():
    """Each step may look at all of it."""
    with pytest.raises(UpstreamFailed, match="characters"):
        hold(json.dumps("x" * answers.MAX_ANSWER_CHARS), {"type": "string"})


def test_text_and_calls_of_tools_are_not_checked():
    """A text may be anything, and what calls a tool is no answer yet."""
    hold("canary", type="text")
    structured.hold(request(RIVER), answer("", tool_calls=[{"id": "c-1"}]))
    structured.hold(Request(request_id="r", prompt="Hello", callback_queue="q"), answer("canary"))


@pytest.mark.parametrize(
    "draft", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
)
def test_a_schema_may_name_its_draft(draft: str):
    """What pydantic and zod write, at the top."""
    schema = {"$schema": draft, "$id": "https://example.org/river", **RIVER}
    hold(RHINE, schema)
    with pytest.raises(UpstreamFailed, match="pattern"):
        hold({**RHINE, "since": "x"}, schema)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "canary"}, "the schema is no JSON schema"),
        ({"properties": "canary"}, "the schema is no JSON schema"),
        ({"items": {"required": "canary"}}, "the schema is no JSON schema"),
        ({"$schema": "http://canary.test/"}, "$schema should be one of"),
        ({"$schema": ["canary"]}, "$schema should be one of"),
        ({"items": {"$schema": "http://json-schema.org/draft-07/schema"}}, "$schema is not supported"),
        ({"items": {"$id": "canary"}}, "$id is not supported"),
        ({"patternProperties": {"canary": {}}}, "patternProperties is not supported"),
        ({"anyOf": [{"not": {"unevaluatedProperties": False}}]}, "unevaluatedProperties is not supported"),
        ({"$ref": "http://127.0.0.1:9/canary"}, "a $ref points to no schema inside"),
        ({"$ref": "file:///etc/canary"}, "a $ref points to no schema inside"),
        ({"$ref": "#/$defs/canary"}, "a $ref points to no schema inside"),
        ({"$ref": 7}, "a $ref points to no schema inside"),
        ({"$ref": "#/examples/0", "examples": [{"patternProperties": {"(a+)+$": {}}}]}, "a $ref points to no schema"),
        ({"pattern": "(?=canary)"}, "a pattern has flags or looks around"),
        ({"pattern": r"(canary)\1"}, "a pattern is none, looks around, or refers back"),
        ({"pattern": "(canary"}, "a pattern is none, looks around, or refers back"),
        ({"pattern": "((a{100}){100}){100}"}, "the patterns are too large"),
        ({"pattern": r"[\w-]{500}"}, "the patterns are too large"),
        ({"pattern": r"(\w\d{30}){90}"}, "the patterns are too large"),
        ({"pattern": r"a{30}{30}{20}"}, "the patterns are too large"),
        ({"properties": {f"p{n}": {"pattern": f".{{2000}}{n}"} for n in range(9)}}, "the patterns are too large"),
        ({"pattern": r"[[\w]]{500}"}, "a pattern has an empty class"),
        ({"pattern": r"[]\w]{500}"}, "a pattern has an empty class"),
        ({"pattern": r"(?x)\w {500}"}, "a pattern has flags or looks around"),
        ({"pattern": "c" * 600}, "a pattern is longer than"),
        ({"description": "canary" * 20_000}, "the schema is larger than"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: Any, why: str):
    """In words, before a key is taken, and with nothing of the schema but keywords."""
    assert fault(schema).startswith(why)


def test_names_of_properties_are_no_keywords():
    """A property may have any name."""
    names = ["$ref", "$id", "patternProperties", "pattern", "items", "properties", "a/b", "c~d"]
    schema = {"properties": {name: {"type": "string"} for name in names}, "default": {"$ref": "http://canary.test/"}}
    hold(dict.fromkeys(names, "x"), {**schema, "items": {"$ref": "#/properties/a~1b"}})
    for name in names:
        with pytest.raises(UpstreamFailed):
            hold({name: 1}, schema)


def test_no_reference_is_fetched(monkeypatch: pytest.MonkeyPatch):
    """Neither at admission nor by the library."""
    monkeypatch.setattr(socket, "socket", None)
    fault({"$ref": "http://127.0.0.1:9/schema"})
    hold(RHINE, RIVER)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (DOUBLING, "text"),
        ({"$ref": "#"}, "text"),
        ({"items": {"properties": {f"p{n}": {} for n in range(2000)}}}, [{}] * 20_000),
        ({"items": {"anyOf": [{"type": "string"}] * 1000}}, [["x" * 1000] * 900] * 100),
        ({"pattern": "((a{20}){20}){20}"}, "a" * 50_000),
    ],
    ids=["doubling", "circle", "many properties", "many errors", "many states"],
)
def test_a_check_ends(schema: Any, value: Any):
    """However much work a small schema asks for: its steps are counted."""
    with pytest.raises(TooCostly):
        Schema.of(schema).first_fault(value)


def test_a_schema_that_takes_too_long_is_the_producers_fault():
    """Another try would be paid for, and end in the same way."""
    with pytest.raises(RequestRejected, match="too long"):
        hold('"text"', DOUBLING)


def test_others_get_their_turns_during_a_check(monkeypatch: pytest.MonkeyPatch):
    """A worker on greenlets has one thread for all."""
    turns: list[float] = []
    monkeypatch.setattr(schemas.time, "sleep", turns.append)
    with pytest.raises(TooCostly):
        Schema.of(DOUBLING).first_fault("text")
    assert len(turns) > 100
    assert set(turns) == {0}


def test_a_pattern_takes_linear_time():
    """With Python's own engine this one outlives the test."""
    assert Schema.of({"pattern": "^(a+)+$"}).first_fault("a" * 5_000 + "!") == "pattern"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$", "550e8400-e29b-41d4-a716-446655440000"),
        (r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$", "2026-01-01T00:00:00Z"),
        (r"^[\w.+-]+@[\w-]+\.[\w.-]{2,}$", "ann@example.org"),
        (r"^[A-Z]{2}\d{2}[A-Z0-9]{11,30}$", "DE89370400440532013000"),
        (r"^https?:\/\/[^\s]{1,500}$", "https://example.org/a"),
        (r"^.{1,1000}$", "A sentence."),
        (r"^[\[\]{}()]+$", "[]{}()"),
        (r"(?:a|b)(?<n>c)", "xacx"),
        (r"^[\p{Lu}][\p{L}]{1,40}$", "Ärger"),
    ],
)
def test_usual_patterns_are_matched(pattern: str, text: str):
    """Of ids, dates, addresses and names: a bound that refuses these is none."""
    schema = Schema.of({"pattern": pattern})
    assert (schema.first_fault(text), schema.first_fault("!\n")) == (None, "pattern")


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, 2], True),
        ([1, True, "1", None, [1], {"a": 1}], True),
        ([1, 1.0], False),
        ([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], False),
        ([{"n": n} for n in range(20_000)], True),
    ],
    ids=["numbers", "kinds", "one and 1.0", "objects", "many"],
)
def test_unique_items_are_found_in_one_pass(items: list[Any], unique: bool):
    """Equal as JSON has it."""
    assert (Schema.of({"uniqueItems": True}).first_fault(items) is None) is unique


def test_checks_in_several_threads_have_budgets_of_their_own():
    """Counted apart, and nothing is left over from one to the next."""
    faults: list[str | None] = []
    schema = Schema.of({"items": RIVER, "$defs": RIVER["$defs"]})
    threads = [threading.Thread(target=lambda: faults.append(schema.first_fault([RHINE] * 4000))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [None] * 3
