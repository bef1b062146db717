"""Values out of somebody else's JSON: each function takes anything, and gives what it promises."""

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from gateway.reporting.redaction import escape_controls

#: More tokens than any call has, and more dollars than any costs: beyond it a number means something else, and sums of
#: it would not fit into 64 bits.
MOST_TOKENS: Final = 10**9
MOST_DOLLARS: Final = 10_000.0

#: Events of a stream, say: each takes some ten microseconds.
_A_TURN: Final = 200

T = TypeVar("T")

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def in_turns(many: Iterable[T]) -> Iterator[T]:
    """The same; where they are many others get a turn now and then, for greenlets share one thread."""
    for number, one in enumerate(many, 1):
        yield one
        if number % _A_TURN == 0:
            time.sleep(0)


def mapping(value: object) -> Mapping[str, Any]:
    """`value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """`value` if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def string(value: object) -> str:
    """`value` if it is a string, else an empty one. A lone surrogate, which no encoder takes, becomes U+FFFD."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else _LONE_SURROGATES.sub("\ufffd", value)


def name(value: object) -> str:
    """A short name or identifier, safe to show."""
    return escape_controls(string(value))


def first_name(objects: Iterable[Mapping[str, Any]], field: str) -> str:
    """The first name in this field of the objects; empty where none has one."""
    return next((found for one in objects if (found := name(one.get(field)))), "")


def number(value: object) -> float | None:
    """A finite number, or a text that is one; None for whatever is not."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def count(value: object) -> int | None:
    """A number of tokens: `12`, `12.0` or `"12"`; None for whatever is not one."""
    found = number(value)
    return int(found) if found is not None and 0 <= found <= MOST_TOKENS and found.is_integer() else None


def amount(value: object) -> float | None:
    """What a call costs, in dollars; None for whatever is no such sum."""
    found = number(value)
    return found if found is not None and 0 <= found <= MOST_DOLLARS else None


def as_json(value: object) -> str:
    """`value`, which was read from JSON, as JSON again; empty where it is too deep for that."""
    try:
        return json.dumps(value)
    except RecursionError:
        return ""
