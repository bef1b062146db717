"""Drives the Procfile's commands from outside: processes, queues and logs. Imports nothing of the product."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pika

ROOT = Path(__file__).resolve().parents[2]


def wait_until(
    condition: Callable[[], Any], *, timeout_s: float = 30.0, pause_s: float = 0.02, what: str = "the condition"
) -> Any:
    """Return the condition's first true value, looked at every `pause_s` seconds; fail when it stays false."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true in {timeout_s:g} s")
        pause.wait(pause_s)


def procfile_command(name: str) -> str:
    """The command of one process type."""
    for line in (ROOT / "Procfile").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    raise LookupError(name)


#: What the Procfile does not start, and some run all the same.
OF_ITS_OWN = {"bridge": "exec python -m bridge"}


class Process:
    """A Procfile process, or a bridge, in its own process group, with its output in a file."""

    def __init__(self, name: str, environment: dict[str, str], log: Path, command: str | None = None) -> None:
        self.name = name
        self.log = log
        self._sink = log.open("ab")
        self.popen = subprocess.Popen(
            command or OF_ITS_OWN.get(name) or procfile_command(name),
            shell=True,
            cwd=ROOT,
            env=environment,
            stdout=self._sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_output(self, text: str, *, count: int = 1, timeout_s: float = 30.0) -> None:
        def seen() -> bool:
            if self.popen.poll() is not None and text not in self.output():
                raise AssertionError(f"{self.name} ended with {self.popen.returncode}:\n{self.output()[-3000:]}")
            return self.output().count(text) >= count

        try:
            wait_until(seen, timeout_s=timeout_s, what=f"{text!r} in the output of {self.name}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output()[-3000:]}") from None

    def signal_group(self, signum: int) -> None:
        """What Heroku and a terminal do: every process of the group gets the signal."""
        os.killpg(self.popen.pid, signum)

    def wait(self, timeout_s: float = 40.0) -> int:
        return self.popen.wait(timeout_s)

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            self.signal_group(signal.SIGTERM)

    def close(self) -> None:
        """End whatever is left of it; how a process stops is what some tests are about, and they wait for it."""
        with suppress(ProcessLookupError):
            self.signal_group(signal.SIGKILL)
        self.popen.wait(10)
        self._sink.close()


class Stack:
    """Workers, and what else a test starts, against one RabbitMQ and one provider, with the settings of one test."""

    def __init__(self, url: str, provider_url: str, folder: Path, **settings: object) -> None:
        self.url = url
        self.folder = folder
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONUNBUFFERED": "1",
            "RABBITMQ_URL": url,
            "OPENROUTER_BASE_URL": f"{provider_url}/api/v1",
            "STATE_PATH": str(folder / "state.sqlite3"),
            "WORKER_PROCESSES": "1",
            "WORKER_THREADS": "8",
            **{name: str(value) for name, value in settings.items()},
        }
        self.processes: list[Process] = []

    def start(self, name: str, *, command: str | None = None, **settings: object) -> Process:
        environment = {**self.environment, **{k: str(v) for k, v in settings.items()}}
        process = Process(name, environment, self.folder / f"{name}-{len(self.processes)}.log", command)
        self.processes.append(process)
        return process

    def start_worker(self, *, command: str | None = None, **settings: object) -> Process:
        worker = self.start("worker", command=command, **settings)
        self._wait_for_worker(worker, **settings)
        return worker

    def start_bridge(self, **settings: object) -> Process:
        bridge = self.start("bridge", **settings)
        bridge.wait_for_output("Relaying")
        return bridge

    def _wait_for_worker(self, worker: Process, **settings: object) -> None:
        processes = int({**self.environment, **settings}["WORKER_PROCESSES"])
        worker.wait_for_output("is ready for action", count=processes)

    def close(self) -> None:
        for process in self.processes:
            process.close()

    @contextmanager
    def channel(self) -> Iterator[Any]:
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()

    def publish(self, *requests: dict[str, Any] | bytes, **properties: Any) -> None:
        """Publish to gemini.requests as a backend does: confirmed, into a queue that it declares itself."""
        with self.channel() as channel:
            channel.queue_declare("gemini.requests", durable=True)
            channel.confirm_delivery()
            for request in requests:
                body = request if isinstance(request, bytes) else json.dumps(request).encode()
                channel.basic_publish(
                    "", "gemini.requests", body, pika.BasicProperties(delivery_mode=2, **properties), mandatory=True
                )

    def put(self, queue: str, *bodies: bytes) -> None:
        """Publish straight into a queue, and again until RabbitMQ has it.

        A quorum queue refuses what it cannot take in time on a crowded machine. Without a confirm nobody is told.
        """
        with self.channel() as channel:
            channel.confirm_delivery()

            def confirmed(body: bytes) -> bool:
                try:
                    channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
                except pika.exceptions.NackError:
                    return False
                return True

            for body in bodies:
                wait_until(partial(confirmed, body), what=f"a confirm of {queue}")

    def answers(self, count: int, *, queue: str = "gemini.responses", timeout_s: float = 30.0) -> list["Answer"]:
        """The next `count` envelopes of a callback queue."""
        found: list[Answer] = []
        with self.channel() as channel:
            channel.queue_declare(queue, durable=True)

            def next_one() -> bool:
                method, properties, body = channel.basic_get(queue, auto_ack=True)
                if method is not None:
                    found.append(Answer(json.loads(body), properties, time.time()))
                return len(found) >= count

            try:
                wait_until(next_one, timeout_s=timeout_s, what=f"{count} envelopes in {queue}")
            except AssertionError as error:
                raise AssertionError(f"{error}: {len(found)} came\n{self.tail()}") from None
        return found

    def depth(self, queue: str) -> int:
        """Ready messages in a queue; 0 when it does not exist."""
        with self.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).method.message_count)
            except pika.exceptions.ChannelClosedByBroker:
                return 0

    def wait_for_depth(self, queue: str, count: int, *, or_more: bool = False) -> None:
        """Return when so many messages lie ready in a queue; what is there instead is said after a minute."""
        found: list[int] = []

        def reached() -> bool:
            found[:] = [self.depth(queue)]
            return found == [count] or (or_more and found[0] > count)

        try:
            wait_until(reached, timeout_s=60, what=f"{count} messages in {queue}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {found}\n{self.tail()}") from None

    def consumers(self, queue: str) -> int:
        """How many consume a queue; 0 when it does not exist. A worker says that it is ready before it does."""
        with self.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).method.consumer_count)
            except pika.exceptions.ChannelClosedByBroker:
                return 0

    def tail(self) -> str:
        return "\n".join(f"--- {p.log.name}\n{p.output()[-2500:]}" for p in self.processes)


class Answer:
    """An envelope with its AMQP properties and the time it was read."""

    def __init__(self, envelope: dict[str, Any], properties: pika.BasicProperties, at: float) -> None:
        self.envelope = envelope
        self.properties = properties
        self.at = at

    def __getitem__(self, field: str) -> Any:
        return self.envelope[field]
