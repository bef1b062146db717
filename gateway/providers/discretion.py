"""What a provider's text must not repeat: the request, the key that asked, and any other key of ours."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from gateway.messages import Request
from gateway.reporting.redaction import FRAGMENT_CHARS, redact
from gateway.secrets import ApiKey

#: Of the data of an image or a file a text repeats the beginning.
_MOST_DATA_CHARS: Final = 2048

#: Words of the API and of JSON Schema, which a request holds and an error text needs.
# fmt: off
_WORDS: Final = frozenset(
    {
        "$defs", "$ref", "$schema", "additionalProperties", "allOf", "anyOf", "any", "array", "arguments",
        "assistant", "auto", "boolean", "call", "content", "const", "data", "default", "definitions",
        "description", "detail", "enum", "file", "file_data", "filename", "format", "function", "high",
        "image_url", "input_audio", "integer", "items", "json", "json_object", "json_schema", "low", "maxItems",
        "maxLength", "maximum", "message", "messages", "minItems", "minLength", "minimum", "model", "name",
        "none", "null", "number", "object", "oneOf", "parameters", "pattern", "properties", "required",
        "response_format", "role", "schema", "strict", "string", "system", "text", "title", "tool",
        "tool_call_id", "tool_calls", "tool_choice", "tools", "true", "type", "uniqueItems", "url", "user",
        "value", "video_url"
    }
)
# fmt: on


def hidden(request: Request, keys: Iterable[ApiKey], text: str) -> str:
    """`text` without what the request says, in its prompt, messages, tools and schemas, and without the keys.

    Whole, before anybody cuts it: half a key is not found any more, and is half a key all the same.
    """
    said = {word for word in _strings(_content(request)) if word not in _WORDS}
    # As one text, so that the work is one search, however many there are.
    long = "\n".join(word for word in said if len(word) >= FRAGMENT_CHARS)
    short = [word for word in said if len(word) < FRAGMENT_CHARS and (word in text or json.dumps(word)[1:-1] in text)]
    return redact(text, [key.reveal() for key in keys], [request.prompt or "", long, *short])


def _content(request: Request) -> list[Any]:
    parameters = request.parameters
    formats = [parameters.tools, parameters.tool_choice, parameters.response_format, parameters.stop]
    return [request.conversation, request.user, request.session_id, *formats]


def _strings(value: Any) -> Iterator[str]:
    """Every string in `value`: names, too, and what is in a string that is JSON, as arguments of functions are."""
    if isinstance(value, str):
        yield value[:_MOST_DATA_CHARS] if value.startswith("data:") else value
        if value[:1] in {"{", "["}:
            yield from _inside(value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _inside(text: str) -> list[str]:
    try:
        return list(_strings(json.loads(text)))
    except (ValueError, RecursionError):
        return []
