"""Small servers that a worker talks to in a test: Sentry's, and a proxy with a password."""

import base64
import gzip
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, urlsplit


class Server(ThreadingHTTPServer):
    """On a free port, in a thread of its own; a caller who hangs up in the middle is no error."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class SentrySink:
    """Takes Sentry's envelopes and keeps them, unpacked."""

    def __init__(self) -> None:
        self.envelopes: list[bytes] = []
        outer = self

        class Handler(_Handler):
            def do_POST(self) -> None:
                body = self.body()
                packed = self.headers.get("Content-Encoding") == "gzip"
                outer.envelopes.append(gzip.decompress(body) if packed else body)
                self.answer(200, b"{}")

        self._server = Server(Handler)

    @property
    def dsn(self) -> str:
        return f"http://public@127.0.0.1:{self._server.port}/1"

    @property
    def text(self) -> str:
        return b"\n".join(self.envelopes).decode()

    def items(self, kind: str) -> list[dict[str, Any]]:
        """The `event`s or `transaction`s that have come."""
        found = []
        for envelope in self.envelopes:
            lines = iter(envelope.splitlines()[1:])
            found += [
                json.loads(body) for head, body in zip(lines, lines, strict=False) if json.loads(head)["type"] == kind
            ]
        return found

    @contextmanager
    def running(self) -> Iterator["SentrySink"]:
        with self._server.running():
            yield self


class Proxy:
    """Forwards plain HTTP for who knows the password; refuses what holds `refuses`, and repeats what it was given.

    Where an answer says `KEY_USED`, the caller reads his key: this provider repeats whatever it was sent.
    """

    KEY_USED = "the-key-used"

    def __init__(self, user: str, password: str, *, refuses: str) -> None:
        self.forwarded = 0
        self._credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
        outer, expected = self, "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

        class Handler(_Handler):
            def do_POST(self) -> None:
                body = self.body()
                given = self.headers.get("Proxy-Authorization", "none")
                if given != expected or refuses.encode() in body:
                    said = f"{given} {user}:{password} may not send {body.decode()} {self.headers['Authorization']}"
                    self.answer(407, said.encode(), **{"Proxy-Authenticate": "Basic"})
                    return
                outer.forwarded += 1
                key = self.headers["Authorization"].removeprefix("Bearer ")
                status, found, headers = _forward(self.path, body, dict(self.headers))
                repeated = {name: value.replace(outer.KEY_USED, key) for name, value in headers.items()}
                self.answer(status, found.replace(outer.KEY_USED.encode(), key.encode()), **repeated)

        self._server = Server(Handler)

    @property
    def url(self) -> str:
        return f"http://{self._credentials}@127.0.0.1:{self._server.port}"

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        with self._server.running():
            yield self


def _forward(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
    """Status, body, and of the headers those that count."""
    target = urlsplit(url)
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=30)
    try:
        kept = {name: value for name, value in headers.items() if not name.lower().startswith("proxy-")}
        connection.request("POST", target.path, body, kept)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    names = ("Content-Type", "Location", "Retry-After")
    return response.status, content, {name: response.headers[name] for name in names if name in response.headers}
