"""A request in the words of Google's Gemini API; what it has no word for is refused, and never left out.

Sources: https://ai.google.dev/api/generate-content, https://ai.google.dev/api/caching#Tool,
https://ai.google.dev/gemini-api/docs/thought-signatures
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from gateway.errors import RequestRejected
from gateway.messages import Request
from gateway.reporting.redaction import escape_controls

_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w=.+-]+)*;base64,", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")


def gemini_body(request: Request) -> dict[str, Any]:
    """The body of `generateContent`. Raises RequestRejected, whose text names a place in the request. Pure."""
    for name in ("user", "session_id"):
        if getattr(request, name) is not None:
            raise _no_word_for(name)
    system, contents = _contents(request.conversation)
    body: dict[str, Any] = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    generation: dict[str, Any] = {}
    for name, value in request.parameters.given.items():
        if name in _SAME:
            generation[_SAME[name]] = value
        elif name in _GENERATION:
            generation |= _GENERATION[name](value)
        elif name in _TOP_LEVEL:
            body |= _TOP_LEVEL[name](value)
        else:
            raise _no_word_for(f"parameters.{name}")
    return body | ({"generationConfig": generation} if generation else {})


def _no_word_for(place: str, advice: str = "") -> RequestRejected:
    text = f"{place}: Gemini, asked directly, has nothing like it{advice and f'; {advice}'}"
    return RequestRejected(escape_controls(text), reason="not_for_gemini")


def _only(given: Mapping[str, Any], known: Iterable[str], place: str) -> Mapping[str, Any]:
    """`given`, if it has nothing but what is `known`."""
    for name, value in given.items():
        if value is not None and name not in known:
            # A name that does not look like one could be anything.
            raise _no_word_for(f"{place}.{name}" if _NAME.fullmatch(name) else f"{place}, a name in it")
    return given


# Parameters.


def _stop(stop: str | list[str]) -> dict[str, Any]:
    return {"stopSequences": [stop] if isinstance(stop, str) else stop}


def _format(given: Mapping[str, Any]) -> dict[str, Any]:
    place = "parameters.response_format"
    _only(given, {"type", "json_schema"}, place)
    if given["type"] == "text":
        return {"responseMimeType": "text/plain"}
    if given["type"] == "json_object":
        return {"responseMimeType": "application/json"}
    # Gemini holds every schema, as `strict` asks for; the other two have their place in a schema.
    about = _only(given["json_schema"], {"name", "description", "schema", "strict"}, f"{place}.json_schema")
    words = {"title": about.get("name"), "description": about.get("description")}
    schema = {**{name: word for name, word in words.items() if word is not None}, **about["schema"]}
    return {"responseMimeType": "application/json", "responseJsonSchema": schema}


def _reasoning(given: Mapping[str, Any]) -> dict[str, Any]:
    place = "parameters.reasoning"
    _only(given, {"effort", "max_tokens", "enabled", "exclude"}, place)
    thinking: dict[str, Any] = {}
    if given.get("enabled") is not None:
        thinking["thinkingBudget"] = -1 if given["enabled"] else 0  # as much as it takes, or nothing
    if given.get("max_tokens") is not None:
        thinking["thinkingBudget"] = given["max_tokens"]
    if given.get("exclude") is not None:
        thinking["includeThoughts"] = not given["exclude"]
    effort = given.get("effort")
    if effort == "none":
        thinking["thinkingBudget"] = 0
    elif effort in {"minimal", "low", "medium", "high"}:
        thinking["thinkingLevel"] = effort.upper()
    elif effort is not None:
        raise _no_word_for(f"{place}.effort", "give none, minimal, low, medium or high")
    return {"thinkingConfig": thinking}


def _tools(tools: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "tools": [{"functionDeclarations": [_function(tool, f"parameters.tools.{n}") for n, tool in enumerate(tools)]}]
    }


def _function(tool: Mapping[str, Any], place: str) -> dict[str, Any]:
    if tool["type"] != "function":
        raise _no_word_for(f"{place}.type", "give functions")
    function = _only(_only(tool, {"type", "function"}, place)["function"], _FUNCTION, f"{place}.function")
    return {_FUNCTION[name]: value for name, value in function.items() if value is not None}


def _tool_choice(choice: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(choice, str):
        return _calling({"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice]})
    place = "parameters.tool_choice"
    function = _only(choice, {"type", "function"}, place).get("function")
    if choice["type"] != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _no_word_for(place, "give the name of a function")
    _only(function, {"name"}, f"{place}.function")
    return _calling({"mode": "ANY", "allowedFunctionNames": [function["name"]]})


def _calling(how: dict[str, Any]) -> dict[str, Any]:
    return {"toolConfig": {"functionCallingConfig": how}}


_FUNCTION: Final = {"name": "name", "description": "description", "parameters": "parametersJsonSchema"}

#: Parameters of which only the name is another one.
_SAME: Final = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "max_output_tokens": "maxOutputTokens",
    "seed": "seed",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
}
#: Those that become something else in `generationConfig`, and beside it.
_GENERATION: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    "stop": _stop,
    "response_format": _format,
    "reasoning": _reasoning,
}
_TOP_LEVEL: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {"tools": _tools, "tool_choice": _tool_choice}


# Messages.


def _contents(messages: list[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The parts of the system instruction, and the turns: what one side says in a row is one turn."""
    system: list[dict[str, Any]] = []
    contents: list[dict[str, Any]] = []
    called: dict[str, str] = {}  # the names of functions, by the id of their call
    for number, message in enumerate(messages):
        place = f"messages.{number}"
        _only(message, _KEYS[message["role"]], place)
        if message["role"] == "system":
            system += _parts(message.get("content"), place)
            continue
        parts = (
            [_result(message, called, place)] if message["role"] == "tool" else _parts(message.get("content"), place)
        )
        for call in message.get("tool_calls") or ():
            called[call["id"]] = call["function"]["name"]
            parts.append(_call(call, place))
        role = "model" if message["role"] == "assistant" else "user"
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": role, "parts": parts})
    if not contents:
        raise _no_word_for("messages", "a conversation needs a message of role user")
    return system, contents


_KEYS: Final = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}


def _parts(content: Any, place: str) -> list[dict[str, Any]]:
    if not content:
        return []
    if isinstance(content, str):
        return [{"text": content}]
    return [part for number, given in enumerate(content) for part in _part(given, f"{place}.content.{number}")]


def _part(part: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    kind = part["type"]
    _only(part, {"type", kind}, place)
    if kind == "text":
        return [{"text": part["text"]}]
    if kind == "image_url":
        return [_inline(_only(part["image_url"], {"url"}, f"{place}.image_url")["url"], place)]
    if kind == "file":
        file = _only(part["file"], {"filename", "file_data"}, f"{place}.file")
        named = [{"text": file["filename"]}] if file.get("filename") else []
        return [*named, _inline(file.get("file_data") or "", place)]
    raise _no_word_for(f"{place}.{kind}")


def _inline(url: str, place: str) -> dict[str, Any]:
    data = _DATA_URL.match(url)
    if data is None:
        raise _no_word_for(f"{place}, a URL", "give its data as data:<type>;base64,<data>")
    return {"inlineData": {"mimeType": data[1], "data": url[data.end() :]}}


def _call(call: Mapping[str, Any], place: str) -> dict[str, Any]:
    arguments = _object(call["function"]["arguments"] or "{}")
    if arguments is None:
        raise _no_word_for(f"{place}.tool_calls, arguments that are no JSON object")
    part: dict[str, Any] = {"functionCall": {"id": call["id"], "name": call["function"]["name"], "args": arguments}}
    signature = _signature(call)
    return part if signature is None else {**part, "thoughtSignature": signature}


def _signature(call: Mapping[str, Any]) -> Any:
    """What Gemini has given with the call, and wants back; where its own OpenAI-like API has it."""
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    return google.get("thought_signature") if isinstance(google, dict) else None


def _result(message: Mapping[str, Any], called: Mapping[str, str], place: str) -> dict[str, Any]:
    call_id = message["tool_call_id"]
    if call_id not in called:
        raise _no_word_for(f"{place}.tool_call_id, without a call of that id before it")
    parts = _parts(message.get("content"), place)
    if any(part.keys() != {"text"} for part in parts):
        raise _no_word_for(f"{place}.content, a result that is no text")
    text = "".join(part["text"] for part in parts)
    response = _object(text)
    if response is None:
        response = {"result": text}
    return {"functionResponse": {"id": call_id, "name": called[call_id], "response": response}}


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
