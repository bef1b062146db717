"""The ledger against a model of a few lines, over both stores, while the clock moves between any two statements."""

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dev.redis import empty
from gateway.ledger.redis import RedisLedger
from gateway.ledger.sqlite import SqliteLedger
from gateway.ledger.store import Answered, Claim, Entry, Ledger, Running, Started, Superseded, Work
from gateway.stores.redis_server import RedisServer
from gateway.stores.state_file import StateFile
from tests.clock import Clock

WORK = Work("r-1", "d" * 64)
LEASE_S = 10.0
MAX_BYTES = 100_000_000


@dataclass
class Restless(Clock):
    """Goes on by the next of its steps whenever somebody reads it, and at every SQL statement."""

    steps: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        self._next = cycle(self.steps)

    def __call__(self) -> float:
        self.advance(next(self._next))
        return self.now

    def on_statement(self, _sql: str) -> None:
        self()


@dataclass
class Model:
    """What is known of one piece of work. When its lease ends is known as a span: the clock moved while it began."""

    token: str = ""
    delivery: str = ""
    hop: int = 0
    lease_ends: tuple[float, float] = (0.0, 0.0)
    answered: bool = False
    published: bool = False
    failure: bool = False

    def allowed(self, delivery: str, hop: int, span: tuple[float, float], *, restart: bool) -> set[type[Entry]]:
        """What a delivery may hear that asks between these two moments."""
        if self.answered and restart and self.failure:
            return {Started}
        if self.answered and self.published:
            return {Answered}
        ended: type[Entry] = Superseded if self.delivery == delivery and self.hop > hop else Started
        if self.answered:
            ended = Answered
        return ({Running} if span[0] < self.lease_ends[1] else set()) | (
            {ended} if span[1] >= self.lease_ends[0] else set()
        )


#: What is done, and by which delivery and copy of it where it begins the work.
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "begin", "restart", "scheduled", "answer", "published", "abandon"]),
        st.sampled_from("ab"),
        st.integers(0, 2),
    ),
    max_size=12,
)
#: How far the clock goes on, in seconds: nothing, a little, and to the very end of a lease.
STEPS = st.lists(st.sampled_from([0.0, 0.0001, 0.25, 4.9999, 9.9999, LEASE_S]), min_size=1, max_size=12).map(tuple)


@pytest.mark.parametrize("store", ["sqlite", "redis"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS, steps=STEPS)
# The same delivery looks again at 109.9999, a moment before its first run's lease of 10 s from 100 has ended.
@example(operations=[("begin", "a", 0), ("begin", "a", 0)], steps=(0.0, 9.9999, 0.0002, 0.0002, 0.0002))
@example(operations=[("begin", "a", 0), ("answer", "a", 0), ("restart", "b", 0)], steps=(0.0,))
@example(operations=[("begin", "a", 0), ("scheduled", "a", 0), ("begin", "a", 1)], steps=(0.0,))
def test_every_entry_is_true_at_some_moment_of_the_question(
    store: str, operations: list[tuple[str, str, int]], steps: tuple[float, ...], tmp_path: Path, request: Any
):
    """F60: above all, nobody is superseded but by a later copy of the same delivery."""
    clock, model = Restless(steps=steps), Model()
    with opened(store, clock, tmp_path, request) as ledger:
        for operation in operations:
            step(ledger, clock, model, operation)


def step(ledger: Ledger, clock: Clock, model: Model, operation: tuple[str, str, int]) -> None:
    name, delivery, hop = operation
    match name:
        case "begin" | "restart":
            began = clock.now
            token = uuid.uuid4().hex
            entry = ledger.begin(
                Claim(WORK, token, delivery, lease_s=LEASE_S, hop=hop, replace_failure=name == "restart")
            )
            span = (began, clock.now)
            assert type(entry) in model.allowed(delivery, hop, span, restart=name == "restart")
            if isinstance(entry, Started):
                ends = (span[0] + LEASE_S, span[1] + LEASE_S)
                vars(model).update(vars(Model(token, delivery, hop, lease_ends=ends)))
            elif isinstance(entry, Answered) and not entry.published:
                model.token, model.lease_ends = token, (span[0] + LEASE_S, span[1] + LEASE_S)
            elif isinstance(entry, Running):
                assert 0 <= entry.lease_ends_in_s <= LEASE_S
                assert entry.token == model.token
        case "scheduled" if model.token and not model.answered:
            ledger.scheduled(WORK, model.token, delivery=model.delivery, hop=model.hop + 1)
            vars(model).update(token="", hop=model.hop + 1, lease_ends=(0.0, 0.0))
        case "answer" if model.token and not model.answered:
            failure = bool(hop)
            ledger.answer(WORK, model.token, envelope=b"{}", message_id="m", failure=failure, delivery=model.delivery)
            vars(model).update(answered=True, failure=failure)
        case "published" if model.answered:
            ledger.published(WORK)
            model.published = True
        case "abandon" if model.token:
            ledger.abandon(WORK, model.token)
            vars(model).update({"lease_ends": (0.0, 0.0)} if model.answered else vars(Model()))


@contextmanager
def opened(store: str, clock: Restless, folder: Path, request: Any) -> Iterator[Ledger]:
    """An empty ledger of one kind on a restless clock."""
    if store == "redis":
        url = request.getfixturevalue("redis_url")
        empty(url)
        with closing(RedisServer(url)) as server:
            yield RedisLedger(server, ttl_s=1000.0, max_bytes=MAX_BYTES, clock=clock)
        return
    with closing(StateFile(folder / "state.sqlite3")) as file:
        with file.transaction() as db:
            db.execute("DELETE FROM ledger")
            db.set_trace_callback(clock.on_statement)
        yield SqliteLedger(file, ttl_s=1000.0, max_bytes=MAX_BYTES, clock=clock)
