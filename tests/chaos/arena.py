"""What a round runs on: the Procfile's processes as a test build behind a proxy, restarted as a platform does."""

import json
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dev.backend import Backend
from dev.launcher import Process
from dev.process_group import workers
from dev.stack import Stack
from fake_openrouter.client import FakeClient
from tests.chaos.checker import Envelope, Piece
from tests.chaos.proxy import Proxy

TEST_BUILD = Path(__file__).parent / "testbuild"

#: How often the platform looks whether a process has ended, in seconds.
LOOK_EVERY_S = 0.05


class Arena:
    """A stack of test builds; a process that ends is started again, whatever the reason, until `close()`."""

    def __init__(self, url: str, user: str, fake: FakeClient, folder: Path, **settings: object) -> None:
        """`url` is the way of a backend and of an operator; `user` is "name:password" of the product's own user."""
        parts = urlsplit(url)
        self.proxy = Proxy(parts.port or 5672)
        through = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self.proxy.port}"))
        self.folder = folder
        self.fake = fake
        self.stack = Stack.apart(through, fake.base_url, folder, **settings)
        # A killed process writes no coverage data, and tracing makes the others slow.
        for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
            self.stack.environment.pop(name, None)
        self.stack.environment |= {"PYTHONPATH": str(TEST_BUILD), "CHAOS_FOLDER": str(folder)}
        self.with_bridge = False
        self.direct = Backend(url)
        self.running: dict[str, Process] = {}
        self.ended: list[tuple[str, int]] = []
        self.envelopes: list[Envelope] = []
        self.pieces: list[Piece] = []
        self.producing = threading.Event()  # cleared, it holds the backend still
        self.producing.set()
        self._closing = threading.Event()
        self._platform = threading.Thread(target=self._supervise, daemon=True)

    def start(self) -> None:
        """Return when the worker is ready, and the bridge where there is one."""
        (self.folder / "journal.jsonl").touch()
        for name in ("worker", "bridge") if self.with_bridge else ("worker",):
            self.running[name] = self.stack.start(name)
        self.running["worker"].wait_for_output("is ready for action")
        if self.with_bridge:
            self.running["bridge"].wait_for_output("Relaying")
        self._platform.start()

    def close(self) -> None:
        self._closing.set()
        self.proxy.heal()
        if self._platform.is_alive():
            self._platform.join(5)
        for name in self.running:
            self.kill(name)  # nobody looks at what they leave behind, and a farewell takes seconds
        self.stack.close()
        self.proxy.close()

    def arm(self, step: str, request_id: str = "any", *, times: int = 1) -> None:
        """End the process that next reaches this step of this request, and so on, `times` of them (at most two)."""
        for number in range(1, times + 1):
            (self.folder / f"{step}@{request_id}.{number}").touch()

    def armed(self) -> list[str]:
        """The failpoints that nobody has come to yet."""
        return sorted(path.name for path in self.folder.glob("*@*"))

    def disarm(self) -> None:
        for path in self.folder.glob("*@*"):
            path.unlink(missing_ok=True)

    def journal(self) -> list[dict[str, Any]]:
        """Every step that was reached, in order."""
        return [json.loads(line) for line in (self.folder / "journal.jsonl").read_bytes().splitlines()]

    def kill(self, name: str) -> None:
        """SIGKILL to every process of the group."""
        if name in self.running:
            with suppress(ProcessLookupError):
                self.running[name].signal_group(signal.SIGKILL)

    def kill_one_child(self, name: str) -> None:
        """SIGKILL to one worker process; its keeper starts another one."""
        with suppress(OSError, IndexError):
            os.kill(workers(self.running[name].popen.pid)[-1], signal.SIGKILL)

    def terminate(self, name: str) -> None:
        if name in self.running:
            self.running[name].terminate()

    def pause(self, name: str) -> None:
        with suppress(ProcessLookupError):
            self.running[name].signal_group(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        if name in self.running:
            with suppress(ProcessLookupError):
                self.running[name].signal_group(signal.SIGCONT)

    def read(self, queue: str) -> None:
        """Take the envelopes, and the pieces of answers, out of a callback queue, as a backend does."""
        with self.direct.channel() as channel:
            while (message := channel.basic_get(queue, auto_ack=True))[0] is not None:
                _method, properties, body = message
                if properties.type == "gemini.delta":
                    is_late = any(one.request_id == properties.correlation_id for one in self.envelopes)
                    self.pieces.append(Piece(properties.correlation_id, is_late, body.decode()))
                    continue
                status = json.loads(body)["status"]
                self.envelopes.append(Envelope(properties.correlation_id, status, properties.message_id, body.decode()))

    def output(self) -> str:
        """Everything that the processes have printed."""
        return "".join(process.output() for process in self.stack.processes)

    def _supervise(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            for name, process in list(self.running.items()):
                code = process.popen.poll()
                if code is not None:
                    self.ended.append((name, code))
                    with suppress(ProcessLookupError):
                        process.signal_group(signal.SIGKILL)  # what a dead master has left behind
                    self._pause_before_restart(name)
                    self.running[name] = self.stack.start(name)

    def _pause_before_restart(self, name: str) -> None:
        """A platform does not spin: a process that keeps ending is started once a second."""
        recent = [one for one, _code in self.ended[-4:] if one == name]
        self._closing.wait(1.0 if len(recent) > 3 else 0.1)
