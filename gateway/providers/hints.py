"""How long a provider asks us to wait, in whichever of its forms: pure functions from values to seconds.

Every function returns the seconds from `now` (epoch seconds) or None: a wait that is over, negative, unreadable or no
length of time at all is no hint.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

#: Beyond ten years a number is something else than a wait.
_LONGEST_S = 10 * 365 * 86_400.0
#: Epoch seconds reach this in the year 5138, epoch milliseconds did in 1973.
_FIRST_MILLISECONDS = 1e11


def longest(waits: Iterable[float | None]) -> float | None:
    """The largest of the stated waits, None when none is stated."""
    return max((wait for wait in waits if wait is not None), default=None)


def header_waits(headers: Mapping[str, Any], now: float) -> list[float | None]:
    """The waits in `Retry-After` (seconds or an HTTP date) and `X-RateLimit-Reset` (epoch milliseconds)."""
    lower = {name.lower(): value for name, value in headers.items()}
    return [
        seconds(lower.get("retry-after")) or _until(_http_date(lower.get("retry-after")), now),
        _until_epoch(_number(lower.get("x-ratelimit-reset")), now, unit_s=0.001),
    ]


def until(moment: object, now: float) -> float | None:
    """The wait until `moment`: ISO 8601 (UTC where no offset is given), or epoch seconds or milliseconds."""
    epoch = _number(moment)
    if epoch is not None:
        return _until_epoch(epoch, now, unit_s=0.001 if epoch >= _FIRST_MILLISECONDS else 1.0)
    try:
        return _until(datetime.fromisoformat(str(moment)), now)
    except ValueError:
        return None


def seconds(value: object) -> float | None:
    """A length of time in seconds: `12`, `"12"`, `"12.5"`, `"12.5s"`."""
    return _plausible(_number(value.removesuffix("s") if isinstance(value, str) else value))


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


def _http_date(value: object) -> datetime | None:
    try:
        return parsedate_to_datetime(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _until(moment: datetime | None, now: float) -> float | None:
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return _plausible(aware.timestamp() - now)


def _until_epoch(epoch: float | None, now: float, *, unit_s: float) -> float | None:
    return None if epoch is None else _plausible(epoch * unit_s - now)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _plausible(wait_s: float | None) -> float | None:
    return wait_s if wait_s is not None and math.isfinite(wait_s) and 0 < wait_s <= _LONGEST_S else None
