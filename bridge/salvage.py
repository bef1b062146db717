"""Who asks, read from a body that is no request: so that whoever sent it is told."""

import json
import re
from collections.abc import Mapping
from typing import Any

#: Where names are looked for, in bytes from both ends: they stand before or behind a prompt that is long.
MARGIN = 64 * 1024

#: A field and its value, in quotes of one kind; Python's own notation has the other one. A quote behind a backslash is
#: inside of a text, and that text may be anybody's.
_FIELD = r"(?<!\\)%(quote)s%(name)s%(quote)s\s*:\s*(%(value)s)"
_TEXT, _NUMBER = r"%(quote)s(?:[^\\%(quote)s]|\\.){0,1024}%(quote)s", r"\d{1,20}(?![\d.eE])"

#: What the value of a field may be.
_VALUES = {"request_id": f"{_TEXT}|{_NUMBER}", "callback_queue": _TEXT}


def names_in(body: bytes) -> Mapping[str, Any]:
    """`request_id` and `callback_queue` as far as they are in the body, each only if nothing there contradicts it."""
    text = (body if len(body) <= 2 * MARGIN else body[:MARGIN] + b"\n" + body[-MARGIN:]).decode(errors="replace")
    text = _unwrapped(text)
    found = {name: _only_value(name, text) for name in _VALUES}
    return {name: value for name, value in found.items() if value is not None}


def _unwrapped(text: str) -> str:
    """What is inside, where the whole is one JSON text: encoded twice."""
    if text[:1] != '"':
        return text
    try:
        inner = json.loads(text)
    except ValueError:
        return text.replace('\\"', '"')  # and cut
    return inner if isinstance(inner, str) else text


def _only_value(name: str, text: str) -> str | None:
    for quote in ('"', "'"):
        value = _VALUES[name] % {"quote": quote}
        values = set(re.findall(_FIELD % {"name": name, "quote": quote, "value": value}, text))
        if values:
            return _plain(values.pop(), quote) if len(values) == 1 else None
    return None


def _plain(value: str, quote: str) -> str | None:
    """A value as it is meant, without its quotes and escapes."""
    if value[:1] != quote:
        return value
    try:
        text = str(json.loads(f'"{value[1:-1]}"')).strip()
        text.encode()
    except ValueError:  # also where half a character cannot be encoded
        return None
    return text or None
