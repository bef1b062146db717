"""Sums of what was paid for, for screens."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from gateway.costs.call import NANO, PaidCall
from gateway.costs.store import CALLS, COMPLETION_TOKENS, COST_NANO, CUT_OFF, PROMPT_TOKENS, UNPRICED, Sum

Name = Literal["key", "model", "tag"]


@dataclass(frozen=True)
class Paid:
    """Under one name, or in all; cost in US dollars, of all calls but those `unpriced`.

    Of calls that were `cut_off` nobody has seen the end: what they may have cost is not in it.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0
    cut_off: int = 0

    @classmethod
    def of(cls, facts: Counter[str]) -> "Paid":
        return cls(
            calls=facts[CALLS],
            prompt_tokens=facts[PROMPT_TOKENS],
            completion_tokens=facts[COMPLETION_TOKENS],
            cost=facts[COST_NANO] / NANO,
            unpriced=facts[UNPRICED],
            cut_off=facts[CUT_OFF],
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def paid_by(sums: Iterable[Sum], name: Name) -> dict[str, Paid]:
    """What was paid under each name of this kind."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in sums:
        found[getattr(one, name)].update(one.facts)
    return {name: Paid.of(facts) for name, facts in found.items()}


def paid_in_all(sums: Iterable[Sum]) -> Paid:
    facts: Counter[str] = Counter()
    for one in sums:
        facts.update(one.facts)
    return Paid.of(facts)


def row_as_json(at: float, call: PaidCall, *, key: str) -> dict[str, Any]:
    """A paid call with the name of its key, for who compares it with the provider's list."""
    facts = asdict(call)
    nano = facts.pop("cost_nano")
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time": time, **facts, "key": key, "cost": None if nano is None else nano / NANO}
