"""Keys as rings: how much of its window each has used, and of one that rests why and until when."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from console.key_doctor import Finding
from console.screen import number, span

#: How many keys are drawn at once, and how many where somebody asks for more; of the others there is a count.
MOST, MOST_MORE = 24, 96

#: The states in the order in which they matter, with the class that draws each.
ORDER = {"refused": "bad", "invalid": "bad", "limited": "wait", "window full": "full", "ready": "ready"}


@dataclass(frozen=True)
class Ring:
    """One key; `share` is the used part of its window, 0 to 100. `back` and `until` where it is not ready."""

    key: str
    label: str | None
    state: str
    tone: str
    share: float
    used: str
    reason: str | None
    back: str | None
    until: str | None


@dataclass(frozen=True)
class Rings:
    """Those that matter, more of them, and how many others there are, in words."""

    shown: Sequence[Ring]
    more: Sequence[Ring]
    others: str | None
    states: Sequence[tuple[str, str, int]]


def rings(keys: Sequence[Finding], now: float) -> Rings:
    """Those that rest come first, the longest rest at the end of them, then the busy ones."""
    ranks = {state: rank for rank, state in enumerate(ORDER)}
    ordered = sorted(keys, key=lambda key: (ranks.get(key.state, -1), key.back_in_s, -key.used))
    counts = Counter(key.state for key in keys)
    busy = sum(not _is_idle(key) for key in keys)
    drawn = len(keys) if len(keys) <= MOST else min(busy, MOST_MORE)
    return Rings(
        shown=[_ring(key, now) for key in ordered[: min(drawn, MOST)]],
        more=[_ring(key, now) for key in ordered[MOST:drawn]],
        others=_others(ordered[drawn:]),
        states=[(state, _tone(state), count) for state, count in sorted(counts.items(), key=lambda one: one[1])],
    )


def _others(keys: Sequence[Finding]) -> str | None:
    if not keys:
        return None
    if all(map(_is_idle, keys)):
        return f"{number(len(keys))} more, all ready and not used in their window"
    counts = Counter(key.state for key in keys)
    return f"{number(len(keys))} more: " + ", ".join(f"{number(n)} {state}" for state, n in counts.items())


def _tone(state: str) -> str:
    """One that is not known here is no good news."""
    return ORDER.get(state, "wait")


def _is_idle(key: Finding) -> bool:
    return key.state == "ready" and not key.used


def _ring(key: Finding, now: float) -> Ring:
    waits = key.back_in_s > 0
    return Ring(
        key=key.key,
        label=key.label,
        state=key.state,
        tone=_tone(key.state),
        share=round(100 * min(1.0, key.used / key.limit), 1),
        used=f"{key.used} of {key.limit}",
        reason=key.reason,
        back=span(key.back_in_s) if waits else None,
        until=clock(now + key.back_in_s, now) if waits else None,
    )


def clock(at: float, now: float) -> str:
    """A time of day, UTC; with the date when it is not within a day."""
    form = "%H:%M:%S" if abs(at - now) < 86_400 else "%d %b %H:%M"  # noqa: PLR2004 - a day
    return datetime.fromtimestamp(at, UTC).strftime(form) + " UTC"
