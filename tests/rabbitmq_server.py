"""A RabbitMQ server for tests: virtual hosts in milliseconds, and every way to hurt it."""

import base64
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "script"))
from _rabbitmq_install import installed
from _rabbitmq_node import Node, _free_ports

#: RabbitMQ as it comes, with its management API.
CONFIG = """\
management.tcp.port = {port}
management.tcp.ip = 127.0.0.1
"""


class RabbitmqServer(Node):
    """A private node, started by `start_server` and stopped by `stop`."""

    def __init__(self, folder: Path) -> None:
        (self.management_port,) = _free_ports(1)
        self._started: list[Any] = []
        super().__init__(folder, plugins=["rabbitmq_management"], config=CONFIG.format(port=self.management_port))

    def _detach(self, command: list[str], environment: Any) -> Any:
        process = super()._detach(command, environment)
        self._started.append(process)
        return process

    def stop(self, *, keep: bool) -> None:
        self.kill()  # nobody will miss its data, and a farewell takes ten seconds
        super().stop(keep=keep)
        for process in self._started:
            process.poll()  # it was reaped by its number: Python's own object should know

    def start_server(self) -> None:
        """Return when RabbitMQ and its management API answer; after a `kill`, with the data that it had."""
        self.start(installed())
        deadline = time.monotonic() + 60
        while not self._api_answers():
            if time.monotonic() > deadline:
                raise AssertionError("the management API does not answer")
            threading.Event().wait(0.05)

    @contextmanager
    def fresh_vhost(self) -> Iterator[str]:
        """The URL of a virtual host of its own, which is deleted with all that is in it."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.api("PUT", f"vhosts/{name}")
        self.api("PUT", f"permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        try:
            yield f"{self.url}/{name}"
        finally:
            self.api("DELETE", f"vhosts/{name}")

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Ask the management API."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.management_port}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={
                "Authorization": "Basic " + base64.b64encode(b"guest:guest").decode(),
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None

    def permit(
        self, url: str, *, user: str = "guest", configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """Set what a user may do in the virtual host of `url`."""
        body = {"configure": configure, "write": write, "read": read}
        self.api("PUT", f"permissions/{vhost_of(url)}/{user}", body)

    def close_connections(self, url: str) -> None:
        """Close every connection to the virtual host of `url`, as an operator or a failing node would."""
        self._control("close_all_connections", "--vhost", vhost_of(url), "closed by a test")

    def stop_app(self) -> None:
        """Stop RabbitMQ and leave Erlang running: connections are closed, new ones refused."""
        self._control("stop_app")

    def start_app(self) -> None:
        self._control("start_app")

    def alarm(self, *, on: bool) -> None:
        """Raise or end a memory alarm, which blocks every connection that publishes."""
        self._control("set_vm_memory_high_watermark", "0.00000001" if on else "0.6")

    @contextmanager
    def stuck(self, url: str, queue: str) -> Iterator[None]:
        """Meanwhile a classic queue of the virtual host of `url` takes, confirms and gives nothing."""
        name = f'rabbit_misc:r(<<"{vhost_of(url)}">>, queue, <<"{queue}">>)'
        found = f"{{ok, Queue}} = rabbit_amqqueue:lookup({name}), sys:%s(amqqueue:get_pid(Queue))."
        self._control("eval", found % "suspend")
        try:
            yield
        finally:
            self._control("eval", found % "resume")

    def freeze(self) -> None:
        """Stop the server's processes where they are; their sockets stay open and silent."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, signum: int) -> None:
        pid, _birth = self.facts["processes"][1]
        os.killpg(pid, signum)

    def _api_answers(self) -> bool:
        try:
            self.api("GET", "overview")
        except (urllib.error.URLError, OSError):
            return False
        return True


def vhost_of(url: str) -> str:
    return quote(urlsplit(url).path.removeprefix("/") or "/", safe="")
