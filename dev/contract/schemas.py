"""JSON Schemas of the messages as they are on the wire: what the models say, and what the worker reads into it.

Draft 07, which every validator knows. Where the schema cannot say what the worker checks, it lets more through, never
less: 255 bytes of an id, 64 bits of a number, levels and values of a message, moments, schemas of answers.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

from bridge.body import MAX_INTEGER_BITS
from gateway import chat
from gateway.messages import Cancel, Delta, Failure, Request, Success

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"

#: pydantic's words for the limits of a field whose value it converts first.
_LIMITS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}

_BLANK: Schema = {"type": "string", "pattern": r"^\s*$"}
_NUMBER: Schema = {"type": "integer", "minimum": 1 - 2**MAX_INTEGER_BITS, "maximum": 2**MAX_INTEGER_BITS - 1}
_ID: Schema = {"anyOf": [{"type": "string", "maxLength": 255}, _NUMBER, _BLANK, {"type": "null"}]}
_NOTHING: Schema = {"enum": [[], None]}


def _given(name: str) -> Schema:
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _when(name: str, value: str, then: Schema) -> Schema:
    return {"if": {"required": [name], "properties": {name: {"const": value}}}, "then": then}


_PARTS = get_args(get_type_hints(chat.Part)["type"])

_FULL: Schema = {"not": {"enum": ["", [], None]}}

#: What validators of the models check, which pydantic cannot tell a schema: `gateway/messages.py`, `gateway/chat.py`.
_RULES: Mapping[str, Schema] = {
    "Request": {"oneOf": [_given("prompt"), _given("messages")], "not": _given("cancel")},
    "Part": {"allOf": [_when("type", kind, {"required": [kind]}) for kind in _PARTS]},
    "_Message": {
        "allOf": [
            _when("role", "tool", {"required": ["tool_call_id"], "properties": {"tool_call_id": {"type": "string"}}}),
            {
                "anyOf": [
                    {"required": ["content"], "properties": {"content": _FULL}},
                    {
                        "required": ["role", "tool_calls"],
                        "properties": {"role": {"const": "assistant"}, "tool_calls": _FULL},
                    },
                ]
            },
        ]
    },
    "_Tool": _when("type", "function", {"required": ["function"]}),
    "_Format": _when("type", "json_schema", {"required": ["json_schema"]}),
    "Parameters": {"additionalProperties": False},
    "Cancel": {"not": {"anyOf": [_given("prompt"), _given("messages")]}},
}

#: How the worker reads a field of a request before the model sees it: `bridge/body.py`.
_AS_READ: Mapping[str, Any] = {
    "request_id": lambda _said: _ID,
    "model": lambda said: {"anyOf": [said, _BLANK, {"type": "null"}]},
    "callback_queue": lambda said: {"anyOf": [said, _BLANK, {"type": "null"}]},
    "metadata": lambda said: {"anyOf": [said, _NOTHING]},
    "parameters": lambda said: {"anyOf": [said, _NOTHING]},
}


def schemas() -> dict[str, Schema]:
    """Each message by the name of its file."""
    request = _schema(Request, "A request, to gemini.requests")
    _read_as_the_worker_does(request)
    cancel = _schema(Cancel, "What takes a request back, to gemini.requests or gemini.cancels")
    said = cancel["properties"]["cancel"]
    cancel["properties"]["cancel"] = {"description": said.pop("description"), "anyOf": [said, _NUMBER]}
    return {
        "request": request,
        "cancel": cancel,
        "delta": _schema(Delta, "A piece of an answer, to the callback queue"),
        "success": _schema(Success, "The envelope of an answer, to the callback queue"),
        "error": _schema(Failure, "The envelope of a request that got no answer, to the callback queue"),
    }


def _schema(model: type[BaseModel], title: str) -> Schema:
    made = _plain(model.model_json_schema())
    if model not in {Request, Cancel}:
        _as_sent(made)
    for name, one in [(model.__name__, made), *made.get("$defs", {}).items()]:
        one.update(_RULES.get(name, {}))
    choice = made.get("$defs", {}).get("Parameters", {}).get("properties", {}).get("tool_choice")
    if choice is not None:
        _name_choices(choice)
    return {"$schema": DRAFT, "title": title} | {key: value for key, value in made.items() if key != "title"}


def _as_sent(envelope: Schema) -> None:
    """What the worker writes: it says which envelope it is, and leaves out what has no value."""
    for schema in (envelope, *envelope.get("$defs", {}).values()):
        for name, said in schema.get("properties", {}).items():
            given = [one for one in said.pop("anyOf", []) if one != {"type": "null"}]
            schema["properties"][name] = said | (given[0] if len(given) == 1 else {"anyOf": given} if given else {})
    if "status" in envelope["properties"]:
        envelope["required"].append("status")


def _read_as_the_worker_does(request: Schema) -> None:
    request["required"] = []
    for name, said in request["properties"].items():
        description = {"description": said.pop("description")}
        nullable = said if _takes_null(said) else {"anyOf": [said, {"type": "null"}]}
        request["properties"][name] = description | (_AS_READ[name](nullable) if name in _AS_READ else nullable)
    del request["required"]


def _takes_null(schema: Schema) -> bool:
    return any(one.get("type") == "null" for one in schema.get("anyOf", []))


def _name_choices(choice: Schema) -> None:
    """`tool_choice` is one of three texts, or an object with a type."""
    text, given = choice["anyOf"][0]["oneOf"]
    text["enum"] = ["none", "auto", "required"]
    given |= {"required": ["type"], "properties": {"type": {"type": "string"}}}
    choice["anyOf"][0]["oneOf"][1] = given


def _plain(value: Any, *, of_names: bool = False) -> Any:
    """Without titles, defaults of null and links of the page; limits by their names in JSON Schema."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if of_names:
        return {name: _plain(one) for name, one in value.items()}
    return dict(_plain_items(value))


def _plain_items(schema: Schema) -> Iterator[tuple[str, Any]]:
    for key, value in schema.items():
        if key == "title" or (key == "default" and not isinstance(value, int)):
            continue
        if key == "description":
            yield key, " ".join(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", value).split())
        else:
            yield _LIMITS.get(key, key), _plain(value, of_names=key in {"properties", "$defs"})
