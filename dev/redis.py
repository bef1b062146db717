"""A redis-server of our own, on a socket of its own."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from dev.certificates import Certificates
from dev.waiting import wait_until

START_S = 20.0


def installed() -> bool:
    return shutil.which("redis-server") is not None


@contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """The URL of a Redis that nobody else uses; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # short: a socket's path has at most 107 bytes
        socket = Path(folder) / "s"
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder, *options]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: _answers(f"unix://{socket}"), timeout_s=START_S, what="an answer of Redis")
            yield f"unix://{socket}"
        finally:
            server.terminate()
            server.wait(START_S)


def with_tls(certificates: Certificates, port: int) -> tuple[str, ...]:
    """Options for a port that speaks TLS only, and asks nobody for a certificate."""
    files = {"cert": certificates.certificate, "key": certificates.key, "ca-cert": certificates.authority}
    named = [option for name, file in files.items() for option in (f"--tls-{name}-file", str(file))]
    return ("--tls-port", str(port), "--tls-auth-clients", "no", *named)


def process_id(url: str) -> int:
    """Of the server."""
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def empty(url: str) -> None:
    """Forget everything."""
    with redis.Redis.from_url(url) as client:
        client.flushall()


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False
