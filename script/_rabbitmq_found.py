"""A virtual host of our own on a RabbitMQ that somebody else started, where we are allowed to make one."""

import base64
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from _rabbitmq_node import answers

LOCAL = "amqp://guest:guest@localhost:5672"
TIMEOUT_S = 5.0

#: RabbitMQ's management API listens there unless told otherwise.
MANAGEMENT_PORTS = {"http": 15672, "https": 15671}
AMQP_PORTS = {"amqp": 5672, "amqps": 5671}


@contextmanager
def own_vhost(name: str) -> Iterator[str | None]:
    """The URL of a fresh virtual host `name`, deleted afterwards; None when there is no server or it lets us make none.

    Looks at RABBITMQ_URL, else at localhost:5672.
    """
    server = urllib.parse.urlsplit(os.environ.get("RABBITMQ_URL") or LOCAL)
    if not _answers(server):
        yield None
        return
    doors = [door for door in (_Management.of(server), _Control.of(server)) if door is not None]
    door = next((door for door in doors if door.make(name)), None)
    if door is None:
        yield None
        return
    try:
        yield urllib.parse.urlunsplit(server._replace(path=f"/{name}"))
    finally:
        door.remove(name)


def _answers(server: urllib.parse.SplitResult) -> bool:
    if server.hostname is None or server.scheme not in AMQP_PORTS:
        return False
    if server.scheme == "amqps":
        return True  # the greeting is encrypted; the management API will tell
    return answers(server.hostname, server.port or AMQP_PORTS["amqp"])


class _Management:
    """RabbitMQ's HTTP API, with the user of the URL."""

    def __init__(self, base: str, user: str, password: str) -> None:
        self._base = base
        self._user = user
        self._authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    @classmethod
    def of(cls, server: urllib.parse.SplitResult) -> "_Management | None":
        scheme = "https" if server.scheme == "amqps" else "http"
        user, password = (urllib.parse.unquote(part or "guest") for part in (server.username, server.password))
        return cls(f"{scheme}://{server.hostname}:{MANAGEMENT_PORTS[scheme]}/api", user, password)

    def make(self, name: str) -> bool:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        user = urllib.parse.quote(self._user, safe="")
        return self._call("PUT", f"/vhosts/{name}", {}) and self._call("PUT", f"/permissions/{name}/{user}", everything)

    def remove(self, name: str) -> None:
        self._call("DELETE", f"/vhosts/{name}")

    def _call(self, method: str, path: str, body: object = None) -> bool:
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data=data, method=method, headers=headers)  # noqa: S310
        try:
            # No proxy: the server is where the URL says.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=TIMEOUT_S):
                return True
        except (OSError, urllib.error.URLError):
            return False


class _Control:
    """`rabbitmqctl` for the server of this machine, as its administrator."""

    def __init__(self, user: str) -> None:
        self._user = user

    @classmethod
    def of(cls, server: urllib.parse.SplitResult) -> "_Control | None":
        local = server.hostname in {"localhost", "127.0.0.1", "::1"}
        # It talks to the node by name: only the server on the usual port is surely that one.
        usual = server.port in {None, AMQP_PORTS["amqp"]}
        if not (local and usual and os.geteuid() == 0 and shutil.which("rabbitmqctl")):
            return None
        return cls(urllib.parse.unquote(server.username or "guest"))

    def make(self, name: str) -> bool:
        made = self._call("add_vhost", name) and self._call("set_permissions", "-p", name, self._user, ".*", ".*", ".*")
        if not made:
            self.remove(name)
        return made

    def remove(self, name: str) -> None:
        self._call("delete_vhost", name)

    @staticmethod
    def _call(*arguments: str) -> bool:
        command = ["rabbitmqctl", "--quiet", *arguments]
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
