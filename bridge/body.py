"""From untrusted bytes to the fields of a request: bounded, as lenient as JSON, and silent about what the bytes say."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import from_json

from bridge.encodings import Unreadable, as_utf8, strange
from bridge.salvage import names_in

#: Larger bodies are refused unread: a prompt of a million tokens has about 4 MiB, RabbitMQ 4 refuses over 16 MiB.
MAX_BODY_BYTES = 8 * 1024 * 1024

#: Deeper nesting is refused: it is an attack on a parser further down, not metadata.
MAX_DEPTH = 32

#: More values are refused: a small body, decompressed, has millions of them, and each costs time and memory.
MOST_VALUES = 100_000

#: Larger integers are refused: JSON has no limit, most readers of `metadata` have this one.
MAX_INTEGER_BITS = 64

#: What a body is that is JSON and no object, and what its producer may have done.
_NO_OBJECT: dict[type, str] = {
    list: "the message is an array and not a JSON object: publish one message a request",
    str: "the message is a text and not a JSON object: it may have been encoded twice",
}


class NoRequest(ValueError):
    """The text says why, `names` is what could be read of who asks: `request_id` and `callback_queue`."""

    def __init__(self, text: str, names: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.names = names


def fields_of(body: bytes, *, content_type: str | None, content_encoding: str | None) -> Mapping[str, Any]:
    """The fields of the object in the body that have a value. Raises NoRequest."""
    try:
        text = as_utf8(body, content_type=content_type, content_encoding=content_encoding, limit=MAX_BODY_BYTES)
    except Unreadable as why:
        raise NoRequest(str(why), names_in(body)) from None
    try:
        parsed = from_json(text, allow_inf_nan=False)
    except ValueError:  # its text quotes nothing of the body, but says no more than this either
        raise NoRequest(_not_json(strange(content_type, content_encoding)), names_in(text)) from None
    if not isinstance(parsed, dict):
        raise NoRequest(_NO_OBJECT.get(type(parsed), "the message is not a JSON object"), names_in(text))
    fields = _as_meant(parsed)
    if (why_not := _beyond_limits(parsed)) is not None:
        raise NoRequest(why_not, fields)
    return fields


def _not_json(encoding: str | None) -> str:
    return "the message is not valid JSON" if encoding is None else f"content_encoding {encoding!a} is not supported"


def _as_meant(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Null is a field that is not there, and so is what other languages write for it."""
    meant = {name: _MEANT[name](value) if name in _MEANT else value for name, value in fields.items()}
    return {name: value for name, value in meant.items() if value is not None}


def _unless_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _as_object(value: Any) -> Any:
    return {} if value == [] else value  # PHP writes an empty object as an empty list


def _as_id(value: Any) -> Any:
    """A whole number is an id of so many digits: a database's, and JSON has one kind of numbers."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= MAX_INTEGER_BITS
    return str(value) if is_number else _unless_blank(value)


#: What the value of a field means, where it may be written in more than one way.
_MEANT: dict[str, Callable[[Any], Any]] = {
    "request_id": _as_id,
    "model": _unless_blank,
    "callback_queue": _unless_blank,
    "metadata": _as_object,
    "parameters": _as_object,
}


def _beyond_limits(parsed: dict[str, Any]) -> str | None:
    """Why a later parser would choke on this, None when it would not. Level by level: what is deep needs no stack."""
    level: list[Any] = [parsed]
    seen = 0
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for container in level:
            seen += len(container)
            if seen > MOST_VALUES:
                return f"the message has more than {MOST_VALUES} values"
            for value in container.values() if isinstance(container, dict) else container:
                if isinstance(value, dict | list):
                    inner.append(value)
                elif (why := _no_number(value)) is not None:
                    return why
        if not inner:
            return None
        level = inner
    return f"the message is nested deeper than {MAX_DEPTH} levels"


def _no_number(value: object) -> str | None:
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        return f"the message has a number of more than {MAX_INTEGER_BITS} bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "the message has a number that is not finite"
    return None
