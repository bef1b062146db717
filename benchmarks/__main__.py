"""`script/bench`: this project against its peers, on one machine, in turns.

throughput   requests a second with a provider that answers at once; CPU of the contender and of RabbitMQ
overhead     what is added to a call: from the publish of a request to its envelope, at a steady rate
inflight     1,000 calls at a time with a provider that takes 2 s: wall time, memory, connections
start        from the start of the processes to ready
parked       100,000 requests that wait for a day: memory of the worker, and how late a wait of 2 s behind them ends

At the end stands what was promised of these figures, and which of it they keep.
"""

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import pika

from actors.generate import generate
from benchmarks import pages
from benchmarks.contenders import (
    BENCH_BIN,
    PEERS,
    PROCESSES,
    ROOT,
    THREADS,
    Contender,
    Running,
    contenders,
    project,
    running,
)
from benchmarks.results import PUBLISHED, RESULTS, keep
from benchmarks.verdict import verdict
from dev.ports import free_ports
from dev.process_group import cpu_seconds, members
from dev.rabbitmq import Node, Server, vhost_of
from dev.waiting import wait_until
from gateway.messages import Job, Request
from gateway.rabbitmq.topology import Topology
from middleware.outbox import message_properties

Figures = dict[str, float]

#: What README.md shows.
PICTURE = ROOT / "docs" / "performance.svg"

#: How many are in flight at a time, where that is what is measured.
CALLS = 1000

QUESTION = "What is a queue for?"

#: The waits of requests that are parked, in seconds, and how long a short one may be late before it counts as lost.
SHORT_S, LONG_S, GIVE_UP_S = 2, 86_400, 60
PARKED_THREADS = 16


class Ground:
    """The server and the provider that all contenders share."""

    def __init__(self, server: Node, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self._count = 0

    @contextmanager
    def stage(self, contender: Contender, *, delay_s: float = 0.0, **settings: object) -> Iterator["Stage"]:
        """A contender that is ready, on a virtual host of its own, warmed up by fifty requests."""
        self._count += 1
        with self.server.fresh_vhost() as url, self.provider(delay_s) as provider:
            folder = self.folder / f"{self._count}"
            with running(contender, url, provider, folder, **settings) as processes, Backend(url) as backend:
                backend.publish(50, "warm")
                backend.receive(50, timeout_s=60)
                yield Stage(processes, backend, self.server, url)

    @contextmanager
    def provider(self, delay_s: float) -> Iterator[str]:
        (port,) = free_ports(1)
        command = [sys.executable, str(ROOT / "benchmarks" / "provider.py"), str(port), str(delay_s)]
        process = subprocess.Popen(command)
        try:
            wait_until(lambda: _listens(port), timeout_s=60, what="the provider")
            yield f"http://127.0.0.1:{port}/api/v1"
        finally:
            process.kill()
            process.wait()

    def rabbitmq_cpu_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in members(self.server.leader))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Backend:
    """Publishes requests and reads answers, as a program that uses the contender does."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> Self:
        self._connection = pika.BlockingConnection(pika.URLParameters(self._url))
        self._channel = self._connection.channel()
        for queue in ("gemini.requests", "gemini.responses"):
            self._channel.queue_declare(queue, durable=True)
        self._channel.basic_qos(prefetch_count=1000)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def publish(self, count: int, name: str) -> None:
        for number in range(count):
            publish_one(self._channel, f"{name}-{number}")

    def receive(self, count: int, timeout_s: float) -> None:
        """Read so many answers."""
        deadline, found = time.monotonic() + timeout_s, 0
        for method, _properties, _body in self._channel.consume(
            "gemini.responses", auto_ack=True, inactivity_timeout=1
        ):
            found += method is not None
            if found >= count:
                break
            if time.monotonic() > deadline:
                raise SystemExit(f"{found} of {count} answers in {timeout_s:g} s")
        self._channel.cancel()

    def answers_within(self, seconds: float) -> bool:
        """Whether an answer comes in time."""
        found = next(self._channel.consume("gemini.responses", auto_ack=True, inactivity_timeout=seconds))
        self._channel.cancel()
        return found[0] is not None

    def overheads(self, rate: float, seconds: float) -> list[float]:
        """Milliseconds from publish to envelope, of requests that come at a steady rate whatever becomes of them."""
        count = round(rate * seconds)
        sent: dict[str, float] = {}
        publisher = threading.Thread(target=_publish_steadily, args=(self._url, count, rate, sent), daemon=True)
        publisher.start()
        times: list[float] = []
        for method, properties, _body in self._channel.consume(
            "gemini.responses", auto_ack=True, inactivity_timeout=20
        ):
            if method is None:
                raise SystemExit(f"{len(times)} of {count} answers came")
            times.append((time.monotonic() - sent[properties.correlation_id]) * 1000)
            if len(times) == count:
                break
        self._channel.cancel()
        publisher.join()
        return times


def publish_one(channel: Any, request_id: str) -> None:
    body = json.dumps({"request_id": request_id, "prompt": QUESTION, "metadata": {"user_id": 42}})
    channel.basic_publish("", "gemini.requests", body.encode(), pika.BasicProperties(delivery_mode=2))


def _publish_steadily(url: str, count: int, rate: float, sent: dict[str, float]) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel, started, pause = connection.channel(), time.monotonic(), threading.Event()
    for number in range(count):
        pause.wait(max(0.0, started + number / rate - time.monotonic()))
        sent[f"steady-{number}"] = time.monotonic()
        publish_one(channel, f"steady-{number}")
    connection.close()


class Stage:
    """A contender at work."""

    def __init__(self, processes: Running, backend: Backend, server: Server, url: str) -> None:
        self.processes = processes
        self.backend = backend
        self._server = server
        self.url = url

    def park(self, contender: Contender, count: int, seconds: int, name: str) -> None:
        """Have so many requests wait, as the contender does with one that it tries again later."""
        if contender.parks is not None:
            command = [str(BENCH_BIN / "python"), "park.py", contender.parks, str(count), str(seconds), name]
            environment = os.environ | {"RABBITMQ_URL": self.url, "OPENROUTER_BASE_URL": "", "PEER_UNCONFIRMED": "1"}
            subprocess.run(command, cwd=PEERS, env=environment, check=True)
        else:
            connection = pika.BlockingConnection(pika.URLParameters(self.url))
            channel = connection.channel()
            for number in range(count):
                request = Request(
                    request_id=f"{name}-{number}", prompt=QUESTION * 10, callback_queue="gemini.responses"
                )
                message = generate.message(Job.of(request, received_at=time.time()))
                channel.basic_publish("", Topology.key_wait(seconds), message.encode(), message_properties(name))
            connection.close()

    def settled_memory(self) -> int:
        """Of the processes, when it has not grown for five seconds."""
        most, since = self.processes.memory(), time.monotonic()
        while time.monotonic() - since < 5:  # noqa: PLR2004
            threading.Event().wait(0.5)
            if (now := self.processes.memory()) > 1.01 * most:
                most, since = now, time.monotonic()
        return most

    def connections(self) -> int:
        """Of the contender, on its virtual host; that of the backend does not count. The API is some seconds behind."""
        deadline = time.monotonic() + 15
        seen: list[int] = []
        while time.monotonic() < deadline and not (len(seen) > 3 and 1 < seen[-1] == seen[-4]):  # noqa: PLR2004
            seen.append(len(self._server.api("GET", f"vhosts/{vhost_of(self.url)}/connections")))
            threading.Event().wait(1.0)
        return seen[-1] - 1


def throughput(ground: Ground, contender: Contender, size: float) -> Figures:
    count = round(4000 * size)
    with ground.stage(contender) as stage:
        cpu, rabbitmq, started = stage.processes.cpu_seconds(), ground.rabbitmq_cpu_seconds(), time.monotonic()
        stage.backend.publish(count, "r")
        stage.backend.receive(count, timeout_s=300)
        seconds = time.monotonic() - started
        return {
            "requests/s": count / seconds,
            "CPU ms/request": (stage.processes.cpu_seconds() - cpu) / count * 1000,
            "RabbitMQ CPU ms/request": (ground.rabbitmq_cpu_seconds() - rabbitmq) / count * 1000,
        }


def overhead(ground: Ground, contender: Contender, size: float) -> Figures:
    figures: Figures = {}
    with ground.stage(contender) as stage:
        for rate in (20, 100, 300):
            times = sorted(stage.backend.overheads(rate, max(3.0, 10 * size)))
            for percent in (50, 95, 99):
                figures[f"p{percent} ms at {rate}/s"] = times[math.ceil(len(times) * percent / 100) - 1]
    return figures


def inflight(ground: Ground, contender: Contender, size: float) -> Figures:
    calls = round(CALLS * size)
    threads = math.ceil(calls / PROCESSES)
    fitted = next((one for one in contenders(threads) if one.name == contender.name), contender)
    settings = {"WORKER_THREADS": threads, "WORKER_PREFETCH_COUNT": calls, "PEER_PREFETCH": calls}
    with ground.stage(fitted, delay_s=2.0, **settings) as stage:
        memory, started = stage.processes.memory(), time.monotonic()
        stage.backend.publish(calls, "f")
        published = time.monotonic() - started
        threading.Event().wait(max(0.0, 1.5 - published))
        grown = stage.processes.memory() - memory
        stage.backend.receive(calls, timeout_s=120)
        wall = time.monotonic() - started
        connections = stage.connections()
    return {"wall / ideal": wall / 2.0, "kB/call": grown / calls / 1000, "RabbitMQ connections": connections}


def start(ground: Ground, contender: Contender, size: float) -> Figures:  # noqa: ARG001 - all have this form
    with ground.stage(contender) as stage:
        return {"seconds to ready": stage.processes.seconds_to_ready}


def parked(ground: Ground, contender: Contender, size: float) -> Figures:
    """In this project early release is off, or the requests would not stay where they are.

    With few threads: stock Dramatiq takes a thousand parked requests for each of them into a worker's memory.
    """
    count = round(100_000 * size)
    fitted = next((one for one in contenders(PARKED_THREADS) if one.name == contender.name), contender)
    settings = {
        "WORKER_THREADS": PARKED_THREADS,
        "QUEUE_RETRY_DELAYS": f"{SHORT_S},{LONG_S}",
        "QUEUE_EARLY_RELEASE": "0",
        "LEDGER_TTL_SECONDS": 10 * LONG_S,  # longer than the whole schedule
    }
    with ground.stage(fitted, **settings) as stage:
        memory = stage.processes.memory()
        stage.park(contender, count, LONG_S, "long")
        grown = stage.settled_memory() - memory
        stage.park(contender, 1, SHORT_S, "short")
        started = time.monotonic()
        came = stage.backend.answers_within(SHORT_S + GIVE_UP_S)
        lateness = time.monotonic() - started - SHORT_S if came else math.inf
    return {"MB more": max(0.1, grown / 1e6), "s late": max(0.01, lateness)}


SCENARIOS: dict[str, Callable[[Ground, Contender, float], Figures]] = {
    "throughput": throughput,
    "overhead": overhead,
    "inflight": inflight,
    "start": start,
    "parked": parked,
}


def main() -> int:
    options = _options()
    if not options.plot:
        print(f"\n{verdict(_measured(options))}", flush=True)
    if options.publish:
        pages.write()
    if options.publish or options.plot:
        _draw()
    return 0


def _measured(options: argparse.Namespace) -> dict[str, dict[str, Figures]]:
    """The medians of each scenario; they are kept."""
    others = [project(folder.name, folder.resolve()) for folder in options.against]
    chosen = [one for one in (*contenders(), *others) if not options.only or one.name in options.only]
    medians: dict[str, dict[str, Figures]] = {}
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        node = cleanup.enter_context(Node(folder / "rabbitmq").started())
        ground = Ground(node, folder)
        for name in options.scenario or SCENARIOS:
            able = [
                one for one in chosen if name != "parked" or one.checkout or one.parks
            ]  # the asyncio worker cannot wait
            medians[name] = found = _in_turns(SCENARIOS[name], ground, able, options)
            print(f"\n{name}\n{table(found)}", flush=True)
            for kept in (RESULTS, PUBLISHED) if options.publish else (RESULTS,):
                keep(kept, name, _facts(name, options) | {"medians": _finite(found)})
    return medians


def _facts(name: str, options: argparse.Namespace) -> dict[str, object]:
    threads = {"parked": PARKED_THREADS, "inflight": math.ceil(CALLS * options.size / PROCESSES)}.get(name, THREADS)
    return {"processes": PROCESSES, "threads": threads, "rounds": options.rounds}


def _draw() -> None:
    subprocess.run([BENCH_BIN / "python", ROOT / "benchmarks" / "plot.py", PUBLISHED, PICTURE], check=True)


def _in_turns(
    scenario: Callable[[Ground, Contender, float], Figures],
    ground: Ground,
    chosen: Sequence[Contender],
    options: argparse.Namespace,
) -> dict[str, Figures]:
    """Medians over the rounds; in each round every contender has its turn."""
    rounds: dict[str, list[Figures]] = {one.name: [] for one in chosen}
    for number in range(options.rounds):
        for one in chosen:
            rounds[one.name].append(scenario(ground, one, options.size))
            print(f"  round {number + 1} of {options.rounds}: {one.name}", file=sys.stderr, flush=True)
    return {
        name: {figure: statistics.median(one[figure] for one in found) for figure in found[0]}
        for name, found in rounds.items()
    }


def table(found: dict[str, Figures]) -> str:
    """A column for each contender: its figures, and in brackets their ratio to ours."""
    ours = next(iter(found.values()))
    rows = [["", *found], *([one, *(_cell(figures[one], ours[one]) for figures in found.values())] for one in ours)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: float, ours: float) -> str:
    if math.isinf(value):
        return "never"
    shown = f"{value:.0f}" if value >= 100 else f"{value:.2f}"  # noqa: PLR2004
    return f"{shown} (x {value / ours:.2f})" if ours else shown


def _finite(found: dict[str, Figures]) -> dict[str, dict[str, float | None]]:
    """JSON has no infinity."""
    return {
        name: {figure: None if math.isinf(value) else value for figure, value in figures.items()}
        for name, figures in found.items()
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="*", choices=[[], *SCENARIOS], help="all of them if none is named")
    parser.add_argument("--rounds", type=int, default=3, help="the medians of so many are shown (3)")
    parser.add_argument("--size", type=float, default=1.0, help="0.1 for a quick look (1)")
    parser.add_argument("--plot", action="store_true", help="draw the README's picture of what is published, and end")
    publish = "write the figures into benchmarks/published, docs/performance.md and the README's picture"
    parser.add_argument("--publish", action="store_true", help=publish)
    parser.add_argument("--only", action="append", help="a contender by its name; may be repeated")
    against = "another checkout of this project, as one of before a change; its name is that of its folder"
    parser.add_argument("--against", action="append", type=Path, default=[], metavar="FOLDER", help=against)
    options = parser.parse_args()
    if options.publish and (options.only or options.against or options.size != 1):
        parser.error("published are figures of all contenders and of full size: not with --only, --against, --size")
    return options


if __name__ == "__main__":
    sys.exit(main())
