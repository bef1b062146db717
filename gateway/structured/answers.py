"""What `response_format` asks of an answer. No text of this module holds a part of an answer or of a schema."""

import json
from collections.abc import Mapping
from typing import Any, Final, Never

from gateway.errors import RequestRejected, UpstreamFailed
from gateway.messages import Completion, Request
from gateway.structured.schema import Schema, TooCostly, UnusableSchema

#: A larger answer is not checked: no model writes one, and each step of the check may look at all of it.
MAX_ANSWER_CHARS: Final = 1024 * 1024

_PLACE: Final = "parameters.response_format"


def admit(request: Request) -> None:
    """Raises RequestRejected where answers could not be checked against the schema of the request."""
    _schema(request.parameters.response_format)


def hold(request: Request, completion: Completion) -> None:
    """Raises UpstreamFailed where the answer is not what the request's `response_format` asks for.

    An answer that calls tools is none yet. Raises RequestRejected for a schema that takes too long to check.
    """
    wanted = request.parameters.response_format
    if wanted is None or wanted["type"] == "text" or completion.tool_calls:
        return
    answer = _parsed(completion.content)
    schema = _schema(wanted)
    if schema is None:
        if not isinstance(answer, dict):
            raise _failed("is no JSON object")
        return
    try:
        keyword = schema.first_fault(answer)
    except TooCostly:
        raise _rejected("it takes too long to check an answer against the schema") from None
    if keyword is not None:
        raise _failed(f"does not hold the JSON schema of response_format (at {keyword!r})")


def _schema(wanted: Mapping[str, Any] | None) -> Schema | None:
    if wanted is None or wanted["type"] != "json_schema":
        return None
    try:
        return Schema.of(wanted["json_schema"]["schema"])
    except UnusableSchema as error:
        raise _rejected(str(error)) from None


def _parsed(content: str) -> Any:
    if len(content) > MAX_ANSWER_CHARS:
        raise _failed(f"has more than {MAX_ANSWER_CHARS} characters")
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise _failed("is no JSON, which response_format asks for") from None


def _no_number(_constant: str) -> Never:
    raise ValueError("no JSON")


def _failed(what: str) -> UpstreamFailed:
    return UpstreamFailed(f"The model's answer {what}", reason="answer_off_format")


def _rejected(why: str) -> RequestRejected:
    return RequestRejected(f"{_PLACE}: {why}", reason="unusable_schema")
