"""How long a provider asks us to wait."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfoNotFoundError

import pytest

from gateway.providers import hints

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("12", 12.0),
        (12, 12.0),
        ("0.5", 0.5),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 00:00:30 -0000", 30.0),
        ("Wed, 31 Dec 2025 23:59:00 GMT", None),
        ("0", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e300", None),
        ("9" * 5000, None),
        ("soon", None),
        ("", None),
        (None, None),
        (True, None),
        ([5], None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, wait_s):
    """And whatever is neither, or over, is no hint."""
    assert hints.longest(hints.header_waits({"retry-AFTER": value}, NOW)) == wait_s


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [(str(int(NOW * 1000) + 1500), 1.5), (int(NOW) + 60, None), (int(NOW * 1000) - 1, None), ("x", None)],
)
def test_x_ratelimit_reset_is_epoch_milliseconds(value, wait_s):
    """Epoch seconds there would be a moment in 1970: over."""
    assert hints.longest(hints.header_waits({"X-RateLimit-Reset": value}, NOW)) == wait_s


@pytest.mark.parametrize(
    ("moment", "wait_s"),
    [
        ("2026-01-01T00:01:00Z", 60.0),
        ("2026-01-01T02:01:00+02:00", 60.0),
        ("2026-01-01T00:01:00", 60.0),
        ("2026-01-01T00:01:00.500Z", 60.5),
        (NOW + 60, 60.0),
        ((NOW + 60) * 1000, 60.0),
        ("2025-01-01T00:00:00Z", None),
        ("tomorrow", None),
        (None, None),
        ({}, None),
    ],
)
def test_a_moment_comes_in_several_forms(moment, wait_s):
    """`resets_at` is not specified: a date, or seconds, or milliseconds."""
    assert hints.until(moment, NOW) == wait_s


def test_the_longest_wait_counts():
    """Waits that were not stated do not."""
    assert hints.longest([None, 3.0, 7.0]) == 7.0
    assert hints.longest([None]) is None


@pytest.mark.parametrize(
    ("moment", "hours"),
    [
        ("2026-01-01T00:00", 8),
        ("2026-01-01T07:59", 1 / 60),
        ("2026-07-01T00:00", 7),
        ("2026-07-01T07:00", 24),
        ("2026-03-08T08:00", 23),  # the day on which summer time begins
        ("2026-11-01T07:00", 25),  # and the one on which it ends
    ],
)
def test_google_counts_days_from_midnight_to_midnight_pacific_time(moment, hours):
    """Summer time included."""
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()

    assert hints.until_midnight_pacific(now) == pytest.approx(hours * 3600)


def test_a_machine_without_time_zones_uses_winter_time(monkeypatch):
    """At most an hour off, and never an error."""

    def missing(_: str) -> None:
        raise ZoneInfoNotFoundError

    monkeypatch.setattr(hints, "ZoneInfo", missing)

    assert hints.until_midnight_pacific(NOW) == 8 * 3600
