"""What a worker process has open at RabbitMQ, and what RabbitMQ pays for it."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

import pika

from benchmarks.contenders import PROCESSES, contenders, running
from benchmarks.results import Row
from dev.process_group import members
from dev.rabbitmq import Node, vhost_of
from dev.waiting import wait_until

#: How many of a kind are opened, to see what one takes.
MANY = 1_000

SETTLED_S = 10.0


def measure() -> dict[str, list[Row]]:
    """A row for the worker, and one for each kind of thing that RabbitMQ keeps."""
    with (
        tempfile.TemporaryDirectory(prefix="connections-") as folder,
        Node(Path(folder) / "rabbitmq").started() as node,
    ):
        worker = _of_a_worker(node, Path(folder))
        kinds = {"channel": _channels, "consumer": _consumers, "connection with a channel": _connections}
        return {"connections": [worker], "prices": [_price(node, kind, many) for kind, many in kinds.items()]}


def _of_a_worker(node: Node, folder: Path) -> Row:
    """Of the Procfile's worker, with no provider to call."""
    ours = contenders()[0]
    with node.fresh_vhost() as url, running(ours, url, "http://127.0.0.1:1", folder / "worker"):
        found = wait_until(lambda: _settled(node, url), timeout_s=120, pause_s=1, what="a list of the management API")
    version = node.api("GET", "overview")["rabbitmq_version"]
    each: Row = {f"{name} a process": count / PROCESSES for name, count in found.items()}
    return {"worker processes": PROCESSES, **each, "RabbitMQ": version}


def _settled(node: Node, url: str) -> dict[str, int] | None:
    """None while the API, which is seconds behind, has not seen all."""
    found = {name: len(node.api("GET", f"vhosts/{vhost_of(url)}/{name}")) for name in ("connections", "channels")}
    found["consumers"] = len(node.api("GET", f"consumers/{vhost_of(url)}"))
    return found if all(found.values()) and found["connections"] <= found["channels"] else None


def _price(node: Node, kind: str, many: Callable[[Node], AbstractContextManager[None]]) -> Row:
    before = _taken(node)
    with many(node):
        grown = [now - then for now, then in zip(_taken(node), before, strict=True)]
    resident, reserved, files = (one / MANY for one in grown)
    memory = resident if round(files) else reserved
    return {"one more": kind, "memory of RabbitMQ, kB": memory / 1000, "open files": round(files)}


@contextmanager
def _connections(node: Node) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(_connected(node)).channel()
        yield


@contextmanager
def _channels(node: Node) -> Iterator[None]:
    with _connected(node) as connection:
        for _ in range(MANY):
            connection.channel()
        yield


@contextmanager
def _consumers(node: Node) -> Iterator[None]:
    """On one channel and one quorum queue, as those of many workers are."""
    with _connected(node) as connection:
        channel = connection.channel()
        channel.queue_declare("work", durable=True, arguments={"x-queue-type": "quorum"})
        for _ in range(MANY):
            channel.basic_consume("work", lambda *_: None)
        yield


@contextmanager
def _connected(node: Node) -> Iterator[pika.BlockingConnection]:
    with closing(pika.BlockingConnection(pika.URLParameters(f"{node.url}/%2F?heartbeat=0"))) as connection:
        yield connection


def _taken(node: Node) -> tuple[int, int, int]:
    """What RabbitMQ has some seconds later, without garbage: resident bytes, those it has reserved, open files.

    What has a file has a buffer as large as the kernel's, megabytes, and touches little of it: resident is what counts.
    """
    threading.Event().wait(SETTLED_S)
    node.control("force_gc")
    (told,) = node.api("GET", "nodes")
    total = node.api("GET", f"nodes/{told['name']}/memory")["memory"]["total"]
    files = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in members(node.leader))
    return int(total["rss"]), int(total["erlang"]), files
