"""Kinds of values that fields of messages have."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, StringConstraints


def fits_amqp(value: str) -> bool:
    """Whether it is one of AMQP's short strings, which carry ids and queue names and end at 255 bytes."""
    return len(value.encode()) <= 255  # noqa: PLR2004 - the limit of the protocol


def _short(value: str) -> str:
    if not fits_amqp(value):
        raise ValueError("longer than 255 bytes")
    return value


def _whole(value: Any) -> Any:
    """JSON has one kind of numbers: 2048.0 is the integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _instant(value: str) -> str:
    """A time that everybody reads as the same; its text stays as it is."""
    try:
        has_zone = datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        has_zone = False
    if not has_zone:
        raise ValueError("not a time such as 2026-01-01T00:00:00Z: ISO 8601 with a date, a time, and Z or an offset")
    return value


ShortString = Annotated[str, StringConstraints(min_length=1), AfterValidator(_short)]
Whole = Annotated[int, BeforeValidator(_whole)]
Instant = Annotated[str, AfterValidator(_instant)]
