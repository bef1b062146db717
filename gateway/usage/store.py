"""What a store of reports promises, and what is in a report.

    a process      overwritten by each of its reports, forgotten KNOWN_S after the last one
    a count        added up over all processes, for a minute, an hour and a day: see SPANS
    a wait         there until it is over, WAITS_KEPT of them at most

Names of what is counted are few: keys by their digest, models, outcomes and error codes. Nothing of it is a prompt, an
answer or a key.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

#: What is counted, and about what: `about` of a Count.
KEY, MODEL, ERROR, OUTCOME, REFUSED = "key", "model", "error", "outcome", "refused"

#: In place of its queue, where a client that waits (`reply_to`) has refused.
OF_A_CLIENT = "reply_to"

#: The facts of a Count. A cost is in billionths of a dollar, so that sums are exact. SPENT_MS belongs to the latencies:
#: how long all of them took, rounded each.
CALLS, FAILED, PROMPT_TOKENS, COMPLETION_TOKENS, COST_NANO = "calls", "failed", "prompt", "completion", "cost_nano"
REQUESTS, SPENT_MS = "requests", "ms"
NANO = 1_000_000_000

#: Upper ends of the latency buckets, in seconds; what takes longer than the last is in `le_inf`.
BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

_NAMES = (*(f"le_{end:g}" for end in BUCKETS_S), "le_inf")

#: A process that has not reported for so long is taken for gone, and after KNOWN_S it is forgotten, in seconds.
LIFE_S, KNOWN_S = 20.0, 3600.0

#: Of how many waiting requests details are kept. How many wait is what RabbitMQ says.
WAITS_KEPT = 1000


@dataclass(frozen=True)
class Span:
    """Counts are added up for pieces of `length_s` seconds, of `abouts`; a piece is kept for `kept_s` seconds."""

    name: str
    length_s: int
    kept_s: int
    abouts: frozenset[str]


#: A thousand keys have no minutes of their own: 180 rows each would be too many.
SPANS = (
    Span("minute", 60, 3 * 3600, frozenset({MODEL, ERROR, OUTCOME})),
    Span("hour", 3600, 26 * 3600, frozenset({KEY, MODEL, ERROR, OUTCOME, REFUSED})),
    Span("day", 86400, 92 * 86400, frozenset({KEY, MODEL, ERROR, OUTCOME, REFUSED})),
)


class Count(NamedTuple):
    """What is counted: `fact` of the `name` among all that are `about` the same."""

    about: str
    name: str
    fact: str


@dataclass(frozen=True)
class Process:
    """A worker process as it describes itself. `not_ready` says why it does no work now, None when it does.

    `started_at` is epoch seconds on its own clock, `unsettled` the deliveries that it has not settled.
    """

    id: str
    host: str
    pid: int
    version: str
    started_at: float
    threads: int
    in_flight: int
    unsettled: int
    not_ready: str | None


@dataclass(frozen=True)
class Waiting:
    """A request in a delay queue, for `due_in_s` seconds more, because of `code`, in words `why`.

    `id` is that of its delivery.
    """

    id: str
    request_id: str
    queue: str
    due_in_s: float
    code: str
    why: str
    model: str | None
    retry_count: int


@dataclass(frozen=True)
class Batch:
    """What has happened since the batch before; `number` counts those of a process, from 1. An empty one has 0."""

    number: int = 0
    counts: Mapping[Count, int] = field(default_factory=dict)
    waits: Sequence[Waiting] = ()
    ended: Sequence[str] = ()


@dataclass(frozen=True)
class Seen:
    """A process, and how long ago it has reported, in seconds on the store's clock."""

    process: Process
    ago_s: float

    @property
    def lives(self) -> bool:
        return self.ago_s < LIFE_S


class Cell(NamedTuple):
    """A count of one piece of time, which began at `since`, epoch seconds."""

    since: int
    name: str
    fact: str
    value: int


class UsageStore(Protocol):
    """Every method raises StoreUnavailable when the store cannot be used. Time is the store's."""

    def report(self, process: Process, batch: Batch) -> None:
        """The process lives, and this has happened; a batch that is sent again under its number counts once."""

    def leave(self, process: Process) -> None:
        """The process ends in order: it is not missed."""

    def processes(self) -> list[Seen]:
        """Those that live, and those that have not said that they end, the latest report first."""

    def cells(self, span: Span, about: str, last_s: float) -> list[Cell]:
        """The counts of the pieces of time that reach into the last `last_s` seconds, as far as kept, in order."""

    def waits(self) -> list[Waiting]:
        """Requests that wait, as far as they are known, the next one due first."""


def span_for(last_s: float) -> Span:
    """The finest one that reaches back so far, by hours and days: minutes do not have every count."""
    return next((span for span in SPANS[1:] if last_s <= span.kept_s - span.length_s), SPANS[-1])


def bucket(seconds: float) -> str:
    """The fact that a latency of so many seconds adds one to."""
    return _NAMES[bisect_left(BUCKETS_S, seconds)]
