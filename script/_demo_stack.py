"""The Procfile's processes under honcho, and the queues as a backend sees them."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pika
from pika.exceptions import ChannelClosedByBroker

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 150.0
STOP_TIMEOUT_S = 35.0

#: A line of honcho: time, process, and our log line with its request id.
LINE = re.compile(r"^\S+ (?P<process>\w+)\.\d+ +\| \S+ \S+ - \S+ - \w+ - \[(?P<request_id>[^\]]+)\] (?P<text>.*)$")


#: Tells our processes from all others, should honcho die before them: each process has it in its environment.
MARK = "GEMINI_DEMO_MARK"


class Failed(Exception):
    """The demo cannot go on; the text is for a person."""


class Stack:
    """The worker and the bridge, from `start()` to `stop()`; both leave no process behind."""

    def __init__(self, folder: Path, settings: Mapping[str, str], *, real: bool) -> None:
        self._settings = {**settings, "PATH": f"{Path(sys.executable).parent}:{settings['PATH']}"}
        # Settings are read from .env in the current folder as well: the demo with the stand-in keeps away from it.
        self._cwd = ROOT if real else folder
        self._no_env = folder / "empty.env"
        self._mark = secrets.token_hex(8)
        self._honcho: subprocess.Popen[str] | None = None
        self._lines: list[str] = []
        self._reader: threading.Thread | None = None
        self.on_line: Callable[[str], None] = lambda _line: None

    @property
    def where(self) -> str:
        return self._settings["RABBITMQ_URL"].rpartition("@")[2]

    def start(self) -> None:
        """Return when the bridge and every worker process consume. Raises Failed, with their last words."""
        self._no_env.touch()
        command = ["honcho", "--no-colour", "-f", str(ROOT / "Procfile"), "-d", str(self._cwd), "-e", str(self._no_env)]
        self._honcho = subprocess.Popen(
            [*command, "start"],
            env={**self._settings, "PYTHONUNBUFFERED": "1", MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the demo, which stops its processes in order
        )
        self._reader = threading.Thread(target=self._read, args=(self._honcho,), daemon=True)
        self._reader.start()
        wanted = {"gemini.requests": 1, "gemini.generate": int(self._settings["WORKER_PROCESSES"])}
        self._wait_until(lambda: self._consumed(wanted), START_TIMEOUT_S, "the processes did not get ready")

    def ask(self, request: dict[str, Any], *, on_log: Callable[[str, str], None]) -> dict[str, Any]:
        """Publish a request, confirmed, and return its envelope; `on_log` gets process and text of its log lines."""
        settled = threading.Event()

        def tell(line: str) -> None:
            found = LINE.match(line)
            if found is None or found["request_id"] != request["request_id"]:
                return
            on_log(found["process"], found["text"])
            if found["text"].startswith("Settled: answered"):
                settled.set()

        self.on_line = tell
        with pika.BlockingConnection(pika.URLParameters(self._settings["RABBITMQ_URL"])) as connection:
            channel = connection.channel()
            channel.queue_declare("gemini.requests", durable=True)
            channel.queue_declare(request["callback_queue"], durable=True)
            channel.confirm_delivery()
            properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
            channel.basic_publish("", "gemini.requests", json.dumps(request).encode(), properties, mandatory=True)
            answers: list[dict[str, Any]] = []

            def answered() -> bool:
                _method, _properties, body = channel.basic_get(request["callback_queue"], auto_ack=True)
                if body is not None:
                    answers.append(json.loads(body))
                return bool(answers)

            self._wait_until(answered, ANSWER_TIMEOUT_S, "no answer came")
        settled.wait(2.0)  # its last log line may still be on its way
        return answers[0]

    def stop(self) -> None:
        """Stop the processes as a platform does, and kill what is left of them in the end. Idempotent."""
        if self._honcho is None:
            return
        if self._honcho.poll() is None:
            self._honcho.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._honcho.wait(STOP_TIMEOUT_S)
        for pid in _marked(self._mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._honcho.wait()

    def _read(self, honcho: "subprocess.Popen[str]") -> None:
        for line in honcho.stdout or ():
            self._lines.append(line)
            self.on_line(line.rstrip("\n"))

    def _consumed(self, wanted: dict[str, int]) -> bool:
        try:
            with pika.BlockingConnection(pika.URLParameters(self._settings["RABBITMQ_URL"])) as connection:
                channel = connection.channel()
                return all(
                    channel.queue_declare(queue, passive=True).method.consumer_count >= count
                    for queue, count in wanted.items()
                )
        except ChannelClosedByBroker:  # not declared yet
            return False

    def _wait_until(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            ended = self._honcho is None or self._honcho.poll() is not None
            if ended or time.monotonic() > deadline:
                reason = "a process has ended" if ended else f"{otherwise} in {timeout_s:g} s"
                raise Failed(f"{reason}. The last lines of the log:\n\n{''.join(self._lines[-25:])}")
            time.sleep(0.1)


def _marked(mark: str) -> list[int]:
    """The processes with our mark; none where the system has no /proc."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if needle in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return found
