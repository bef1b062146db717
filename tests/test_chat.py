"""Messages and parameters as a producer may give them: what is taken, what is refused, and in which words."""

import json
from typing import Any

import pytest

from bridge.gate import Sender, admit
from bridge.wire import StrictEncoder, work_message
from gateway.errors import InvalidMessage
from gateway.messages import Job, Parameters, Request

PNG = "data:image/png;base64,iVBORw0KGgo="
CALL = {"id": "c-1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}

#: A conversation with everything that the API has a name for, and keys that it may have one day.
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "name": "ann",
        "content": [
            {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral", "ttl": None}},
            {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ],
    },
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_details": [{"data": None}]},
    {"role": "tool", "tool_call_id": "c-1", "content": "Rain."},
]

#: A value for each parameter; the tests that go through all of them fail for one that has none here.
PARAMETERS: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "max_output_tokens": 256,
    "stop": ["END", "STOP"],
    "seed": 7,
    "frequency_penalty": -0.5,
    "presence_penalty": 0.5,
    "repetition_penalty": 1.1,
    "min_p": 0.1,
    "top_a": 0.2,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "river", "strict": True, "schema": {"enum": ["Rhine", None]}},
    },
    "reasoning": {"effort": "low", "exclude": True, "summary": None},
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": None}}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": False,
    "models": ["gemini-pro", "openai/gpt-5-mini"],
    "provider": {"order": ["Google"], "allow_fallbacks": False, "max_price": None},
}


def gate(any_parameters: bool = False, **fields: Any) -> Request:
    body = json.dumps({"request_id": "r-1", **fields}).encode()
    return admit(body, Sender(), default_callback="q", refusal=lambda _queue: None, any_parameters=any_parameters)


def refused(**fields: Any) -> str:
    with pytest.raises(InvalidMessage) as caught:
        gate(**fields)
    assert caught.value.callback_queue == "q"
    return str(caught.value)


def after_a_wait(request: Request) -> Request:
    """As it comes back from a queue of ours."""
    message = work_message(Job.of(request, received_at=1.0))
    (job,) = StrictEncoder().decode(StrictEncoder().encode(message.asdict()))["args"]
    assert isinstance(job, Job)
    return job.request


def test_there_is_a_value_for_each_parameter():
    """What is tried below is all that there is."""
    assert PARAMETERS.keys() == Parameters.model_fields.keys()


def test_messages_are_kept_as_they_were_given():
    """To the last key and null, also over a wait."""
    request = gate(messages=CONVERSATION)
    assert after_a_wait(request).conversation == request.conversation == CONVERSATION


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_is_kept_as_it_was_given(name: str):
    """To the last key and null, also over a wait."""
    request = gate(prompt="Hello", parameters={name: PARAMETERS[name]})
    assert after_a_wait(request).parameters.given == request.parameters.given == {name: PARAMETERS[name]}


def test_the_system_instruction_comes_before_the_messages():
    """Both are given, so both are said."""
    request = gate(messages=CONVERSATION, system_instruction="In German.")
    assert request.conversation == [{"role": "system", "content": "In German."}, *CONVERSATION]


def test_a_prompt_is_a_conversation_of_one_message():
    """The shorter form means the same."""
    assert gate(prompt="Hello").conversation == gate(messages=[{"role": "user", "content": "Hello"}]).conversation


@pytest.mark.parametrize("fields", [{}, {"prompt": "Hello", "messages": CONVERSATION}], ids=["neither", "both"])
def test_a_request_has_either_prompt_or_messages(fields: dict[str, Any]):
    """Of both one would have to be dropped."""
    assert refused(**fields) == "message: give either prompt or messages"


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"role": "canary", "content": "canary"}, "messages.0.role"),
        ({"content": "canary"}, "messages.0.role"),
        ({"role": "user"}, "messages.0"),
        ({"role": "user", "content": ""}, "messages.0"),
        ({"role": "user", "content": 7}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "canary", "canary": 1}]}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "canary"}]}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:canary"}}]}, "messages.0.con"),
        ({"role": "assistant", "tool_calls": [{"id": "canary"}]}, "messages.0.tool_calls"),
        ({"role": "tool", "content": "canary"}, "messages.0"),
        ("canary", "messages.0"),
    ],
)
def test_a_message_that_is_none_is_refused_with_its_place(message: object, place: str):
    """P4: and without its words."""
    error = refused(messages=[message])
    assert error.startswith(place)
    assert "canary" not in error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop", []),
        ("stop", ["canary", ""]),
        ("stop", {"canary": 1}),
        ("seed", "canary"),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("min_p", 1.5),
        ("response_format", "canary"),
        ("response_format", {"type": "canary"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "canary"}}),
        ("reasoning", {"max_tokens": "canary"}),
        ("tools", []),
        ("tools", [{"type": "function", "canary": "canary"}]),
        ("tools", [{"type": "function", "function": {"description": "canary"}}]),
        ("tool_choice", "canary"),
        ("tool_choice", {"canary": "canary"}),
        ("models", "canary"),
        ("models", []),
        ("provider", ["canary"]),
    ],
)
def test_a_parameter_that_is_wrong_is_refused_with_its_name(name: str, value: object):
    """P4: and without its value."""
    error = refused(prompt="Hello", parameters={name: value})
    assert error.startswith(f"parameters.{name}")
    assert "canary" not in error


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_tokens", "max_output_tokens"),
        ("maxOutputTokens", "max_output_tokens"),
        ("temprature", "temperature"),
        ("topK", "top_k"),
        ("stop_sequences", None),
        ("logprobs", None),
    ],
)
def test_an_unknown_parameter_is_refused_with_what_may_have_been_meant(name: str, meant: str | None):
    """It would be dropped, and the answer without it paid for."""
    hint = f", did you mean {meant}?" if meant else ""
    assert refused(prompt="Hello", parameters={name: "canary"}) == f"parameters.{name}: unknown{hint}"


@pytest.mark.parametrize("name", ["user", "session_id", "model", "messages", "metadata"])
def test_a_field_of_the_request_is_no_parameter(name: str):
    """Which is said, with its place."""
    error = refused(prompt="Hello", parameters={name: "canary"})
    assert error == f"parameters.{name}: is no parameter, it belongs beside parameters"


def test_a_name_that_is_none_is_not_shown():
    """P4: it could be a prompt in the wrong place."""
    error = refused(prompt="Hello", parameters={"Tell me about the canary": 1, "canary " * 9: 2, "max_tokens": 3})
    assert (
        error == "parameters: has a name that is no parameter's; parameters.max_tokens: unknown, did you mean"
        " max_output_tokens?"
    )


def test_of_many_faults_a_few_are_told():
    """To list, or to guess at, them all takes a worker many seconds."""
    assert refused(prompt="Hello", parameters={f"temp{n}": n for n in range(45_000)}).count("temp") <= 10
    assert refused(messages=[{"role": "x"}] * 45_000).count("messages.") == 1
    assert refused(messages=[{"role": "user", "content": [{"type": "x"}] * 45_000}]).count("messages.") == 1


def test_unknown_parameters_can_be_left_out():
    """PARAMETERS_UNKNOWN=ignore, for old producers; a null is no parameter either way."""
    request = gate(any_parameters=True, prompt="Hello", parameters={"max_tokens": 1, "seed": 2, "stop": None})
    assert request.parameters.given == {"seed": 2}


def test_an_unknown_field_beside_the_parameters_stays_ignored():
    """Producers have fields of their own."""
    assert gate(prompt="Hello", max_tokens=1, color="red") == gate(prompt="Hello")
