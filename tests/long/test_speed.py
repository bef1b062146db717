"""What may not become slow: ratios to what the machine can do, of which only the best of many runs counts."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from dev.redis import empty
from gateway.errors import AuthenticationFailed, Scope
from gateway.keys.pool import KeyPool, Lease
from gateway.keys.store import KeyStore
from gateway.ledger.sqlite import SqliteLedger
from gateway.ledger.store import Started, Work
from gateway.secrets import ApiKey
from gateway.stores.state_file import StateFile
from tests.clock import Clock
from tests.key_stores import key_store

pytestmark = pytest.mark.long

MODEL = "google/gemini-2.5-flash"


def test_an_answer_is_stored_quickly(tmp_path: Path):
    """It stands between every answer and its publish: some times the smallest commit there is, and without the disk."""
    smallest = sqlite3.connect(tmp_path / "smallest.sqlite3", isolation_level=None)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF", "CREATE TABLE numbers (number INTEGER)"):
        smallest.execute(statement)
    stored, committed = [], []
    with closing(smallest), closing(StateFile(tmp_path / "state.sqlite3")) as file:
        ledger = SqliteLedger(file, ttl_s=1000.0, max_bytes=100_000_000)
        for number in range(500):
            work = Work(f"r-{number}", "d")
            entry = ledger.begin(work, delivery="a", lease_s=60.0)
            assert isinstance(entry, Started)
            answer = partial(ledger.answer, work, entry.token, message_id="m", failure=False, delivery="a")
            stored.append(timed(partial(answer, envelope=b"x" * 4000)))
            committed.append(timed(partial(smallest.execute, "INSERT INTO numbers VALUES (?)", (number,))))
    assert min(stored) < 8 * min(committed)  # 3 as a rule; with an fsync 15 and more


def test_a_thousand_keys_in_a_file_cost_little_more_than_ten(tmp_path: Path):
    """At most three times as much, whether all are free, all are used up, or all were refused."""
    with (
        key_store("sqlite", f"{tmp_path}/10.sqlite3") as small,
        key_store("sqlite", f"{tmp_path}/1000.sqlite3") as large,
    ):
        assert slower(small, large) == []


def test_a_thousand_keys_in_redis_cost_little_more_than_ten(redis_url: str):
    """As in a file."""
    empty(redis_url)
    with key_store("redis", redis_url) as small, key_store("redis", f"{redis_url}?db=1") as large:
        assert slower(small, large) == []


def slower(small: KeyStore, large: KeyStore) -> list[str]:
    """The steps that take more than three times as long with a thousand keys as with ten."""
    pairs = zip(steps(small, 10), steps(large, 1000), strict=True)
    return [name for (name, few), (_, many) in pairs if ratio(many, few) > 3]


def steps(store: KeyStore, keys: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each kind of step, on a store that has never been used, which is made ready for it just before."""
    api_keys = [ApiKey(f"sk-or-v1-cost-{keys}-{n:04}", label=f"mine-{keys}") for n in range(keys)]
    clock = Clock()
    used_up, free = (KeyPool(api_keys, store, max_per_window=limit, clock=clock) for limit in (1, 1000))
    last = [used_up.acquire(MODEL) for _ in api_keys][-1]
    assert isinstance(last, Lease)
    yield "used up", lambda: used_up.acquire(MODEL)
    free.acquire(MODEL)
    yield "free", lambda: free.acquire(MODEL)
    yield "ready in", free.ready_in_s
    free.cool(last, AuthenticationFailed("HTTP 402", reason="x", scope=Scope.ACCOUNT))
    yield "refused", lambda: free.acquire(MODEL)


def ratio(one: Callable[[], object], other: Callable[[], object]) -> float:
    """How much longer twenty of the one take than of the other at their best, in turns."""
    pairs = [[timed(lambda step=step: [step() for _ in range(20)]) for step in (one, other)] for _ in range(20)]
    return min(pair[0] for pair in pairs) / min(pair[1] for pair in pairs)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
