"""A virtual host of our own on a RabbitMQ that somebody else started, where we are allowed to make one."""

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

LOCAL = "amqp://guest:guest@localhost:5672"
TIMEOUT_S = 5.0

#: RabbitMQ's management API listens there unless RABBITMQ_MANAGEMENT_URL says otherwise.
MANAGEMENT_PORTS = {"http": 15672, "https": 15671}
AMQP_PORTS = {"amqp": 5672, "amqps": 5671}

#: What logging in takes, from the specification of AMQP 0-9-1; methods as (class, method).
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = 1
FRAME_END = b"\xce"
CONNECTION_START = (10, 10)
CONNECTION_START_OK = (10, 11)
CONNECTION_TUNE = (10, 30)


@contextmanager
def own_vhost(name: str) -> Iterator[str | None]:
    """The URL of a fresh virtual host `name`, deleted afterwards; None when there is no server or it lets us make none.

    Looks at RABBITMQ_URL, else at localhost:5672.
    """
    server = urllib.parse.urlsplit(os.environ.get("RABBITMQ_URL") or LOCAL)
    if not _lets_us_in(server):
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


def _lets_us_in(server: urllib.parse.SplitResult) -> bool:
    """Whether an AMQP server is there and takes the user of the URL."""
    if server.hostname is None or server.scheme not in AMQP_PORTS:
        return False
    if server.scheme == "amqps":
        return True  # the management API, over the same kind of connection, will tell
    where = (server.hostname, server.port or AMQP_PORTS[server.scheme])
    try:
        with socket.create_connection(where, timeout=TIMEOUT_S) as connection:
            connection.sendall(PROTOCOL_HEADER)
            with connection.makefile("rb") as incoming:
                return _method(incoming) == CONNECTION_START and _logs_in(connection, incoming, *_user(server))
    except (OSError, struct.error):
        return False


def _logs_in(connection: socket.socket, incoming: BinaryIO, user: str, password: str) -> bool:
    secret = f"\0{user}\0{password}".encode()
    arguments = struct.pack(">I6sI", 0, b"\x05PLAIN", len(secret)) + secret + b"\x05en_US"
    payload = struct.pack(">HH", *CONNECTION_START_OK) + arguments
    connection.sendall(struct.pack(">BHI", METHOD_FRAME, 0, len(payload)) + payload + FRAME_END)
    return _method(incoming) == CONNECTION_TUNE


def _method(incoming: BinaryIO) -> tuple[int, int] | None:
    """Class and method of the next frame; None when it is no method."""
    kind, _channel, size = struct.unpack(">BHI", incoming.read(7))
    payload = incoming.read(size + len(FRAME_END))
    if kind != METHOD_FRAME:
        return None
    number, method = struct.unpack(">HH", payload[:4])
    return number, method


def _user(server: urllib.parse.SplitResult) -> tuple[str, str]:
    return urllib.parse.unquote(server.username or "guest"), urllib.parse.unquote(server.password or "guest")


class _Management:
    """RabbitMQ's HTTP API, with the user of the URL."""

    def __init__(self, base: str, user: str, password: str) -> None:
        self._base = base
        self._user = user
        self._authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    @classmethod
    def of(cls, server: urllib.parse.SplitResult) -> "_Management | None":
        scheme = "https" if server.scheme == "amqps" else "http"
        usual = f"{scheme}://{server.hostname}:{MANAGEMENT_PORTS[scheme]}"
        base = os.environ.get("RABBITMQ_MANAGEMENT_URL") or usual
        return cls(f"{base.rstrip('/')}/api", *_user(server))

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
        return cls(_user(server)[0])

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
