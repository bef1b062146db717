"""Who is compared: the commands of each, on the same machine, RabbitMQ and provider."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.launcher import ROOT, Process, procfile
from dev.process_group import cpu_seconds, members

PEERS = ROOT / "benchmarks" / "peers"
BENCH_BIN = ROOT / ".venv-bench" / "bin"

#: Threads of every contender that has threads, in this many processes.
PROCESSES, THREADS = 2, 50


@dataclass(frozen=True)
class Contender:
    """A name and its commands, each with the text that says that it is ready, and how often it says so.

    `checkout` is the folder of one that is this project, whose commands are names of its Procfile. `parks` is the first
    argument of peers/park.py, for peers that can make a request wait. `modules` are what the workers of a
    checkout import beside the actors.
    """

    name: str
    commands: tuple[tuple[str, str, int], ...]
    checkout: Path | None = None
    parks: str | None = None
    modules: str = ""


#: What a process of a Procfile says when it is ready, and how often.
READY = {"worker": ("is ready for action", PROCESSES), "bridge": ("Relaying", 1)}


def project(name: str, checkout: Path) -> Contender:
    """This project as it is in a folder, with an environment of its own there (script/setup)."""
    return Contender(name, tuple((one, *READY[one]) for one in procfile(checkout)), checkout=checkout)


def contenders(threads: int = THREADS) -> tuple[Contender, ...]:
    worker = f"dramatiq dramatiq_worker --processes {PROCESSES} --threads {threads}"
    celery = f"celery -A celery_worker worker -P threads --concurrency {PROCESSES * threads} --loglevel INFO"
    return (
        project("this project", ROOT),
        Contender("plain asyncio", (("python asyncio_worker.py", "ready", 1),)),
        Contender(
            "stock Dramatiq",
            ((worker, "is ready for action", PROCESSES), ("python bridge.py dramatiq", "ready", 1)),
            parks="dramatiq",
        ),
        Contender("Celery", ((celery, "ready.", 1), ("python bridge.py celery", "ready", 1)), parks="celery"),
    )


class Running:
    """The processes of one contender."""

    def __init__(self, processes: Sequence[Process], seconds_to_ready: float) -> None:
        self._processes = processes
        self.seconds_to_ready = seconds_to_ready

    @property
    def leader(self) -> int:
        """The process that has started the others of the first command."""
        return self._processes[0].popen.pid

    @property
    def log(self) -> Path:
        """Of the first command."""
        return self._processes[0].log

    @property
    def pids(self) -> list[int]:
        return [pid for process in self._processes for pid in members(process.popen.pid)]

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in self.pids)

    def memory(self) -> int:
        """Resident bytes of all processes."""
        return sum(4096 * int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids)


@contextmanager
def running(contender: Contender, url: str, provider: str, folder: Path, **settings: object) -> Iterator[Running]:
    """Start a contender and wait until it is ready; everything it started ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "HOME": str(folder),
        "PYTHONUNBUFFERED": "1",
        "RABBITMQ_URL": url,
        "OPENROUTER_BASE_URL": provider,
        "OPENROUTER_API_KEYS": ",".join(f"sk-or-v1-benchmark-key-{number:04}" for number in range(10)),
        "KEYS_MAX_PER_MINUTE": "1000000",
        "STATE_PATH": str(folder / "state.sqlite3"),
        "WORKER_PROCESSES": str(PROCESSES),
        "WORKER_THREADS": str(THREADS),
        **{name: str(value) for name, value in settings.items()},
    }
    programs = contender.checkout / ".venv" / "bin" if contender.checkout is not None else BENCH_BIN
    environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    processes: list[Process] = []
    started = time.monotonic()
    try:
        for number, (command, _ready, _count) in enumerate(contender.commands):
            processes.append(_process(contender, command, environment, folder / f"{number}.log"))
        for process, (_command, ready, count) in zip(processes, contender.commands, strict=True):
            process.wait_for_output(ready, count=count, timeout_s=60)
        yield Running(processes, time.monotonic() - started)
    finally:
        for process in processes:
            process.close()


def _process(contender: Contender, command: str, environment: Mapping[str, str], log: Path) -> Process:
    if contender.checkout is not None:
        cwd = contender.checkout
        shell = procfile(cwd)[command].replace(" actors ", f" actors {contender.modules} ")
    else:
        shell, cwd = f"exec {command}", PEERS
    return Process(command, shell, environment=environment, cwd=cwd, log=log)
