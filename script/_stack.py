"""The Procfile's processes under honcho, as `script/demo` and `script/run` start them."""

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pika
from pika.exceptions import AMQPError

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 35.0
LAST_LINES = 15

#: What honcho says of a process.
WORKER_STARTED = re.compile(r"worker\.1 started \(pid=(\d+)\)")
STOPPED = re.compile(r"(\w+)\.1 stopped \(rc=(-?\d+)\)")

#: Tells our processes from all others, should honcho die before them: each process has it in its environment.
MARK = "GEMINI_STACK_MARK"


class Failed(Exception):
    """It cannot go on; the text is for a person, `code` is for the shell."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


class Stack:
    """The worker, from `start()` to `stop()`, which leaves no process behind.

    `settings` is their whole environment. They read `.env` in `cwd` as well, honcho reads none.
    """

    def __init__(self, settings: Mapping[str, str], *, cwd: Path) -> None:
        self._settings = {**settings, "PATH": f"{Path(sys.executable).parent}:{settings['PATH']}"}
        self._cwd = cwd
        self._mark = secrets.token_hex(8)
        self._honcho: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: list[str] = []
        self._listener: Callable[[str], None] = _nobody
        self._listening = threading.Lock()

    def start(self, request_queue: str = "gemini.requests") -> None:
        """Return when every worker process consumes. Raises Failed, with their last words."""
        processes = self._settings.get("WORKER_PROCESSES") or "2"
        # One that is no number is the worker's to complain about.
        url = self._settings["RABBITMQ_URL"]
        # Others may consume there already, where RabbitMQ is not ours alone.
        wanted = (int(processes) if processes.isdecimal() else 1) + (consumers(url, request_queue) or 0)
        command = ["honcho", "--no-colour", "-f", str(ROOT / "Procfile"), "-d", str(self._cwd), "-e", os.devnull]
        self._honcho = subprocess.Popen(
            [*command, "start"],
            env={**self._settings, "PYTHONUNBUFFERED": "1", MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the command, which stops its processes in order
        )
        self._reader = threading.Thread(target=self._read, args=(self._honcho,), daemon=True)
        with undisturbed():  # a thread takes over what is held back: a signal waits for the main one
            self._reader.start()
        self.wait_until(
            lambda: (consumers(url, request_queue) or 0) >= wanted,
            START_TIMEOUT_S,
            "the processes did not get ready",
        )

    def follow(self, listener: Callable[[str], None]) -> None:
        """Have every line of the log go to `listener`, and no longer to another one: first those that are there."""
        with self._listening:
            for line in self._lines:
                listener(line)
            self._listener = listener

    def wait(self) -> None:
        """Wait for as long as the worker runs. Raises Failed when it has ended."""
        if self._honcho is not None:
            self._honcho.wait()
        raise self._ended()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        """Return as soon as `condition` is true. Raises Failed after `timeout_s`, or when a process has ended."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self._honcho is None or self._honcho.poll() is not None:
                raise self._ended()
            if time.monotonic() > deadline:
                raise Failed(f"{otherwise} in {timeout_s:g} s. {self._last_lines()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the processes as a platform does, and kill what is left of them in the end. Idempotent."""
        if self._honcho is None:
            return
        # Once one process has ended, honcho gives the others 5 s. The worker may need more: its calls have been paid.
        self._terminate(self._worker() or self._honcho.pid)
        with suppress(subprocess.TimeoutExpired):
            self._honcho.wait(STOP_TIMEOUT_S)
        for pid in _marked(self._mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._honcho.wait()
        if self._reader is not None:
            self._reader.join(1.0)  # the last lines of the log

    def _terminate(self, pid: int) -> None:
        if self._honcho is not None and self._honcho.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _worker(self) -> int | None:
        found = next(filter(None, map(WORKER_STARTED.search, self._lines.copy())), None)
        return int(found[1]) if found else None

    def _read(self, honcho: "subprocess.Popen[str]") -> None:
        for line in honcho.stdout or ():
            with self._listening:
                self._lines.append(line.rstrip("\n"))
                try:
                    self._listener(self._lines[-1])
                except OSError:  # nobody reads our output any more; the processes shall not wait for that
                    self._listener = _nobody

    def _ended(self) -> Failed:
        code = self._honcho.wait() if self._honcho is not None else 1
        if self._reader is not None:
            self._reader.join(1.0)
        stopped = next(filter(None, map(STOPPED.search, self._lines)), None)
        who = f"the {stopped[1]} has ended by itself with {stopped[2]}" if stopped else "honcho has ended"
        return Failed(f"{who}. {self._last_lines()}", code if code > 0 else 1)

    def _last_lines(self) -> str:
        return "\n".join(["The last lines of the log:", "", *self._lines[-LAST_LINES:]])


def opens(url: str) -> bool:
    """Whether RabbitMQ answers there, takes the user of the URL, and has its virtual host."""
    with undisturbed(), suppress(AMQPError, OSError):
        pika.BlockingConnection(pika.URLParameters(url)).close()
        return True
    return False


def consumers(url: str, queue: str) -> int | None:
    """How many consume from a queue; None when there is no such queue, or RabbitMQ does not answer."""
    with undisturbed(), suppress(AMQPError, OSError), pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return int(connection.channel().queue_declare(queue, passive=True).method.consumer_count)
    return None


@contextmanager
def undisturbed() -> Iterator[None]:
    """A signal is handled afterwards: where an exception has cut through pika, closing its connection hangs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _nobody(_line: str) -> None:
    """Listens to nothing."""


def _marked(mark: str) -> list[int]:
    """The processes that have the mark in their environment; none on a system without /proc."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or belongs to somebody else
            if needle in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return found
