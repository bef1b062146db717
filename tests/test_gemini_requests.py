"""Requests in Gemini's words: each thing has its place, or the request is refused."""

from typing import Any

import pytest

from gateway.errors import ErrorCode, RequestRejected
from gateway.messages import Parameters, Request
from gateway.providers.gemini_requests import gemini_body
from tests.test_chat import PNG

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}
CALL = {"id": "c-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}

#: What each parameter becomes; those that are missing here are refused.
TRANSLATED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0.0}, {"temperature": 0.0}),
    ({"top_p": 0.9}, {"topP": 0.9}),
    ({"top_k": 4}, {"topK": 4}),
    ({"max_output_tokens": 9}, {"maxOutputTokens": 9}),
    ({"seed": 0}, {"seed": 0}),
    ({"frequency_penalty": 0.5}, {"frequencyPenalty": 0.5}),
    ({"presence_penalty": 0.5}, {"presencePenalty": 0.5}),
    ({"stop": "END"}, {"stopSequences": ["END"]}),
    ({"stop": ["A", "B"]}, {"stopSequences": ["A", "B"]}),
    ({"response_format": {"type": "text"}}, {"responseMimeType": "text/plain"}),
    ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "who", "description": "One.", "strict": True, "schema": SCHEMA},
            }
        },
        {
            "responseMimeType": "application/json",
            "responseJsonSchema": {"title": "who", "description": "One.", **SCHEMA},
        },
    ),
    ({"reasoning": {"max_tokens": 99}}, {"thinkingConfig": {"thinkingBudget": 99}}),
    ({"reasoning": {"enabled": False}}, {"thinkingConfig": {"thinkingBudget": 0}}),
    ({"reasoning": {"enabled": True}}, {"thinkingConfig": {"thinkingBudget": -1}}),
    ({"reasoning": {"effort": "none"}}, {"thinkingConfig": {"thinkingBudget": 0}}),
    (
        {"reasoning": {"effort": "low", "exclude": True}},
        {"thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": False}},
    ),
]

TOOLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"tools": [{"type": "function", "function": WEATHER}, {"type": "function", "function": {"name": "time"}}]},
        {
            "tools": [
                {
                    "functionDeclarations": [
                        {"name": "weather", "description": "Tells it.", "parametersJsonSchema": SCHEMA},
                        {"name": "time"},
                    ]
                }
            ]
        },
    ),
    ({"tool_choice": "auto"}, {"toolConfig": {"functionCallingConfig": {"mode": "AUTO"}}}),
    ({"tool_choice": "none"}, {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}}),
    ({"tool_choice": "required"}, {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}),
    (
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}}},
    ),
]

#: What is refused, and the place that is named.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"repetition_penalty": 1.1}, "parameters.repetition_penalty"),
    ({"min_p": 0.1}, "parameters.min_p"),
    ({"top_a": 0.1}, "parameters.top_a"),
    ({"parallel_tool_calls": False}, "parameters.parallel_tool_calls"),
    ({"models": ["google/gemini-2.5-pro"]}, "parameters.models"),
    ({"provider": {"order": ["Google"]}}, "parameters.provider"),
    ({"reasoning": {"effort": "xhigh"}}, "parameters.reasoning.effort"),
    ({"reasoning": {"summary": "canary"}}, "parameters.reasoning.summary"),
    ({"response_format": {"type": "text", "canary x": 1}}, "parameters.response_format, a name in it"),
    ({"tools": [{"type": "web_search"}]}, "parameters.tools.0.type"),
    ({"tools": [{"type": "function", "function": {**WEATHER, "strict": True}}]}, "parameters.tools.0.function.strict"),
    ({"tool_choice": {"type": "web_search"}}, "parameters.tool_choice"),
]


def request(**fields: Any) -> Request:
    about = {} if "messages" in fields else {"prompt": "Hello"}
    return Request(**{"request_id": "r-1", "callback_queue": "q", **about, **fields})


def refusal(**fields: Any) -> str:
    with pytest.raises(RequestRejected) as caught:
        gemini_body(request(**fields))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "canary" not in str(caught.value)
    return str(caught.value).partition(": Gemini, asked directly")[0]


@pytest.mark.parametrize(("given", "becomes"), TRANSLATED)
def test_a_parameter_is_translated(given: dict[str, Any], becomes: dict[str, Any]):
    """Into `generationConfig`, and nothing else with it."""
    assert gemini_body(request(parameters=given)) == {**gemini_body(request()), "generationConfig": becomes}


@pytest.mark.parametrize(("given", "becomes"), TOOLS)
def test_tools_are_translated(given: dict[str, Any], becomes: dict[str, Any]):
    """They have their place beside `generationConfig`."""
    assert gemini_body(request(parameters=given)) == {**gemini_body(request()), **becomes}


@pytest.mark.parametrize(("given", "place"), REFUSED)
def test_what_gemini_has_no_word_for_is_refused(given: dict[str, Any], place: str):
    """It would be dropped, and the answer without it paid for."""
    assert refusal(parameters=given) == place


def test_each_parameter_is_translated_or_refused():
    """None is forgotten here."""
    tried = {name for given, _ in [*TRANSLATED, *TOOLS, *REFUSED] for name in given}
    assert tried == Parameters.model_fields.keys()


@pytest.mark.parametrize("name", ["user", "session_id"])
def test_who_asks_is_not_told_to_gemini(name: str):
    """It has no field for it."""
    assert refusal(**{name: "canary"}) == name


def test_a_conversation_is_translated():
    """Roles, parts, calls and their results; what one side says in a row is one turn."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": PNG}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVB="}}
            ],
        },
        {
            "role": "assistant",
            "content": "I ask.",
            "tool_calls": [{**CALL, "extra_content": {"google": {"thought_signature": "c2ln"}}}, {**CALL, "id": "c-2"}],
        },
        {"role": "tool", "tool_call_id": "c-1", "content": '{"sky": "grey"}'},
        {"role": "tool", "tool_call_id": "c-2", "content": [{"type": "text", "text": "Rain."}]},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "Thanks."},
    ]
    called = {"name": "weather", "args": {"city": "Ulm"}}
    assert gemini_body(request(messages=messages, system_instruction="In German.")) == {
        "systemInstruction": {"parts": [{"text": "In German."}, {"text": "Be brief."}]},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "Look:"},
                    {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
                    {"text": "a.pdf"},
                    {"inlineData": {"mimeType": "application/pdf", "data": "JVB="}},
                ],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "I ask."},
                    {"functionCall": {"id": "c-1", **called}, "thoughtSignature": "c2ln"},
                    {"functionCall": {"id": "c-2", **called}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "c-1", "name": "weather", "response": {"sky": "grey"}}},
                    {"functionResponse": {"id": "c-2", "name": "weather", "response": {"result": "Rain."}}},
                ],
            },
            {"role": "model", "parts": [{"text": "It rains."}]},
            {"role": "user", "parts": [{"text": "Thanks."}]},
        ],
    }


def part(kind: str, **holds: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": kind, kind: {**holds}}]}]


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        (part("image_url", url="https://canary.test/a.png"), "messages.0.content.0, a URL"),
        (part("image_url", url="data:text/plain,canary"), "messages.0.content.0, a URL"),
        (part("image_url", url=PNG, detail="canary"), "messages.0.content.0.image_url.detail"),
        (part("file", file_id="canary"), "messages.0.content.0.file.file_id"),
        (part("file", filename="canary"), "messages.0.content.0, a URL"),
        (part("input_audio", data="canary"), "messages.0.content.0.input_audio"),
        ([{"role": "user", "content": "canary", "name": "canary"}], "messages.0.name"),
        ([{"role": "user", "content": "canary", "a canary": 1}], "messages.0, a name in it"),
        ([{"role": "system", "content": "canary"}], "messages"),
        (
            [{"role": "tool", "tool_call_id": "canary", "content": "x"}],
            "messages.0.tool_call_id, without a call of that id before it",
        ),
        (
            [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "canary"}}]}],
            "messages.0.tool_calls, arguments that are no JSON object",
        ),
        (
            [
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c-1", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
            ],
            "messages.1.content, a result that is no text",
        ),
    ],
)
def test_a_message_that_gemini_has_no_word_for_is_refused(messages: list[Any], place: str):
    """With its place, and without its words."""
    assert refusal(messages=messages) == place
