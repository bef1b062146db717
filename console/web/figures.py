"""The last hour and day in numbers, and the last hour minute by minute."""

from collections.abc import Sequence
from dataclasses import dataclass

from console.figures import Summary
from console.screen import dollars, number, span, told
from console.state import State

MINUTES = 60


@dataclass(frozen=True)
class Column:
    """A span of time: its figures under their names."""

    name: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Pace:
    """Answered requests of each minute, the oldest first, as shares of the most; in words."""

    shares: Sequence[float]
    most: int
    told: str


@dataclass(frozen=True)
class Failure:
    """An error code: how often in the last hour and day; `share` of the most frequent one of the day, 0 to 100."""

    code: str
    hour: int
    day: int
    share: float


def columns(state: State) -> list[Column]:
    return [_column("Last hour", state.hour, 60), _column("Last day", state.day, 24 * 60)]


def _column(name: str, one: Summary, minutes: int) -> Column:
    calls, answered = one.calls, one.outcomes.get("answered", 0)
    within = [span(end) if (end := calls.within_s(share)) is not None else "–" for share in (0.5, 0.95)]
    rows = (
        ("Requests answered", number(answered)),
        ("A minute, on average", f"{answered / minutes:,.1f}"),
        ("Calls", number(calls.calls)),
        ("Calls that failed", number(calls.failed)),
        ("Half of the calls within", within[0]),
        ("95 % of the calls within", within[1]),
        ("Tokens in", number(calls.prompt_tokens)),
        ("Tokens out", number(calls.completion_tokens)),
        ("Cost", dollars(calls.cost)),
    )
    return Column(name, rows)


def outcomes(state: State) -> list[tuple[str, str]]:
    return [(name, told(one.outcomes)) for name, one in (("hour", state.hour), ("day", state.day)) if one.outcomes]


def pace(state: State, now: float) -> Pace:
    """Of the last sixty whole minutes and the one that runs."""
    this = int(now) // 60 * 60
    counts = [state.hour.answered.get(this - 60 * back, 0) for back in range(MINUTES, -1, -1)]
    most = max(counts)
    text = f"Answered a minute: {number(counts[-2])} in the last whole minute, {number(most)} at most in the last hour."
    return Pace([count / most if most else 0.0 for count in counts], most, text)


def failures(state: State) -> list[Failure]:
    """The most frequent one of the day first."""
    codes = sorted({*state.hour.errors, *state.day.errors})
    counts = [(code, state.hour.errors.get(code, 0), state.day.errors.get(code, 0)) for code in codes]
    most = max((max(hour, day) for _, hour, day in counts), default=1)
    found = [Failure(code, hour, day, round(100 * max(hour, day) / most, 1)) for code, hour, day in counts]
    return sorted(found, key=lambda one: (-one.day, -one.hour, one.code))
