"""A private RabbitMQ server: own data, own cookie, free ports of the loopback interface, and no trace of it after."""

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from dev import process_group
from dev.ending import Failed
from dev.launcher import Process
from dev.ports import free_ports
from dev.rabbitmq import configuration
from dev.rabbitmq.configuration import Ports
from dev.rabbitmq.programs import installed
from dev.rabbitmq.server import Server
from dev.waiting import TooLate, wait_until

#: A server needs about 8 s to start on two slow cores.
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0


class Node(Server):
    """The server whose data, log and process ids are below `folder`; at most one runs there.

    It keeps its ports over `stop(keep=True)` or `kill()` and a second `start()`. Where RabbitMQ is not installed, it
    runs in Docker.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._facts_file = folder / "node.json"
        self._ours: list[Process] = []
        facts = self._facts
        self._ports = Ports(*(facts.get("ports") or free_ports(4)))
        self._programs = installed()
        self._in_docker = facts.get("in_docker", self._programs is None)
        self._container = f"gemini-rabbitmq-{self._ports.amqp}"
        in_container = ["docker", "exec", self._container, "rabbitmqctl"]
        super().__init__(
            f"amqp://guest:guest@127.0.0.1:{self._ports.amqp}",
            f"http://127.0.0.1:{self._ports.management}",
            in_container if self._in_docker else [f"{self._programs}/rabbitmqctl"],
            configuration.environment(self.folder, self._ports),
        )

    @property
    def running(self) -> bool:
        """Whether RabbitMQ itself runs: its name server, the first of the processes, outlives a start that failed."""
        if self._facts and self._in_docker:
            return _docker("exec", self._container, "true").returncode == 0
        return any(process_group.alive(*process) for process in self._processes[1:])

    @property
    def leader(self) -> int:
        """The process group of RabbitMQ itself."""
        return self._processes[1][0]

    def start(self) -> None:
        """Return when RabbitMQ and its API answer, with the data that were there; at once when it runs already."""
        if self.running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write([])
        if self._in_docker:
            self._start_container()
        else:
            self._start_processes()
        self._wait_until_it_answers()

    def stop(self, *, keep: bool) -> None:
        """Stop what `start()` has started, and remove its data unless it is to be kept. Idempotent."""
        # Nobody will miss data that is removed: its farewell would take ten seconds.
        self._end(signal.SIGTERM if keep else signal.SIGKILL)
        if keep:
            return
        if self._facts and self._in_docker:
            _docker("rm", "--force", "--volumes", self._container)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.name == ".rabbitmq" and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()

    def kill(self) -> None:
        """End the server as a crash would, without a chance to tidy up."""
        self._end(signal.SIGKILL)

    @contextmanager
    def started(self) -> Iterator[Self]:
        """Start it; afterwards it is gone, with all that is in it."""
        try:
            self.start()
            yield self
        finally:
            self.stop(keep=False)

    def freeze(self) -> None:
        """Stop the server's processes where they are; their sockets stay open and silent."""
        os.killpg(self.leader, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.leader, signal.SIGCONT)

    def _start_processes(self) -> None:
        configuration.write(self.folder, self._ports)
        # Erlang would start its name server by itself and leave it behind; this one is ours to stop.
        names = ["epmd", "-address", "127.0.0.1", "-port", str(self._ports.names)]
        found: list[tuple[int, str]] = []
        for command in (names, [f"{self._programs}/rabbitmq-server"]):
            process = Process(
                command[0],
                f"exec {shlex.join(command)}",
                environment=configuration.environment(self.folder, self._ports),
                cwd=self.folder,
                log=self.folder / "output.log",
            )
            self._ours.append(process)
            found.append((process.popen.pid, process_group.birth(process.popen.pid)))
            self._write(found)

    def _start_container(self) -> None:
        if _docker("start", self._container).returncode == 0:
            return
        inside = {self._ports.amqp: 5672, self._ports.management: 15672}
        publish = [f"--publish=127.0.0.1:{port}:{number}" for port, number in inside.items()]
        made = _docker("run", "--detach", "--name", self._container, *publish, "rabbitmq:4-management")
        if made.returncode != 0:
            raise Failed(f"docker run failed: {made.stderr.strip()}")

    def _wait_until_it_answers(self) -> None:
        def answered_or_ended() -> bool:
            return self.answers() or not self.running

        try:
            wait_until(answered_or_ended, timeout_s=START_TIMEOUT_S, pause_s=0.05, what="an answer of RabbitMQ")
        except TooLate as error:
            raise Failed(f"{error}:\n{self._last_words()}") from None
        if not self.running:
            raise Failed(f"RabbitMQ did not start:\n{self._last_words()}")

    def _last_words(self) -> str:
        return "\n".join(process.last_words() for process in self._ours[-1:])

    def _end(self, signum: int) -> None:
        if self._facts and self._in_docker:
            _docker("kill" if signum == signal.SIGKILL else "stop", self._container)
        # The name server goes last: a server that stops takes its name off the list.
        for process in reversed(self._processes):
            process_group.end(*process, signum, STOP_TIMEOUT_S)
        for ours in self._ours:
            ours.popen.poll()  # it was reaped by its number: Python's own object should know

    @property
    def _facts(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._facts_file.read_text())
        except FileNotFoundError:
            return {}
        return found

    @property
    def _processes(self) -> list[tuple[int, str]]:
        """Process groups, as pid and birth of their leaders: the name server, RabbitMQ."""
        return [(int(pid), str(born)) for pid, born in self._facts.get("processes", [])]

    def _write(self, processes: list[tuple[int, str]]) -> None:
        facts = {"ports": self._ports, "in_docker": self._in_docker, "processes": processes}
        self._facts_file.write_text(json.dumps(facts))


def _docker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
