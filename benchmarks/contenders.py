"""Who is compared: the commands of each, on the same machine, RabbitMQ and provider."""

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
BENCH_BIN = ROOT / ".venv-bench" / "bin"

#: Threads of every contender that has threads, in this many processes.
PROCESSES, THREADS = 2, 50


@dataclass(frozen=True)
class Contender:
    """A name and its commands, each with the text that says that it is ready, and how often it says so.

    `checkout` is the folder of one that is this project, whose commands are names of its Procfile. `parks` is the first
    argument of peers/park.py, for peers that can make a request wait.
    """

    name: str
    commands: tuple[tuple[str, str, int], ...]
    checkout: Path | None = None
    parks: str | None = None


#: What a process of a Procfile says when it is ready, and how often.
READY = {"worker": ("is ready for action", PROCESSES), "bridge": ("Relaying", 1)}


def project(name: str, checkout: Path) -> Contender:
    """This project as it is in a folder, with an environment of its own there (script/setup)."""
    return Contender(name, tuple((one, *READY[one]) for one in procfile(checkout)), checkout=checkout)


def procfile(checkout: Path) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in (checkout / "Procfile").read_text().splitlines())


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

    def __init__(self, processes: list["subprocess.Popen[bytes]"], seconds_to_ready: float) -> None:
        self._processes = processes
        self.seconds_to_ready = seconds_to_ready

    @property
    def pids(self) -> list[int]:
        return [pid for process in self._processes for pid in group(process.pid)]

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
    processes, logs, started = [], [], time.monotonic()
    try:
        for number, (command, _ready, _count) in enumerate(contender.commands):
            log = folder / f"{number}.log"
            logs.append(log)
            processes.append(_start(contender, command, environment, log))
        for process, log, (command, ready, count) in zip(processes, logs, contender.commands, strict=True):
            _wait_for(ready, count, log, process, command)
        yield Running(processes, time.monotonic() - started)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _start(contender: Contender, command: str, environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    if contender.checkout is not None:
        arguments, folder = ["sh", "-c", procfile(contender.checkout)[command]], contender.checkout
    else:
        program, *rest = shlex.split(command)
        arguments, folder = [str(BENCH_BIN / program), *rest], PEERS
    with log.open("wb") as sink:
        return subprocess.Popen(
            arguments, cwd=folder, env=environment, stdout=sink, stderr=sink, start_new_session=True
        )


def _wait_for(text: str, count: int, log: Path, process: "subprocess.Popen[bytes]", command: str) -> None:
    pause, deadline = threading.Event(), time.monotonic() + 60
    while log.read_text(errors="replace").count(text) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{command} did not start:\n{log.read_text(errors='replace')[-3000:]}")
        pause.wait(0.02)


def group(leader: int) -> list[int]:
    """The processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[2]) == leader:
                found.append(int(entry.name))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
