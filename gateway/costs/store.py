"""What a store of costs promises.

a row      for each paid call, ROWS_KEPT_S long, MOST_ROWS of them at most
sums       of an hour and of a day (UTC), by key, model and tag: see SPANS; made as rows are added
notes      small texts with an end: names of keys, what an operator was told today
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gateway.costs.call import PaidCall

DAY_S = 86400

#: How long the rows of single calls are kept, in seconds, and how many: some 30 MB in either store. Beyond that the
#: oldest are forgotten before their time.
ROWS_KEPT_S, MOST_ROWS = 7 * DAY_S, 100_000

#: The facts of a sum. `unpriced` counts calls whose provider does not say what they cost, `cut_off` those whose end
#: nobody has seen.
CALLS, PROMPT_TOKENS, COMPLETION_TOKENS, COST_NANO = "calls", "prompt", "completion", "cost_nano"
UNPRICED, CUT_OFF = "unpriced", "cut_off"
FACTS = (CALLS, PROMPT_TOKENS, COMPLETION_TOKENS, COST_NANO, UNPRICED, CUT_OFF)


@dataclass(frozen=True)
class Span:
    """Sums of pieces of `length_s` seconds, kept for `kept_s`."""

    name: str
    length_s: int
    kept_s: int


SPANS = (Span("hour", 3600, 26 * 3600), Span("day", DAY_S, 92 * DAY_S))


class Sum(NamedTuple):
    """What was paid in a piece of time that began at `since`, epoch seconds, with a key for a model under a tag."""

    since: int
    key: str
    model: str
    tag: str
    facts: Mapping[str, int]


class Today(NamedTuple):
    """What was paid since midnight UTC, in billionths of a dollar, and in how many seconds the day ends."""

    cost_nano: int
    ends_in_s: float


class CostStore(Protocol):
    """Every method raises StoreUnavailable when the store cannot be used. Time is the store's."""

    def book(self, calls: Sequence[PaidCall]) -> None:
        """Add rows to what is kept, and to the sums; one that is there already adds nothing."""

    def sums(self, span: Span, last_s: float) -> list[Sum]:
        """The sums of the pieces of time that reach into the last `last_s` seconds, as far as kept."""

    def rows(self, last_s: float) -> list[tuple[float, PaidCall]]:
        """The calls of the last `last_s` seconds as far as kept, each with its time, the oldest first."""

    def today(self) -> Today:
        """What the day has cost so far."""

    def note(self, name: str, text: str, *, kept_s: float) -> bool:
        """Keep a text under a name; True when there was none."""

    def notes(self, names: Iterable[str]) -> dict[str, str]:
        """The texts that are kept under these names."""

    def sweep(self) -> None:
        """Forget what is over."""


def span_for(last_s: float) -> Span:
    """The finest one that reaches back so far."""
    return next((span for span in SPANS if last_s <= span.kept_s - span.length_s), SPANS[-1])


def facts_of(call: PaidCall) -> dict[str, int]:
    """What a call adds to the sums, without what is 0."""
    found = {
        CALLS: int(not call.cut_off),
        PROMPT_TOKENS: call.prompt_tokens,
        COMPLETION_TOKENS: call.completion_tokens,
        COST_NANO: call.cost_nano or 0,
        UNPRICED: int(call.cost_nano is None and not call.cut_off),
        CUT_OFF: int(call.cut_off),
    }
    return {fact: value for fact, value in found.items() if value}
