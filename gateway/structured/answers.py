"""What `response_format` asks of an answer. No text of this module holds a part of an answer or of a schema."""

import json
from collections.abc import Mapping
from typing import Any, Final, Never

from gateway.errors import ErrorCode, RequestRejected, UpstreamFailed
from gateway.messages import Completion, Request
from gateway.structured.schema import Schema, TooCostly, UnusableSchema

#: A larger answer is not checked: no model writes one, and each step of the check may look at all of it.
MAX_ANSWER_CHARS: Final = 1024 * 1024

#: `Completion.finish_reason` of an answer that the cap, or the model's window, has ended.
_CUT: Final = "length"

_PLACE: Final = "parameters.response_format"


def admit(request: Request) -> None:
    """Raises RequestRejected where answers could not be checked against the schema of the request."""
    _schema(request.parameters.response_format)


def hold(request: Request, completion: Completion) -> None:
    """Raises UpstreamFailed where the answer is not what the request's `response_format` asks for.

    An answer that calls tools is none yet. Raises RequestRejected for a schema that takes too long to check, and for an
    answer that was cut at the cap: the next one would be cut there, too.
    """
    wanted = request.parameters.response_format
    if wanted is None or wanted["type"] == "text" or completion.tool_calls:
        return
    fault = _fault(completion.content, _schema(wanted))
    if fault is not None and completion.finish_reason == _CUT:
        text = f"The model's answer was cut at max_output_tokens, and {fault}"
        raise RequestRejected(text, reason="output_exhausted", code=ErrorCode.OUTPUT_EXHAUSTED)
    if fault is not None:
        raise UpstreamFailed(f"The model's answer {fault}", reason="answer_off_format")


def _schema(wanted: Mapping[str, Any] | None) -> Schema | None:
    if wanted is None or wanted["type"] != "json_schema":
        return None
    try:
        return Schema.of(wanted["json_schema"]["schema"])
    except UnusableSchema as error:
        raise _rejected(str(error)) from None


def _fault(content: str, schema: Schema | None) -> str | None:
    """Why it is not what was asked for, None when it is; without a schema that is any JSON object."""
    if len(content) > MAX_ANSWER_CHARS:
        return f"has more than {MAX_ANSWER_CHARS} characters"
    try:
        answer = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return "is no JSON, which response_format asks for"
    if schema is None:
        return None if isinstance(answer, dict) else "is no JSON object"
    try:
        keyword = schema.first_fault(answer)
    except TooCostly:
        raise _rejected("it takes too long to check an answer against the schema") from None
    return f"does not hold the JSON schema of response_format (at {keyword!r})" if keyword is not None else None


def _no_number(_constant: str) -> Never:
    raise ValueError("no JSON")


def _rejected(why: str) -> RequestRejected:
    return RequestRejected(f"{_PLACE}: {why}", reason="unusable_schema")
