"""What one look of `gemini status` costs, by the number of keys and of worker processes; RabbitMQ is away meanwhile."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.results import Row
from benchmarks.scaling.keys import MODEL, PATIENCE_S, redis_cpu_seconds
from console.opened import Opened
from console.state import build
from dev.redis import redis_server
from gateway.keys.redis import RedisKeyStore
from gateway.resources import Stores, open_stores
from gateway.settings import Settings
from gateway.stores.redis_server import RedisServer
from gateway.usage.redis import RedisUsageStore
from gateway.usage.store import CALLS, WAITS_KEPT, Batch, Count, Process, Waiting
from gateway.usage.store import MODEL as OF_MODEL

#: Keys, worker processes.
SIZES = ((10, 2), (1_000, 200), (10_000, 2_000))


def measure() -> dict[str, list[Row]]:
    """A row for each store and size."""
    return {"status": [_row(store, *size) for store in ("Redis", "SQLite") for size in SIZES]}


def _row(store: str, keys: int, processes: int) -> Row:
    with _opened(store, keys) as here:
        url = here.settings.redis_address
        here.pool.acquire(MODEL)  # registers the keys
        here.stores.usage.report(_process(0), Batch(1, {}, _waits()))
        before = _cpu(url)
        for number in range(processes):
            here.stores.usage.report(_process(number), Batch(2, {Count(OF_MODEL, MODEL, CALLS): 100}))
        own, reported = time.process_time(), _cpu(url)
        state = build(here)
        own, looked = time.process_time() - own, _cpu(url)
    if (len(state.keys), len(state.workers)) != (keys, processes):
        raise SystemExit(f"the state has {len(state.keys)} keys and {len(state.workers)} processes")
    facts: Row = {"store": store, "keys": keys, "worker processes": processes, "CPU ms of the command": own * 1000}
    if url is None:
        return facts | {"CPU ms of Redis": None, "a report, CPU µs of Redis": None}
    return facts | {
        "CPU ms of Redis": (looked - reported) * 1000,
        "a report, CPU µs of Redis": (reported - before) / processes * 1e6,
    }


def _cpu(url: str | None) -> float:
    return redis_cpu_seconds(url) if url else 0.0


@contextmanager
def _opened(store: str, keys: int) -> Iterator[Opened]:
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder, redis_server() as url:
        settings = Settings(
            rabbitmq_url="amqp://127.0.0.1:1/",  # nobody listens there
            openrouter_api_keys=",".join(f"one=sk-or-v1-benchmark-{number:06}" for number in range(keys)),
            redis_url=url if store == "Redis" else None,
            state_path=Path(folder) / "state.sqlite3",
        )
        with _stores(settings, url) as stores:
            yield Opened(settings, stores)


@contextmanager
def _stores(settings: Settings, url: str) -> Iterator[Stores]:
    """Those of a worker; they wait for Redis for as long as a crowded machine takes."""
    stores, server = open_stores(settings), RedisServer(url, timeout_s=PATIENCE_S)
    with closing(server), closing(stores):
        patient = replace(stores, keys=RedisKeyStore(server), usage=RedisUsageStore(server))
        yield patient if settings.redis_address else stores


def _process(number: int) -> Process:
    return Process(f"{number}", "host", number, "1", time.time(), 50, 10, 10, None)


def _waits() -> list[Waiting]:
    """As many as are kept."""
    about = ("gemini.generate.delay.60s", 600.0, "rate_limit", "no key is free", MODEL, 1)
    return [Waiting(f"{number}", f"{number}", *about) for number in range(WAITS_KEPT)]
