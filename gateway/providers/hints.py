"""How long a provider asks us to wait, in whichever of its forms: pure functions from values to seconds.

Every function returns the seconds from `now` (epoch seconds) or None: a wait that is over, negative, unreadable or no
length of time at all is no hint.
"""

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.utils import parsedate_to_datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.providers.values import number

#: Beyond ten years a number is something else than a wait.
_LONGEST_S: Final = 10 * 365 * 86_400.0
#: From here on a number is a moment: epoch seconds have been above it since 2001, and no wait is of 31 years.
_FIRST_MOMENT: Final = 1e9
#: Epoch seconds reach this in the year 5138, epoch milliseconds did in 1973.
_FIRST_MILLISECONDS: Final = 1e11

#: Headers with a wait or the moment when it ends, and the unit of a bare number in them. `Retry-After` and OpenRouter's
#: `X-RateLimit-Reset` (milliseconds of the epoch, by its documentation); the others are of providers behind it, whose
#: headers it mirrors: OpenAI, Azure, Anthropic, the draft of the IETF.
_HEADERS: Final[Mapping[str, float]] = {
    "retry-after": 1.0,
    "retry-after-ms": 0.001,
    "x-ratelimit-reset": 1.0,
    "x-ratelimit-reset-after": 1.0,
    "ratelimit-reset": 1.0,
}
#: These tell when a budget is full again, so they say something only of one that is empty: OpenAI, Groq, Anthropic.
_BUDGETS: Final = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
)

_UNITS_S: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
#: `838ms`, `47s`, `6m0s`, `2h7m23s`, `5 minutes`, `2 hours 3 min`.
_STEP: Final = (
    r"(\d{1,9}(?:\.\d{1,12})?)\s?"
    r"(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])(?:\s?and\s|,?\s)?"
)
_DURATION: Final = re.compile(rf"(?:{_STEP}){{1,5}}")
_ONE_STEP: Final = re.compile(_STEP)
#: In the words of a message: "Please try again in 6m0s", "retry after 20 seconds", "resets in 5 minutes".
_IN_WORDS: Final = re.compile(
    rf"(?:try again|retry|retrying|resets?|wait|available)\s(?:\w+\s)?(?:in\s|after\s|for\s)?"
    rf"(?:about\s|~)?((?:{_STEP}){{1,5}})"
)


def longest(waits: Iterable[float | None]) -> float | None:
    """The largest of the stated waits, None when none is stated."""
    return max((wait for wait in waits if wait is not None), default=None)


def header_waits(headers: Mapping[str, Any], now: float) -> list[float | None]:
    """The waits that the headers state, each in whichever form; mirrored ones may be lists of values."""
    lower = {name.lower(): _joined(value) if isinstance(value, list) else value for name, value in headers.items()}
    waits = [stated(lower.get(name), now, unit_s=unit_s) for name, unit_s in _HEADERS.items()]
    return waits + [stated(lower.get(reset), now) for left, reset in _BUDGETS if number(lower.get(left)) == 0]


def _joined(values: list[Any]) -> str:
    """As HTTP joins a header that came several times."""
    return ", ".join(str(value) for value in values if isinstance(value, str | int | float))


def stated(value: object, now: float, *, unit_s: float = 1.0) -> float | None:
    """A wait or the moment when it ends; several, joined by commas, are the longest of them.

    A number (of `unit_s` seconds, or of the epoch in seconds or milliseconds), `6m0s`, ISO 8601, an HTTP date.
    """
    whole = _one(value, now, unit_s)
    if whole is None and isinstance(value, str) and "," in value:  # a header that came twice: `300, 300`
        return longest(_one(part, now, unit_s) for part in value.split(","))
    return whole


def in_words(text: str) -> float | None:
    """The wait that a message asks for in words."""
    return longest(_duration(found.group(1)) for found in _IN_WORDS.finditer(text.lower()))


def until_midnight_pacific(now: float) -> float:
    """The wait until Google's daily quotas begin anew."""
    zone = _pacific()
    tomorrow = datetime.fromtimestamp(now, zone).date() + timedelta(days=1)
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone).timestamp() - now


def _pacific() -> tzinfo:
    try:
        return ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:  # a machine without time zone data: right in winter, an hour off in summer
        return timezone(timedelta(hours=-8))


def _one(value: object, now: float, unit_s: float) -> float | None:
    amount = number(value)
    if amount is not None:
        return _plausible(_from_number(amount, now, unit_s))
    if not isinstance(value, str):
        return None
    text = value.strip()
    return _duration(text.lower()) or _until(_date(text), now)


def _from_number(amount: float, now: float, unit_s: float) -> float:
    if amount >= _FIRST_MILLISECONDS:
        return amount / 1000 - now
    return amount - now if amount >= _FIRST_MOMENT else amount * unit_s


def _duration(text: str) -> float | None:
    if not _DURATION.fullmatch(text):
        return None
    return _plausible(sum(float(amount) * _UNITS_S[_unit(word)] for amount, word in _ONE_STEP.findall(text)))


def _unit(word: str) -> str:
    return "ms" if word.startswith(("ms", "milli")) else word[0]


def _date(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None


def _until(moment: datetime | None, now: float) -> float | None:
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return _plausible(aware.timestamp() - now)


def _plausible(wait_s: float | None) -> float | None:
    return wait_s if wait_s is not None and math.isfinite(wait_s) and 0 < wait_s <= _LONGEST_S else None
