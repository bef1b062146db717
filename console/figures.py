"""Sums of what the workers have reported, for screens."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from gateway.usage.store import (
    BUCKETS_S,
    CALLS,
    COMPLETION_TOKENS,
    COST_NANO,
    ERROR,
    FAILED,
    MODEL,
    NANO,
    OUTCOME,
    PROMPT_TOKENS,
    REQUESTS,
    SPANS,
    Cell,
    Span,
    UsageStore,
    bucket,
)


@dataclass(frozen=True)
class Figures:
    """What has happened under one name, or in all. Cost in US dollars; latencies count how many fell into a bucket."""

    requests: int = 0
    calls: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    latencies: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: Counter[str]) -> "Figures":
        return cls(
            requests=facts[REQUESTS],
            calls=facts[CALLS],
            failed=facts[FAILED],
            prompt_tokens=facts[PROMPT_TOKENS],
            completion_tokens=facts[COMPLETION_TOKENS],
            cost=facts[COST_NANO] / NANO,
            latencies={fact: value for fact, value in facts.items() if fact.startswith("le_")},
        )

    def within_s(self, share: float) -> float | None:
        """Within how many seconds this share came, to the next bucket; None when nothing did, or longer than all."""
        needed = share * sum(self.latencies.values())
        reached = 0
        for end in BUCKETS_S if needed else ():
            reached += self.latencies.get(bucket(end), 0)
            if reached >= needed:
                return end
        return None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Summary:
    """A time: its calls (tokens, cost, how long they took), how requests came out, and which errors there were.

    `answered` has the requests that were answered in a piece of it, by its beginning in epoch seconds.
    """

    calls: Figures
    outcomes: dict[str, int]
    errors: dict[str, int]
    answered: dict[int, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"calls": self.calls.as_json(), "outcomes": self.outcomes, "errors": self.errors}


def by_name(cells: Iterable[Cell]) -> dict[str, Figures]:
    """The figures of each name."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        found[cell.name][cell.fact] += cell.value
    return {name: Figures.of(facts) for name, facts in found.items()}


def total(cells: Iterable[Cell]) -> Figures:
    """The figures of all names together."""
    facts: Counter[str] = Counter()
    for cell in cells:
        facts[cell.fact] += cell.value
    return Figures.of(facts)


def summary(store: UsageStore, *, last_s: float, span: Span = SPANS[0]) -> Summary:
    """What has happened in the last `last_s` seconds. Raises StoreUnavailable."""
    outcomes = store.cells(span, OUTCOME, last_s)
    return Summary(
        calls=total(store.cells(span, MODEL, last_s)),
        outcomes=_requests(by_name(outcomes)),
        errors=_requests(by_name(store.cells(span, ERROR, last_s))),
        answered={cell.since: cell.value for cell in outcomes if (cell.name, cell.fact) == ("answered", REQUESTS)},
    )


def _requests(figures: dict[str, Figures]) -> dict[str, int]:
    return {name: one.requests for name, one in figures.items() if one.requests}
