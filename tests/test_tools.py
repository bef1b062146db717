"""Answers that call tools, whole and as streams, where the request offers tools and where it does not."""

import json
from typing import Any

import pytest

from gateway.errors import ProviderError
from gateway.messages import Completion
from gateway.providers.endings import Ending
from gateway.providers.gemini_responses import classify_gemini
from gateway.providers.openrouter_responses import classify_openrouter
from gateway.providers.responses import Answer
from gateway.reporting.redaction import redact


def call(
    call_id: str = "call_1", name: str = "weather", arguments: Any = '{"city": "Ulm"}', **more: Any
) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def whole(finish_reason: str | None = "tool_calls", **message: Any) -> list[dict[str, Any]]:
    return [{"choices": [{"message": {"content": None, **message}, "finish_reason": finish_reason}]}]


def pieces(*deltas: dict[str, Any], finish_reason: str | None = "tool_calls") -> list[dict[str, Any]]:
    said = [{"choices": [{"delta": {"tool_calls": [delta]}}]} for delta in deltas]
    return [*said, {"choices": [{"delta": {}, "finish_reason": finish_reason}]}]


def gemini(*parts: dict[str, Any], ended: str = "STOP") -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}, "finishReason": ended}]}


def meaning(objects: list[dict[str, Any]], *, with_tools: bool = True) -> Completion | ProviderError:
    classify = classify_gemini if "candidates" in objects[0] else classify_openrouter
    lines = [json.dumps(one) for one in objects]
    body = lines[0] if len(lines) == 1 else "".join(f"data: {line}\n\n" for line in lines)
    return classify(Answer(200, {}, body.encode()), asked="m", now=0.0, hide=redact, with_tools=with_tools)


OPENAI_STREAM = pieces(
    {"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": ""}},
    {"index": 0, "function": {"arguments": '{"city": '}},
    {"index": 1, "id": "call_2", "function": {"name": "time", "arguments": "{}"}},
    {"index": 0, "function": {"arguments": '"Ulm"}'}},
)
TWO = [call(), call("call_2", "time", "{}")]

ANSWERS = {
    "whole": (whole(tool_calls=TWO), TWO),
    "whole, and no reason": (whole(None, tool_calls=TWO), TWO),
    "whole, all of number 0": (whole(tool_calls=[one | {"index": 0} for one in TWO]), TWO),
    "whole, without ids": (whole(tool_calls=[call(""), call("", "time", "{}")]), TWO),
    "whole, arguments that are no text": (whole(tool_calls=[call(arguments={"city": "Ulm"})]), TWO[:1]),
    "whole, the older form": (whole("function_call", function_call=TWO[0]["function"]), TWO[:1]),
    "a stream": (OPENAI_STREAM, TWO),
    "a stream, all of number 0": (pieces(*({**one, "index": 0} for one in TWO)), TWO),
    "a stream that ends as a text does": (pieces(*TWO[:1], finish_reason="stop"), TWO[:1]),
    "gemini, a stream": (
        [
            gemini({"functionCall": {"name": "weather", "args": {"city": "Ulm"}}}),
            gemini({"functionCall": {"name": "time"}}),
        ],
        TWO,
    ),
}


@pytest.mark.parametrize(("objects", "calls"), ANSWERS.values(), ids=ANSWERS)
def test_calls_of_tools_are_an_answer_where_tools_are_offered(objects: list[dict[str, Any]], calls: list[Any]):
    """In every form; each call has an id, which the next request needs."""
    outcome = meaning(objects)

    assert isinstance(outcome, Completion)
    assert (outcome.content, outcome.tool_calls, outcome.finish_reason) == ("", calls, Ending.TOOL_CALLS)


@pytest.mark.parametrize(("objects", "calls"), ANSWERS.values(), ids=ANSWERS)
def test_calls_of_tools_are_no_answer_where_none_is_offered(objects: list[dict[str, Any]], calls: list[Any]):
    """Final: it is paid for, and the next one would be the same."""
    assert meaning(objects, with_tools=False).reason == "tool_call"


def test_a_text_before_the_calls_is_told_with_them():
    """`Let me see …`"""
    outcome = meaning(whole(content="Let me see.", tool_calls=TWO))
    assert (outcome.content, outcome.tool_calls, outcome.finish_reason) == ("Let me see.", TWO, Ending.TOOL_CALLS)


def test_a_text_is_the_answer_where_no_tool_is_offered():
    """Nobody waits for calls then."""
    outcome = meaning(whole(content="Hello.", tool_calls=TWO), with_tools=False)
    assert (outcome.content, outcome.tool_calls) == ("Hello.", None)


def test_calls_that_are_cut_say_so():
    """Their arguments are no JSON, perhaps."""
    outcome = meaning(whole("length", tool_calls=[call(arguments='{"city": "U')]))
    assert (outcome.tool_calls[0]["function"]["arguments"], outcome.finish_reason) == ('{"city": "U', Ending.LENGTH)


def test_a_stream_of_calls_that_breaks_off_is_no_answer():
    """As with a text."""
    assert meaning(OPENAI_STREAM[:-1]).reason == "broken_answer"


def test_calls_that_a_filter_has_touched_are_withheld():
    """As a text is."""
    assert meaning(whole("content_filter", tool_calls=TWO)).reason == "content_blocked"


@pytest.mark.parametrize("given", [[{"id": "call_1"}], [None], ["weather"], [call(name=None)]])
def test_a_call_without_a_name_is_none(given: list[Any]):
    """Nobody could run it; it is paid for all the same."""
    assert meaning(whole(tool_calls=given)).reason == "tool_call"
