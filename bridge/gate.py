"""From untrusted bytes to a request: pure, bounded, and silent about what the bytes say."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from bridge.spelling import unknown_parameters
from gateway.errors import ErrorCode, InvalidMessage
from gateway.messages import Request

#: Larger bodies are refused unread: a prompt of a million tokens has about 4 MiB, RabbitMQ 4 refuses over 16 MiB.
MAX_BODY_BYTES = 8 * 1024 * 1024

#: Deeper nesting is refused: it is an attack on a parser further down, not metadata.
MAX_DEPTH = 32

#: Larger integers are refused: JSON has no limit, most readers of `metadata` have this one.
MAX_INTEGER_BITS = 64

#: How many faults an error text names.
MAX_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Sender:
    """What AMQP properties say about who asks; each stands in for a field that the body does not have."""

    request_id: str | None = None
    reply_to: str | None = None


def admit(
    body: bytes,
    sender: Sender,
    *,
    default_callback: str,
    refusal: Callable[[str], str | None],
    any_parameters: bool = False,
) -> Request:
    """The request in `body`.

    `refusal` says why a callback queue may not be used, None when it may. With `any_parameters` those that are unknown
    are left out, else they are refused: what is asked for and not done would be paid for all the same. Raises
    InvalidMessage, which carries the request id and the callback queue where they could be read and may be used, so
    that the sender can be answered.
    """
    if len(body) > MAX_BODY_BYTES:
        raise _invalid(f"the message is larger than {MAX_BODY_BYTES} bytes", sender, refusal)
    fields = _fields(body, sender, refusal)
    request_id = _text(fields.get("request_id")) or sender.request_id
    named = fields.get("callback_queue") or sender.reply_to
    callback = _text(named) if named is not None else default_callback
    if callback is None:
        raise InvalidMessage("callback_queue: must be the name of a queue", request_id=request_id)
    if (why := refusal(callback)) is not None:
        raise InvalidMessage(f"callback_queue: {why}", code=ErrorCode.CALLBACK_REFUSED, request_id=request_id)
    # Without an id nobody could tell whose error lies in the shared response queue.
    answerable = callback if named is not None or request_id is not None else None
    if not any_parameters and (unknown := unknown_parameters(fields.get("parameters"), most=MAX_FAULTS)):
        raise InvalidMessage("; ".join(unknown), request_id=request_id, callback_queue=answerable)
    try:
        return Request.model_validate({**fields, "request_id": request_id, "callback_queue": callback}, strict=True)
    except ValidationError as error:
        raise InvalidMessage(_faults(error), request_id=request_id, callback_queue=answerable) from None


def _fields(body: bytes, sender: Sender, refusal: Callable[[str], str | None]) -> Mapping[str, Any]:
    try:
        parsed = from_json(body, allow_inf_nan=False)
    except ValueError:  # its text quotes nothing of the body, but says no more than this either
        raise _invalid("the message is not valid JSON", sender, refusal) from None
    if not isinstance(parsed, dict):
        raise _invalid("the message is not a JSON object", sender, refusal)
    if (why := _beyond_limits(parsed, MAX_DEPTH)) is not None:
        raise _invalid(why, sender, refusal)
    return {name: value for name, value in parsed.items() if value is not None}


def _beyond_limits(value: object, levels: int) -> str | None:
    """Why a later parser would choke on this value, None when it would not."""
    match value:
        case int() if value.bit_length() > MAX_INTEGER_BITS:
            return f"the message has a number of more than {MAX_INTEGER_BITS} bits"
        case float() if not math.isfinite(value):
            return "the message has a number that is not finite"
        case dict() | list() if levels == 0:
            return f"the message is nested deeper than {MAX_DEPTH} levels"
        case dict():
            return _first(_beyond_limits(v, levels - 1) for v in value.values())
        case list():
            return _first(_beyond_limits(v, levels - 1) for v in value)
    return None


def _first(faults: Iterable[str | None]) -> str | None:
    return next((fault for fault in faults if fault is not None), None)


def _invalid(text: str, sender: Sender, refusal: Callable[[str], str | None]) -> InvalidMessage:
    """An error for a body that says nothing: only AMQP's own `reply_to` can name somebody to answer."""
    usable = sender.reply_to if sender.reply_to is not None and refusal(sender.reply_to) is None else None
    return InvalidMessage(text, request_id=sender.request_id, callback_queue=usable)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _faults(error: ValidationError) -> str:
    """`field: what is wrong` for each fault; never a value, which may be the prompt."""
    faults = [f"{'.'.join(map(str, e['loc'])) or 'message'}: {e['msg']}" for e in error.errors(include_input=False)]
    shown = "; ".join(faults[:MAX_FAULTS])
    return shown if len(faults) <= MAX_FAULTS else f"{shown}; and {len(faults) - MAX_FAULTS} more"
