"""Requests that wait in a RabbitMQ: what they take, how it starts with them, whether a short wait is late."""

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pika

from actors.generate import generate
from benchmarks.results import Row
from console.depths import depth
from dev.process_group import cpu_seconds, members
from dev.rabbitmq import Node
from dev.waiting import wait_until
from gateway.messages import Job, Request
from gateway.rabbitmq.topology import WORK, Topology
from gateway.settings import Settings
from middleware.outbox import message_properties

COUNTS = (0, 100_000, 300_000, 1_000_000)

#: Waits in seconds, and how many short ones are looked at.
SHORT_S, TOGETHER_S, LONG_S, SAMPLES = 1, 30, 86_400, 5

#: How many requests wait when all waits end together.
TOGETHER = 50_000

SETTLED_S, PATIENCE_S = 10.0, 900.0
QUESTION = "What is a queue for? " * 10


def measure(counts: Sequence[int] = COUNTS) -> dict[str, list[Row]]:
    """A row for each number of waiting requests, one server for all; and one for waits that end together."""
    with tempfile.TemporaryDirectory(prefix="waits-") as folder, Node(Path(folder) / "rabbitmq").started() as node:
        with _connected(node) as connection:
            Topology(_settings(node)).declare(connection)
        together = _end_together(node)
        return {"waits": list(_rows(node, counts)), "waits-together": [together]}


def _rows(node: Node, counts: Sequence[int]) -> Iterator[Row]:
    before = 0
    for count in counts:
        _park(node, count - before, LONG_S)
        with _connected(node) as connection:
            wait_until(lambda: _depth(connection, LONG_S) >= count, timeout_s=PATIENCE_S, pause_s=0.5)  # noqa: B023
        memory, late = _memory(node), statistics.median(_late(node) for _ in range(SAMPLES))
        restarted = _restarted(node, count)
        yield {
            "requests that wait": count,
            "memory, MB": memory / 1e6,
            "disk, MB": _disk(node) / 1e6,
            "a wait of 1 s is late by, s": late,
            **restarted,
            "memory after it, MB": _memory(node) / 1e6,
        }
        before = count


def _end_together(node: Node) -> Row:
    _park(node, TOGETHER, TOGETHER_S, ends_at=time.monotonic() + TOGETHER_S)
    with _connected(node) as connection:
        wait_until(lambda: _work(connection) > 0, timeout_s=PATIENCE_S, pause_s=0.01)
        cpu, started, before = _cpu(node), time.monotonic(), _work(connection)
        wait_until(lambda: _work(connection) >= TOGETHER, timeout_s=PATIENCE_S, pause_s=0.01)
        seconds = time.monotonic() - started
        connection.channel().queue_purge(WORK)
    return {
        "waits that end together": TOGETHER,
        "come back a second": (TOGETHER - before) / seconds,
        "RabbitMQ CPU ms each": (_cpu(node) - cpu) / (TOGETHER - before) * 1000,
        "RabbitMQ": node.api("GET", "overview")["rabbitmq_version"],
    }


def _restarted(node: Node, count: int) -> Row:
    """How long it takes from the start until every waiting request is there again."""
    node.stop(keep=True)
    started = time.monotonic()
    node.start()
    with _connected(node) as connection:
        wait_until(lambda: _depth(connection, LONG_S) >= count, timeout_s=PATIENCE_S)
        return {"start, s": time.monotonic() - started, "start, CPU s": _cpu(node)}


def _late(node: Node) -> float:
    """Seconds that a short wait behind the others is too long, from its publish to its delivery."""
    with _connected(node) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        started = time.monotonic()
        channel.basic_publish("", Topology.key_wait(SHORT_S), _body(), message_properties("short"))
        found = next(channel.consume(WORK, auto_ack=True, inactivity_timeout=PATIENCE_S))
        if found[0] is None:
            raise SystemExit(f"a wait of {SHORT_S} s did not end in {PATIENCE_S:g} s")
        return time.monotonic() - started - SHORT_S


def _park(node: Node, count: int, seconds: int, *, ends_at: float | None = None) -> None:
    """Have so many wait; until the same moment where that is given, else each as long as its queue says."""
    body, properties = _body(), message_properties("long")
    with _connected(node) as connection:
        channel = connection.channel()
        for _ in range(count):
            if ends_at is not None:
                properties.expiration = str(max(1, round((ends_at - time.monotonic()) * 1000)))
            channel.basic_publish("", Topology.key_wait(seconds), body, properties)


def _body() -> bytes:
    """A waiting request as a worker writes it."""
    request = Request(request_id="00000000-0000-0000-0000-000000000000", prompt=QUESTION, callback_queue="answers")
    return generate.message(Job.of(request, received_at=time.time())).encode()


def _settings(node: Node) -> Settings:
    return Settings(
        rabbitmq_url=node.url,
        openrouter_api_keys="sk-or-v1-benchmark",
        queue_retry_delays=f"{SHORT_S},{TOGETHER_S},{LONG_S}",
    )


@contextmanager
def _connected(node: Node) -> Iterator[pika.BlockingConnection]:
    with closing(pika.BlockingConnection(pika.URLParameters(f"{node.url}/%2F?heartbeat=0"))) as connection:
        yield connection


def _depth(connection: pika.BlockingConnection, seconds: int) -> int:
    found = depth(connection, Topology.key_wait(seconds))
    return found.messages if found else 0


def _work(connection: pika.BlockingConnection) -> int:
    found = depth(connection, WORK)
    return found.messages if found else 0


def _memory(node: Node) -> int:
    """Resident bytes of the server, some seconds later: it writes on when all has arrived."""
    threading.Event().wait(SETTLED_S)
    return sum(4096 * int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in members(node.leader))


def _disk(node: Node) -> int:
    return sum(file.stat().st_size for file in (node.folder / "data").rglob("*") if file.is_file())


def _cpu(node: Node) -> float:
    return sum(cpu_seconds(pid) for pid in members(node.leader))
