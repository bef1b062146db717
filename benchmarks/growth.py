"""What a hundred times more keys ask of each part, worked out from what one request takes of it."""

from collections.abc import Mapping
from typing import Any

from benchmarks.results import Row
from benchmarks.tables import of_rows

KEYS = (100, 1_000, 10_000, 100_000)

#: Calls a minute of each key, seconds of a call, and the threads of a worker process: the defaults, and a usual call.
CALLS_A_MINUTE, CALL_S, THREADS = 10, 2, 50

ASSUMED = f"<sub>{CALLS_A_MINUTE} calls a minute of each key, calls of {CALL_S} s, {THREADS} threads a process</sub>"


def growth(throughput: Mapping[str, Any], requests: list[Row], worker: Row) -> str:
    """A table for rising numbers of keys, all of which are always in use, and what it takes for granted."""
    rabbitmq_ms = throughput["this project"]["RabbitMQ CPU ms/request"]
    # Of the largest set, and where workers do not wait for each other.
    cpu_us = {row["store"]: row["CPU µs each"] for row in requests if row["at most a second"] is not None}
    rows = [_row(keys, cpu_us, rabbitmq_ms, worker["connections a process"]) for keys in KEYS]
    return f"{of_rows(rows)}\n\n{ASSUMED}"


def _row(keys: int, cpu_us: Mapping[Any, Any], rabbitmq_ms: float, connections: Any) -> Row:
    a_second = keys * CALLS_A_MINUTE / 60
    processes = -(-round(a_second * CALL_S) // THREADS)
    return {
        "keys": keys,
        "requests a second": a_second,
        "worker processes": processes,
        "connections": round(processes * connections),
        "RabbitMQ, cores": a_second * rabbitmq_ms / 1000,
        "Redis, of its one thread": _share(a_second * cpu_us["Redis"]),
        "SQLite, of its one writer": _share(a_second * cpu_us["SQLite"]),
    }


def _share(us_a_second: float) -> str:
    return f"{us_a_second / 10_000:.1f} %"
