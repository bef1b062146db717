"""What 64 simulated workers do to a store: keys that they take a second, and the CPU of what no second machine shares.

In Redis that is the one thread that runs all scripts. In a SQLite file one transaction runs at a time, whoever's it is.
Either can do no more a second than its CPU for one allows, however quiet the machine is: the figure to plan with.
"""

import itertools
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import redis

from benchmarks.results import Row
from dev.redis import redis_server
from gateway.keys.pool import KeyPool, Lease
from gateway.keys.redis import RedisKeyStore
from gateway.keys.sqlite import SqliteKeyStore
from gateway.keys.store import KeyStore
from gateway.ledger.redis import RedisLedger
from gateway.ledger.sqlite import SqliteLedger
from gateway.ledger.store import Claim, Ledger, Work
from gateway.secrets import ApiKey
from gateway.stores.redis_server import RedisServer
from gateway.stores.state_file import StateFile

Step = Callable[[KeyPool, Ledger], None]

STORES, KEYS, WORKERS = ("Redis", "SQLite"), (10, 1_000, 10_000), (1, 4, 64)
MODEL = "google/gemini-2.5-flash"
PATIENCE_S = 120.0
ENVELOPE = json.dumps({"content": "A queue holds work. " * 50, "status": "success"}).encode()


@dataclass(frozen=True)
class Case:
    """Keys in a store of its own, that so many processes use at once."""

    store: str
    keys: int
    workers: int
    url: str | None
    file: Path

    @contextmanager
    def opened(self) -> Iterator[tuple[KeyPool, Ledger]]:
        """The key pool and the ledger of one worker; it waits for an answer for as long as a crowded machine takes."""
        file, server = StateFile(self.file), RedisServer(self.url or "redis://", timeout_s=PATIENCE_S)
        with closing(file), closing(server):
            keys = RedisKeyStore(server) if self.url else SqliteKeyStore(file)
            kept = {"ttl_s": 172_800.0, "max_bytes": 2**28}
            yield self._pool(keys), RedisLedger(server, **kept) if self.url else SqliteLedger(file, **kept)

    def _pool(self, store: KeyStore) -> KeyPool:
        # A window so short that no key of ten gathers more uses than a limit of real life allows.
        keys = [ApiKey(f"sk-or-v1-benchmark-{number:06}") for number in range(self.keys)]
        return KeyPool(keys, store, max_per_window=1_000_000, window_s=0.1, margin_s=0.0)

    def cpu_seconds(self) -> float:
        """Of Redis' one thread; of this process, where it runs the store's statements itself."""
        return time.process_time() if self.url is None else redis_cpu_seconds(self.url)


def redis_cpu_seconds(url: str) -> float:
    with redis.Redis.from_url(url) as client:
        found = client.info("cpu")
    return float(found["used_cpu_user_main_thread"]) + float(found["used_cpu_sys_main_thread"])


def measure(seconds: float = 4.0) -> dict[str, list[Row]]:
    """A row for each store, number of keys and number of workers, of keys alone and of whole requests."""
    taken = [_keys(*case, seconds) for case in itertools.product(STORES, KEYS, WORKERS)]
    requests = [_requests(*case, seconds) for case in itertools.product(STORES, KEYS[1:], WORKERS)]
    return {"keys": taken, "requests": requests}


def _keys(store: str, keys: int, workers: int, seconds: float) -> Row:
    with _case(store, keys, workers) as case:
        registering = _registered(case)
        count, cpu_us = _together(case, acquire, seconds)
    facts: Row = {"store": store, "keys": keys, "workers": workers, "acquires a second": count / seconds}
    return {
        **facts,
        "CPU µs each": cpu_us,
        "at most a second": _at_most(store, workers, cpu_us),
        "registering all keys, ms": registering,
    }


def _requests(store: str, keys: int, workers: int, seconds: float) -> Row:
    with _case(store, keys, workers) as case:
        _registered(case)
        count, cpu_us = _together(case, request, seconds)
    facts: Row = {"store": store, "keys": keys, "workers": workers, "requests a second": count / seconds}
    return {**facts, "CPU µs each": cpu_us, "at most a second": _at_most(store, workers, cpu_us)}


def _at_most(store: str, workers: int, cpu_us: float) -> float | None:
    """None where the CPU is of many who wait for each other."""
    return None if store == "SQLite" and workers > 1 else 1e6 / cpu_us


@contextmanager
def _case(store: str, keys: int, workers: int) -> Iterator[Case]:
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        file = Path(folder) / "state.sqlite3"
        if store == "SQLite":
            yield Case(store, keys, workers, None, file)
            return
        with redis_server() as url:
            yield Case(store, keys, workers, url, file)


def _registered(case: Case) -> float:
    """Milliseconds that the store is busy with a set of keys that it does not know, and can do nothing else."""
    with case.opened() as (pool, ledger):
        before = case.cpu_seconds()
        acquire(pool, ledger)
        return (case.cpu_seconds() - before) * 1000


def _together(case: Case, step: Step, seconds: float) -> tuple[int, float]:
    """How often all workers together have done the step, and CPU microseconds for one."""
    context = get_context("fork")
    with context.Pool(case.workers, _keep, (context.Barrier(case.workers),)) as pool:
        found = pool.map(partial(_work, case, step), [seconds] * case.workers, chunksize=1)
    count, cpu = sum(count for count, _ in found), [cpu for _, cpu in found]
    return count, (sum(cpu) if case.url is None else max(cpu)) / count * 1e6


_barrier: Barrier


def _keep(barrier: Barrier) -> None:
    """In a worker, once: a barrier cannot be sent later."""
    global _barrier  # noqa: PLW0603 - what a process is born with
    _barrier = barrier


def _work(case: Case, step: Step, seconds: float) -> tuple[int, float]:
    """How often this worker has done the step, and CPU seconds meanwhile: its own, or those of the Redis of all."""
    with case.opened() as (pool, ledger):
        step(pool, ledger)  # connects, and sends the scripts
        _barrier.wait(PATIENCE_S)
        count, cpu, until = 0, case.cpu_seconds(), time.monotonic() + seconds
        while time.monotonic() < until:
            step(pool, ledger)
            count += 1
        _barrier.wait(PATIENCE_S)  # nobody measures an emptier machine than the others
        return count, case.cpu_seconds() - cpu


def acquire(pool: KeyPool, _ledger: Ledger) -> None:
    if not isinstance(pool.acquire(MODEL), Lease):
        raise SystemExit("no key is free: the figures would be those of a refusal")


def request(pool: KeyPool, ledger: Ledger) -> None:
    """All that a store does for a request that is answered at once."""
    name = uuid.uuid4().hex
    work = Work(name, name * 2)
    ledger.begin(Claim(work, name, name, lease_s=120.0))
    acquire(pool, ledger)
    ledger.answer(work, name, envelope=ENVELOPE, message_id=name, failure=False, delivery=name)
    ledger.published(work)
