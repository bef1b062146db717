"""What the page costs the worker: `python -m benchmarks.page [--rounds N] [--size 0.1]`.

One worker with 1,000 keys, 100,000 requests that wait for a day, and the page beside it. In turns the page is open in
three browsers, and in none; the worker does the same work in each turn. Shown are the medians, and the ratio of open to
closed, of each pair of turns. On a busy machine the CPU says more than the throughput.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.__main__ import LONG_S, Ground, Stage
from benchmarks.contenders import ROOT, project
from dev.launcher import Process
from dev.ports import free_ports
from dev.process_group import cpu_seconds, members
from dev.rabbitmq import Node

KEYS, WAITING, REQUESTS, VIEWERS = 1000, 100_000, 1500, 3

#: What is measured in a turn, and what the page itself takes.
FIGURES = ("requests/s", "CPU ms/request", "RabbitMQ CPU ms/request", "CPU of the page, % of a core")


class Site:
    """The page of a worker."""

    def __init__(self, process: Process, url: str) -> None:
        self._process = process
        self.url = url

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in members(self._process.popen.pid))

    def load_ms(self) -> float:
        """Until the last byte of the page."""
        began = time.monotonic()
        with urllib.request.urlopen(self.url, timeout=30) as answer:  # noqa: S310 - our own address
            answer.read()
        return 1000 * (time.monotonic() - began)

    @contextmanager
    def open_in(self, viewers: int) -> Iterator[None]:
        """Open in so many browsers, as far as the server can tell."""
        over = threading.Event()
        threads = [threading.Thread(target=self._look, args=(over,), daemon=True) for _ in range(viewers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def _look(self, over: threading.Event) -> None:
        with urllib.request.urlopen(f"{self.url}events", timeout=30) as events:  # noqa: S310 - our own address
            while not over.is_set():
                events.readline()


@contextmanager
def page(folder: Path, environment: Mapping[str, str]) -> Iterator[Site]:
    (port,) = free_ports(1)
    settings = {**environment, "CONSOLE_PORT": str(port), "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}
    process = Process("page", "exec python -m console.web", environment=settings, cwd=ROOT, log=folder / "page.log")
    try:
        process.wait_for_output("The page is at")
        yield Site(process, f"http://127.0.0.1:{port}/")
    finally:
        process.close()


def turn(ground: Ground, stage: Stage, site: Site, viewers: int, count: int) -> dict[str, float]:
    """The figures of so many requests, with the page open or not."""
    with site.open_in(viewers):
        began, worker = time.monotonic(), stage.processes.cpu_seconds()
        rabbitmq, own = ground.rabbitmq_cpu_seconds(), site.cpu_seconds()
        stage.backend.publish(count, "r")
        stage.backend.receive(count, timeout_s=300)
        seconds = time.monotonic() - began
        values = (
            count / seconds,
            (stage.processes.cpu_seconds() - worker) / count * 1000,
            (ground.rabbitmq_cpu_seconds() - rabbitmq) / count * 1000,
            (site.cpu_seconds() - own) / seconds * 100,
        )
    return dict(zip(FIGURES, values, strict=True))


def main() -> int:
    options = _options()
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="bench-page-")))
        ground = Ground(cleanup.enter_context(Node(folder / "rabbitmq").started()), folder)
        ours = project("this project", ROOT)
        shared = {
            "OPENROUTER_API_KEYS": ",".join(f"sk-or-v1-benchmark-key-{number:04}" for number in range(KEYS)),
            "STATE_PATH": str(folder / "state.sqlite3"),
            "LEDGER_TTL_SECONDS": str(10 * LONG_S),
        }
        stage = cleanup.enter_context(ground.stage(ours, QUEUE_EARLY_RELEASE="0", **shared))
        stage.park(ours, round(WAITING * options.size), LONG_S, "long")
        site = cleanup.enter_context(page(folder, {**shared, "HOME": str(folder), "RABBITMQ_URL": stage.url}))
        print(f"the page: {site.load_ms():.0f} ms at first, {site.load_ms():.0f} ms then", flush=True)
        pairs = []
        for number in range(options.rounds):
            order = (VIEWERS, 0) if number % 2 else (0, VIEWERS)
            found = {viewers: turn(ground, stage, site, viewers, round(REQUESTS * options.size)) for viewers in order}
            pairs.append((found[0], found[VIEWERS]))
            print(f"  round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        print(table(pairs))
    return 0


def table(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> str:
    """Medians, and the median of the ratios of open to closed."""
    lines = [f"{'':<30}{'closed':>10}{'open':>10}{'ratio':>8}"]
    for name in FIGURES:
        closed, is_open = ([pair[which][name] for pair in pairs] for which in (0, 1))
        ratio = statistics.median(b / a for a, b in zip(closed, is_open, strict=True)) if all(closed) else math.nan
        lines.append(f"{name:<30}{statistics.median(closed):>10.2f}{statistics.median(is_open):>10.2f}{ratio:>8.3f}")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="pairs of turns (20)")
    parser.add_argument("--size", type=float, default=1.0, help="0.1 for a quick look (1)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
