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
        ([5], 5.0),
        (["5", "30"], 30.0),
        ([None, {}, [[]]], None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, wait_s):
    """And whatever is neither, or over, is no hint."""
    assert hints.longest(hints.header_waits({"retry-AFTER": value}, NOW)) == wait_s


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (str(int(NOW * 1000) + 1500), 1.5),
        (int(NOW) + 300, 300.0),
        ("300", 300.0),
        ("2026-01-01T00:05:00Z", 300.0),
        ("6m0s", 360.0),
        (int(NOW * 1000) - 1, None),
        (int(NOW) - 1, None),
        ("x", None),
    ],
)
def test_x_ratelimit_reset_is_a_moment_or_a_wait(value, wait_s):
    """By OpenRouter's documentation epoch milliseconds; its providers have every other form."""
    assert hints.longest(hints.header_waits({"X-RateLimit-Reset": value}, NOW)) == wait_s


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after-ms": "300000"}, 300.0),
        ({"retry-after-ms": "838.5"}, 0.8385),
        ({"Retry-After": "300, 300"}, 300.0),
        ({"Retry-After": "30, 300"}, 300.0),
        ({"Retry-After": "Thu, 01 Jan 2026 00:00:30 GMT, Thu, 01 Jan 2026 00:00:30 GMT"}, 30.0),
        ({"Retry-After": "1", "retry-after-ms": "1500"}, 1.5),
        ({"RateLimit-Reset": "50"}, 50.0),
        ({"X-RateLimit-Reset-After": "2.5"}, 2.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2m59.56s"}, 179.56),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "2m59.56s"}, None),
        ({"x-ratelimit-reset-tokens": "2m59.56s"}, None),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-01-01T00:05:00Z",
            },
            300.0,
        ),
    ],
)
def test_headers_of_providers_behind_the_gateway_are_read(headers, wait_s):
    """Azure, OpenAI, Groq, Anthropic, the draft of the IETF; a budget that is not empty asks for no wait."""
    assert hints.longest(hints.header_waits(headers, NOW)) == pytest.approx(wait_s)


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
    assert hints.stated(moment, NOW) == wait_s


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("838ms", 0.838),
        ("47s", 47.0),
        ("6m0s", 360.0),
        ("2h7m23s", 7643.0),
        ("1d", 86_400.0),
        ("5 minutes", 300.0),
        ("2 hours and 5 minutes", 7500.0),
        ("-3s", None),
        ("5 months", None),
        ("s", None),
        ("1s" * 50_000, None),
    ],
)
def test_a_length_of_time_may_have_units(text, wait_s):
    """Go's form, and words."""
    assert hints.stated(text, NOW) == wait_s


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("Rate limit reached for model `x`: Limit 7000. Please try again in 50.597142857s. Visit", 50.597142857),
        ("Please try again in 2h7m23s.", 7643.0),
        ("Try again in 838ms", 0.838),
        ("Please retry in 47.838249s.", 47.838249),
        ("please retry after 25s, resets at Wed Oct 23 2024", 25.0),
        ("Try again in about 5 minutes", 300.0),
        ("Rate limit resets in 12 seconds", 12.0),
        ("limited to 5 s of audio", None),
        ("retry " + "1" * 100_000, None),
        ("", None),
    ],
)
def test_a_wait_may_be_in_words_only(text, wait_s):
    """Groq, Google, Firecrawl: as their users have quoted them."""
    assert hints.in_words(text) == wait_s


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
