"""Where the CPU time of a request goes: one worker process, a provider that answers at once, everything on.

    script/bench profile                   4,000 requests, SQLite
    script/bench profile --redis           with Redis as the store, and how often it is asked

CPU time and not seconds: what else runs on the machine changes it little. Four runs: as it is; with functions noted
each millisecond; with calls and SQL statements counted, which costs most; with `strace`, where there is one.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis

from benchmarks.__main__ import Ground, Stage
from benchmarks.contenders import contenders
from benchmarks.parts import functions, shares
from dev.launcher import ROOT
from dev.process_group import workers
from dev.rabbitmq import Node
from dev.redis import empty, redis_server
from dev.waiting import wait_until

OURS, PEER = contenders()[:2]


def main() -> int:
    options = _options()
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="profile-")))
        node = cleanup.enter_context(Node(folder / "rabbitmq").started())
        url = cleanup.enter_context(redis_server()) if options.redis else None
        profile = Profile(Ground(node, folder), folder, url, options.requests)
        for step in (profile.cpu, profile.parts, profile.calls, profile.system_calls):
            step()
    return 0


class Profile:
    """Runs a worker process again and again, and prints what it finds."""

    def __init__(self, ground: Ground, folder: Path, redis_url: str | None, count: int) -> None:
        self._ground = ground
        self._found = folder / "found.json"
        self._redis_url = redis_url
        self._count = count

    def cpu(self) -> None:
        """Of the worker process, and of the plain asyncio worker."""
        with self._ground.stage(PEER) as stage:
            peer = self._spent(stage, stage.processes.pids[0])
        with self._stage("none") as stage:
            asked, lines, ours = self._redis_reads(), _lines(stage), self._spent(stage, _worker(stage))
            _row("log lines", (_lines(stage) - lines) / self._count)
            if self._redis_url is not None:
                _row("round trips to Redis", (self._redis_reads() - asked - 1) / self._count)
        _row("CPU ms", sum(ours), f"user {ours[0]:.3f}, system {ours[1]:.3f}")
        _row("CPU ms of plain asyncio", sum(peer), f"x {sum(ours) / sum(peer):.2f}")

    def parts(self) -> None:
        stacks = [(count, stack) for count, *stack in self._sampled("stacks")["stacks"]]
        for part, share in shares(stacks).items():
            _row(part, share * 100, "% of the samples")
        print("  itself  with all that it calls")
        for name, itself, within in functions(stacks)[:110]:
            print(f"  {itself:6.1%}  {within:6.1%}  {name.removeprefix(f'{ROOT}/').rpartition('site-packages/')[2]}")

    def calls(self) -> None:
        found = self._sampled("calls")
        _row("function calls", found["calls"] / self._count)
        for kind, count in sorted(found["statements"].items()):
            _row(f"SQL {kind}", count / self._count)

    def system_calls(self) -> None:
        if shutil.which("strace") is None:
            return
        with self._stage("none") as stage:
            command = ["strace", "-c", "-f", "-p", str(_worker(stage))]
            tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            self._answer(stage)
            tracer.send_signal(signal.SIGINT)
            _, table = tracer.communicate(timeout=30)
        for line in table.splitlines():
            fields = line.split()
            if len(fields) > 4 and fields[3].isdecimal() and int(fields[3]) > self._count / 20:  # noqa: PLR2004
                _row(f"system call {fields[-1]}", int(fields[3]) / self._count)

    def _sampled(self, kind: str) -> dict[str, Any]:
        self._found.unlink(missing_ok=True)
        with self._stage(kind) as stage:
            os.kill(_worker(stage), signal.SIGUSR1)
            self._answer(stage)
            os.kill(_worker(stage), signal.SIGUSR1)
            wait_until(self._found.exists, timeout_s=60, what="the profile")
        found: dict[str, Any] = json.loads(self._found.read_text())
        return found

    @contextmanager
    def _stage(self, kind: str) -> Iterator[Stage]:
        settings: dict[str, object] = {"WORKER_PROCESSES": 1, "PROFILE_TO": self._found, "PROFILE_KIND": kind}
        if self._redis_url is not None:
            settings["REDIS_URL"] = self._redis_url
            empty(self._redis_url)  # else it would know the answers
        ours = replace(OURS, commands=(("worker", "is ready for action", 1),), modules="benchmarks.sampler")
        with self._ground.stage(ours, **settings) as stage:
            stage.backend.publish(self._count // 10, "first")
            stage.backend.receive(self._count // 10, timeout_s=600)
            yield stage

    def _answer(self, stage: Stage) -> None:
        stage.backend.publish(self._count, "r")
        stage.backend.receive(self._count, timeout_s=600)

    def _spent(self, stage: Stage, pid: int) -> tuple[float, float]:
        """User and system time, in ms a request."""
        before = _cpu(pid)
        self._answer(stage)
        return tuple((now - then) / self._count * 1000 for now, then in zip(_cpu(pid), before, strict=True))

    def _redis_reads(self) -> int:
        if self._redis_url is None:
            return 0
        with redis.Redis.from_url(self._redis_url) as client:
            return int(client.info("stats")["total_reads_processed"])


def _worker(stage: Stage) -> int:
    (worker,) = workers(stage.processes.leader)
    return worker


def _cpu(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK"), int(fields[12]) / os.sysconf("SC_CLK_TCK")


def _lines(stage: Stage) -> int:
    return stage.processes.log.read_bytes().count(b"\n")


def _row(name: str, figure: float, more: str = "") -> None:
    print(f"{name:28} {figure:8.3f}  {more}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=4000, help="so many in each run (4000)")
    parser.add_argument("--redis", action="store_true", help="with Redis in the place of the state file")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
