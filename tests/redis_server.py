"""A redis-server of the test run's own, on a socket of its own."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.system.stack import wait_until

START_S = 20.0


@contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """The URL of a Redis that nobody else uses; skips where there is no redis-server, except in CI."""
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # short: a socket's path has at most 107 bytes
        socket = Path(folder) / "s"
        command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder, *options]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: _answers(f"unix://{socket}"), timeout_s=START_S, what="an answer of Redis")
            yield f"unix://{socket}"
        finally:
            server.terminate()
            server.wait(START_S)


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
