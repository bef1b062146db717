"""Nothing that a request says is repeated, wherever in the request it stands."""

import json
from typing import Any

import pytest

from gateway.messages import Request
from gateway.providers.discretion import hidden
from gateway.secrets import ApiKey

KEY = ApiKey("sk-or-v1-canary-key-0123456789")
LONG = "A canary that says that the merger is off, and for how much."
SHORT = "canary-7"


def said(messages: list[Any], **parameters: Any) -> Request:
    return Request(request_id="r-1", messages=messages, callback_queue="q", parameters=parameters)


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def places(words: str) -> dict[str, Request]:
    """Each place of a request where a producer may say something."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": words})}}
    function = {"name": "f", "description": words}
    schema = {"properties": {words: {"enum": [words], "type": "string"}}}
    hello = user("Hello there, how are you?")
    return {
        "text": said(user(words)),
        "part": said(user([{"type": "text", "text": words}])),
        "file name": said(user([{"type": "file", "file": {"filename": words}}])),
        "image": said(user([{"type": "image_url", "image_url": {"url": f"https://a.test/{words}"}}])),
        "unknown key": said([{"role": "user", "content": "Hello", "x": {words: [words]}}]),
        "arguments": said([{"role": "assistant", "tool_calls": [call]}]),
        "result": said([{"role": "tool", "tool_call_id": "c", "content": words}]),
        "tool": said(hello, tools=[{"type": "function", "function": function}]),
        "tool's parameters": said(hello, tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}]),
        "schema": said(hello, response_format={"type": "json_schema", "json_schema": {"schema": schema}}),
        "stop": said(hello, stop=[words]),
        "user": Request(request_id="r-1", prompt="Hello", callback_queue="q", user=words),
        "session": Request(request_id="r-1", prompt="Hello", callback_queue="q", session_id=words),
        "instruction": Request(request_id="r-1", prompt="Hello", callback_queue="q", system_instruction=words),
    }


@pytest.mark.parametrize("place", places(LONG))
def test_what_a_request_says_is_hidden(place: str):
    """P4: whole, cut, or inside JSON. Of a longer text a few characters may be repeated, as of a prompt."""
    for words in (LONG,) if place == "image" else (LONG, SHORT):
        text = f"Invalid value: {words}! {json.dumps(words)}"
        assert "canary" not in hidden(places(words)[place], [KEY], text), words
    assert "merger" not in hidden(places(LONG)[place], [KEY], f"Bad: {LONG[9:60]}…")


def test_the_words_of_the_api_are_left():
    """An error that names a field helps nobody without the name."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": False}
    request = said(user("Hello"), response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    text = "response_format: schema of type object needs additionalProperties in messages with role user"
    assert hidden(request, [KEY], text) == text


def test_the_data_of_a_file_is_hidden_from_its_beginning():
    """A text that repeats it does not begin in the middle; megabytes are not searched."""
    data = "data:image/png;base64," + "canary0123456789" * 100_000
    request = said(user([{"type": "image_url", "image_url": {"url": data}}]))
    assert "canary" not in hidden(request, [KEY], f"cannot read {data[:500]}")


def test_many_short_strings_cost_little():
    """Only those that the text has are looked at closer."""
    request = said(user([{"type": "text", "text": f"word{n}"} for n in range(100_000)]))
    assert hidden(request, [KEY], "Invalid: word77777") == "Invalid: [prompt]"
