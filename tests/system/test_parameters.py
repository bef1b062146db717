"""Messages and parameters on their whole way: from a queue to the body of an HTTP call, for both providers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.stack import Stack
from fake_openrouter.client import FakeClient, running
from tests.system.conftest import KEYS, MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

PNG = "data:image/png;base64,iVBORw0KGgo="
RIVER = {"type": "object", "properties": {"name": {"type": ["string", "null"]}}, "required": ["name"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "river", "schema": RIVER}}
FUNCTION = {"name": "length", "description": "Of a river.", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "c-1", "type": "function", "function": {"name": "length", "arguments": '{"river": "Rhine"}'}}

#: Each of them for both providers.
COMMON: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "max_output_tokens": 256,
    "stop": ["END"],
    "seed": 7,
    "frequency_penalty": -0.5,
    "presence_penalty": 0.5,
    "response_format": FORMAT,
    "reasoning": {"max_tokens": 64},
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "auto",
}
#: OpenRouter's alone.
ROUTING: dict[str, Any] = {
    "models": ["openai/gpt-5-mini"],
    "provider": {"order": ["Google"], "max_price": None},
    "parallel_tool_calls": False,
    "repetition_penalty": 1.1,
    "min_p": 0.1,
    "top_a": 0.2,
}

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c-1", "content": "1233 km"},
    {"role": "user", "content": [{"type": "text", "text": "[all]"}, {"type": "image_url", "image_url": {"url": PNG}}]},
]

#: What both stand-ins answer: JSON that holds the schema above.
ANSWER = '{"name": "Rhine"}'
CHOICE = {"message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
OPENROUTERS = {"id": "gen-1", "model": "google/gemini-2.5-flash", "choices": [CHOICE], "usage": {"cost": 0.002}}
GEMINIS = {
    "candidates": [{"content": {"parts": [{"text": ANSWER}]}, "finishReason": "STOP"}],
    "modelVersion": "gemini-2.5-flash",
    "responseId": "gen-1",
}


@pytest.fixture
def gemini(vhost_url: str, tmp_path: Path) -> Iterator[tuple[Stack, FakeClient]]:
    with running(keys=KEYS[:1]) as fake:
        stack = Stack.apart(vhost_url, fake.base_url, tmp_path, GEMINI_API_KEYS=KEYS[0], GEMINI_BASE_URL=fake.base_url)
        try:
            stack.start_worker()
            yield stack, fake
        finally:
            stack.close()


def ask(stack: Stack, **fields: Any) -> Any:
    stack.publish({"request_id": "r-1", **fields})
    (answer,) = stack.answers(1)
    return answer


def test_everything_reaches_openrouter(running_stack: tuple[Stack, FakeClient]):
    """Under its name, to the last null; the envelope says what it cost."""
    stack, fake = running_stack
    fake.script([{"prompt": "[all]", "body": OPENROUTERS}])
    about = {"user": "u-1", "session_id": "s-1"}
    answer = ask(stack, messages=MESSAGES, parameters={**COMMON, **ROUTING}, **about)

    assert (answer["status"], answer["content"]) == ("success", ANSWER)
    assert (answer["attempts"], answer["generation_id"], answer["usage"]["cost"]) == (1, "gen-1", 0.002)
    (call,) = (call for call in fake.calls() if call["prompt"] == "[all]")
    sent = {**COMMON, **ROUTING, **about, "messages": MESSAGES, "model": "google/gemini-2.5-flash", "stream": False}
    sent["max_tokens"] = sent.pop("max_output_tokens")
    assert call["body"] == sent


def test_everything_that_it_has_a_word_for_reaches_gemini(gemini: tuple[Stack, FakeClient]):
    """The rest is refused, and no call is made."""
    stack, fake = gemini
    fake.script([{"body": GEMINIS}])
    answer = ask(stack, messages=MESSAGES, parameters=COMMON)

    assert (answer["status"], answer["content"], answer["generation_id"]) == ("success", ANSWER, "gen-1")
    (call,) = fake.calls()
    result = {"id": "c-1", "name": "length", "response": {"result": "1233 km"}}
    image = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
    function = {"name": "length", "description": "Of a river.", "parametersJsonSchema": FUNCTION["parameters"]}
    assert call["body"] == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "model", "parts": [{"functionCall": {"id": "c-1", "name": "length", "args": {"river": "Rhine"}}}]},
            {"role": "user", "parts": [{"functionResponse": result}, {"text": "[all]"}, image]},
        ],
        "generationConfig": {
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 40,
            "maxOutputTokens": 256,
            "stopSequences": ["END"],
            "seed": 7,
            "frequencyPenalty": -0.5,
            "presencePenalty": 0.5,
            "responseMimeType": "application/json",
            "responseJsonSchema": {"title": "river", **RIVER},
            "thinkingConfig": {"thinkingBudget": 64},
        },
        "tools": [{"functionDeclarations": [function]}],
        "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
    }

    refused = [{"parameters": {name: value}} for name, value in ROUTING.items()] + [
        {"user": "u-1"},
        {"session_id": "s"},
    ]
    for fields in refused:
        answer = ask(stack, prompt="Hello", **fields)
        (name,) = fields.get("parameters", fields)
        assert (answer["error_code"], answer["attempts"]) == ("invalid_request", 0)
        assert f"{name}: Gemini, asked directly, has nothing like it" in answer["error"]
    assert len(fake.calls()) == 1


def test_an_unknown_parameter_is_refused_or_left_out(make_stack: MakeStack):
    """As PARAMETERS_UNKNOWN has it."""
    stack, fake = make_stack()
    worker = stack.start_worker()
    answer = ask(stack, prompt="Hello", parameters={"max_tokens": 9})
    assert answer["error_code"] == "invalid_request"
    assert answer["error"] == "parameters.max_tokens: unknown, did you mean max_output_tokens?"
    assert fake.calls() == []

    worker.terminate()
    worker.wait()
    stack.start_worker(PARAMETERS_UNKNOWN="ignore")
    assert ask(stack, prompt="Hello", parameters={"max_tokens": 9})["status"] == "success"
    (call,) = fake.calls()
    assert call["body"]["max_tokens"] == 8192


def test_an_answer_off_its_schema_is_asked_for_again(running_stack: tuple[Stack, FakeClient]):
    """Until one holds; where none does, the envelope says so, with the number of calls that were paid for."""
    stack, fake = running_stack
    off = {**OPENROUTERS, "choices": [{**CHOICE, "message": {"content": '{"name": 7}'}}]}
    fake.script(
        [{"prompt": "[twice]", "body": off, "times": 1}, {"prompt": "[twice]", "body": OPENROUTERS}, {"body": off}]
    )

    answer = ask(stack, prompt="[twice]", parameters={"response_format": FORMAT})
    assert (answer["content"], answer["attempts"]) == (ANSWER, 2)
    assert answer["waited_ms"] >= 100

    answer = ask(stack, prompt="[never]", parameters={"response_format": FORMAT})
    assert (answer["error_code"], answer["attempts"]) == ("upstream", 3)
    assert answer["error"] == "The model's answer does not hold the JSON schema of response_format (at 'type')"
