"""Sampled stacks, summed up: the share of each part of a request, and the functions that cost most."""

from collections import Counter
from collections.abc import Iterable, Iterator

#: What a sample belongs to: the first row of the innermost function that has one, by a piece of its path.
PARTS = (
    ("log lines", ("/logging/", "gateway/reporting/logs", "gateway/reporting/redaction")),
    ("call to the provider", ("gateway/providers/", "gateway/structured/")),
    ("key", ("gateway/keys/", "middleware/key_selection", "middleware/cooldown")),
    ("ledger", ("gateway/ledger/", "middleware/ledger")),
    ("usage", ("gateway/usage/", "middleware/usage")),
    ("publish", ("rabbitmq/publisher", "rabbitmq/confirm_channel", "middleware/outbox", "actors/callbacks")),
    ("receive and ack", ("/bridge/", "rabbitmq/connection_calls", "rabbitmq/settling")),
    ("hooks and actor", ("/middleware/", "/actors/")),
    ("Dramatiq", ("/dramatiq/",)),
    ("gevent", ("/gevent/",)),
    ("profile", ("/benchmarks/",)),
)

Stack = list[str]


def shares(stacks: Iterable[tuple[int, Stack]]) -> dict[str, float]:
    """The part of all samples that belongs to each part, the largest first."""
    found: Counter[str] = Counter()
    for count, stack in stacks:
        found[_part(stack)] += count
    return {part: count / max(1, found.total()) for part, count in found.most_common()}


def functions(stacks: Iterable[tuple[int, Stack]]) -> list[tuple[str, float, float]]:
    """Each function with its share of the samples: by itself, and with all that it calls."""
    itself: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for count, stack in stacks:
        total += count
        itself[stack[0]] += count
        for function in set(stack):
            within[function] += count
    return [(name, itself[name] / total, count / total) for name, count in within.most_common()]


def _part(stack: Stack) -> str:
    return next(_named(stack), "other")


def _named(stack: Stack) -> Iterator[str]:
    for function in stack:
        for part, pieces in PARTS:
            if any(piece in function for piece in pieces):
                yield part
