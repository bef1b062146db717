"""A worker and what belongs to it, as the Procfile starts it. Imports nothing of the product."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from dev.backend import Backend
from dev.launcher import ROOT, Process, procfile

#: A worker drains for 25 s.
STOP_TIMEOUT_S = 35.0

#: What the Procfile does not start, and some run all the same.
OF_ITS_OWN = {"bridge": "exec python -m bridge"}


class Stack(Backend):
    """Workers, and what else is started, against one RabbitMQ and one provider; `folder` gets what they print.

    `environment` is all that they see, but for this Python, which comes first on their PATH. They read `.env` in `cwd`.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path, *, cwd: Path = ROOT) -> None:
        super().__init__(environment["RABBITMQ_URL"])
        self.folder = folder
        self.cwd = cwd
        programs = f"{Path(sys.executable).parent}:{environment['PATH']}"
        self.environment = {**environment, "PATH": programs, "PYTHONUNBUFFERED": "1"}
        self.processes: list[Process] = []

    @classmethod
    def apart(cls, url: str, provider_url: str, folder: Path, *, cwd: Path = ROOT, **settings: object) -> Self:
        """With a stand-in for the provider, its state in `folder`, and no setting of ours."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RABBITMQ_URL": url,
            "OPENROUTER_BASE_URL": f"{provider_url}/api/v1",
            "STATE_PATH": str(folder / "state.sqlite3"),
            "WORKER_PROCESSES": "1",
            "WORKER_THREADS": "8",
        }
        return cls({**environment, **_as_text(settings)}, folder, cwd=cwd)

    def start(self, name: str, command: str | None = None, **settings: object) -> Process:
        """Start a process of the Procfile, or a bridge."""
        process = Process(
            name,
            command or OF_ITS_OWN.get(name) or procfile()[name],
            environment={**self.environment, **_as_text(settings)},
            cwd=self.cwd,
            log=self.folder / f"{name}-{len(self.processes)}.log",
        )
        self.processes.append(process)
        return process

    def start_worker(self, *, command: str | None = None, **settings: object) -> Process:
        """Return when each of its processes says that it is ready."""
        worker = self.start("worker", command, **settings)
        processes = int(str({**self.environment, **settings}["WORKER_PROCESSES"]))
        worker.wait_for_output("is ready for action", count=processes)
        return worker

    def start_bridge(self, **settings: object) -> Process:
        bridge = self.start("bridge", None, **settings)
        bridge.wait_for_output("Relaying")
        return bridge

    def stop(self) -> None:
        """Stop the processes as a platform does, and kill what is left of them in the end. Idempotent."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
        self.close()

    def close(self) -> None:
        for process in self.processes:
            process.close()

    def tail(self) -> str:
        return "\n".join(f"--- {one.log.name}\n{one.last_words()}" for one in self.processes)


def _as_text(settings: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in settings.items()}
