"""docs/contract/: what the schemas take is what the worker takes, as far as a schema can say it."""

import gzip
import json
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from pydantic_core import from_json

from bridge.gate import Sender, admit
from dev.contract.schemas import schemas
from dev.contract.tables import MODELS
from dev.launcher import ROOT
from gateway.errors import ErrorCode, InvalidMessage
from tests.system.hostile import FIELDS, ODD, PARAMETERS, bodies
from tests.test_messages_page import examples

#: Why the worker refuses what a schema lets through: a schema has no words for these.
BEYOND_SCHEMAS = re.compile(
    r"longer than 255 bytes|more than 64 bits|not finite|nested deeper|more than \d+ values|not a time such as"
    r"|is not valid JSON"  # half of a surrogate pair, which Python's json takes
)

VALIDATORS = {name: Draft7Validator(schema) for name, schema in schemas().items()}


def refused_by_the_worker(body: bytes) -> str | None:
    """Why; None for a request, and for the cancel of one."""
    sender = Sender(request_id="from-the-properties")
    try:
        admit(body, sender, default_callback="gemini.responses", refusal=lambda _queue: None)
    except InvalidMessage as error:
        return str(error)
    return None


def taken_by_the_schemas(told: Any) -> bool:
    return any(VALIDATORS[name].is_valid(told) for name in ("request", "cancel"))


def agree(told: Any, body: bytes | None = None) -> None:
    why = refused_by_the_worker(body or json.dumps(told).encode())
    if why is None:
        assert taken_by_the_schemas(told), list(VALIDATORS["request"].iter_errors(told))
    else:
        assert not taken_by_the_schemas(told) or BEYOND_SCHEMAS.search(why), why


def test_what_is_generated_is_what_the_messages_say():
    """docs/contract/ and the tables of docs/messages.md; the message says which differs, and what to type."""
    check = [sys.executable, "-m", "dev.contract", "--check"]
    ran = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_every_field_says_what_it_is_for():
    """The text stands under the field."""
    fields = [(name, field) for model in MODELS.values() for name, field in model.model_fields.items()]
    assert [name for name, field in fields if not field.description] == []


@pytest.mark.parametrize("name", VALIDATORS)
def test_a_schema_is_one_of_draft_07(name: str):
    """And stands alone: no reference leads out of it."""
    Draft7Validator.check_schema(VALIDATORS[name].schema)
    references = re.findall(r'"\$ref": "([^"]*)"', json.dumps(VALIDATORS[name].schema))
    known = VALIDATORS[name].schema.get("$defs", {})
    assert {reference.removeprefix("#/$defs/") for reference in references} <= set(known)


def test_hostile_bodies_get_the_same_verdict():
    """Of all that is JSON among them."""
    compared = 0
    for body in bodies(20261128, share=0.2):
        try:
            told = from_json(body, allow_inf_nan=False)
        except ValueError:
            continue
        if len(body) < 200_000:
            compared += 1
            agree(told, body)
    assert compared > 500


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_an_odd_value_of_any_field_gets_the_same_verdict(value: Any):
    """Alone, and beside what makes a request whole."""
    for name in (*FIELDS, "stream", "cancel"):
        agree({"prompt": "x", name: value})
        agree({name: value})
    for name in PARAMETERS:
        agree({"prompt": "x", "parameters": {name: value}})


@pytest.mark.parametrize(
    ("fields", "is_taken"),
    [
        ({"request_id": 7}, True),
        ({"request_id": 7.0}, True),
        ({"request_id": 7.5}, False),
        ({"request_id": " "}, True),
        ({"parameters": {"max_output_tokens": 2048.0}}, True),
        ({"parameters": {"max_output_tokens": "2048"}}, False),
        ({"parameters": {"max_output_tokens": 0}}, False),
        ({"parameters": {"max_tokens": 5}}, False),
        ({"parameters": []}, True),
        ({"parameters": None, "metadata": [], "stream": None, "retry_count": None}, True),
        ({"parameters": {"temperature": 2}}, True),
        ({"parameters": {"temperature": 2.1}}, False),
        ({"parameters": {"temperature": True}}, False),
        ({"model": ""}, True),
        ({"model": "x" * 201}, False),
        ({"model": " " * 300}, True),
        ({"expires_in_s": 0}, False),
        ({"expires_in_s": 0.1}, True),
        ({"priority": "batch"}, True),
        ({"priority": "low"}, False),
        ({"stream": "true"}, False),
        ({"unknown": {"a": 1}}, True),
        ({"prompt": None, "messages": [{"role": "user", "content": "x"}]}, True),
        ({"messages": [{"role": "user", "content": "x"}]}, False),
        ({"prompt": " "}, False),
        ({"prompt": None}, False),
        ({"cancel": "r"}, False),
        ({"prompt": None, "cancel": 7}, True),
        ({"prompt": None, "cancel": 7.0}, True),
        ({"prompt": None, "cancel": ""}, False),
        ({"prompt": None, "cancel": 7.5}, False),
    ],
)
def test_what_the_worker_takes_the_schema_takes(fields: dict[str, Any], is_taken: bool):
    """And what it refuses is refused."""
    told = {"prompt": "x", **fields}
    assert taken_by_the_schemas(told) is is_taken
    assert (refused_by_the_worker(json.dumps(told).encode()) is None) is is_taken


FORMAT = {"type": "json_schema", "json_schema": {"schema": {}}}
MESSAGE_PARTS = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "other"])},
    optional={
        "content": st.sampled_from(
            [
                *("", "x", None, [], 7, [{"type": "text"}], [{"type": "text", "text": "x"}], [{"type": "other"}]),
                *([{"type": "file", "text": "x"}], [{"type": "image_url", "image_url": {"url": "https://x"}}]),
                *(
                    [{"type": "image_url", "image_url": {"url": "ftp://x"}}],
                    [{"type": "input_audio", "input_audio": {}}],
                ),
            ]
        ),
        "tool_call_id": st.sampled_from([None, "", "x", 7]),
        "tool_calls": st.sampled_from(
            [None, [], [{}], [{"id": "i", "type": "function", "function": {"name": "f", "arguments": "{}"}}]]
        ),
        "cache_control": st.just({"type": "ephemeral"}),
    },
)
SOME_PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "tool_choice": st.sampled_from(["none", "any", {}, {"type": "function"}, {"type": 7}, None, 7]),
        "tools": st.lists(
            st.sampled_from([{"type": "function"}, {"type": "x"}, {"type": "function", "function": {"name": "f"}}, {}])
        ),
        "response_format": st.sampled_from(
            [
                {"type": "text"},
                {"type": "json_schema"},
                {"type": "json_schema", "json_schema": {"schema": {}}},
                {},
                "text",
            ]
        ),
        "reasoning": st.sampled_from([{}, {"max_tokens": 8.0}, {"max_tokens": -1}, {"effort": ""}, {"enabled": 1}]),
        "stop": st.sampled_from(["", "x", [], ["x"], [""], 7]),
        "seed": st.sampled_from([7, 7.0, 7.5, "7", None, True]),
    },
)


@given(st.lists(MESSAGE_PARTS, min_size=0, max_size=2), SOME_PARAMETERS)
def test_conversations_and_parameters_get_the_same_verdict(messages: list[dict], parameters: dict):
    """In every combination of what is right and what is not."""
    agree({"messages": messages, "parameters": parameters})


@pytest.mark.parametrize("example", examples(), ids=lambda example: ",".join(example)[:30])
def test_an_example_of_the_pages_holds_one_schema(example: dict[str, Any]):
    """And no other one."""
    assert sum(validator.is_valid(example) for validator in VALIDATORS.values()) == 1


def test_the_codes_of_the_error_schema_are_the_closed_list():
    """Each, and none that is not there."""
    assert set(VALIDATORS["error"].schema["$defs"]["ErrorCode"]["enum"]) == {code.value for code in ErrorCode}


def document() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docs/contract/asyncapi.yaml").read_text())


def test_asyncapi_yaml_holds_the_schema_of_asyncapi():
    """Its own of version 3.0.0, bindings of AMQP included, from the npm package @asyncapi/specs (Apache 2.0)."""
    schema = json.loads(gzip.decompress((ROOT / "tests/asyncapi/3.0.0.json.gz").read_bytes()))
    assert [error.message for error in Draft7Validator(schema).iter_errors(document())] == []


def test_a_reference_of_asyncapi_yaml_leads_somewhere():
    """Into the document, or to a file beside it."""
    references = set(re.findall(r"\$ref'?: '?([^'\s]+)", (ROOT / "docs/contract/asyncapi.yaml").read_text()))
    assert len(references) > 10
    for reference in references:
        file, _, path = reference.partition("#")
        found: Any = document() if not file else json.loads((ROOT / "docs/contract" / file).read_text())
        for step in filter(None, path.split("/")):
            found = found[step]
        assert found


def test_asyncapi_yaml_has_every_message():
    """Each in a channel, and in an operation."""
    found = document()
    named = set(VALIDATORS)
    assert set(found["components"]["messages"]) == named
    for place in (found["channels"], found["operations"]):
        assert {one for one in named if f"messages/{one}'" in str(place)} == named
