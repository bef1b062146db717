"""A redis-server of the test run's own, on a socket of its own."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

START_S = 20.0


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of a Redis that nobody else uses; skips where there is no redis-server, except in CI."""
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # short: a socket's path has at most 107 bytes
        socket = Path(folder) / "s"
        command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _wait_ready(f"unix://{socket}")
            yield f"unix://{socket}"
        finally:
            server.terminate()
            server.wait(START_S)


def empty(url: str) -> None:
    """Forget everything."""
    with redis.Redis.from_url(url) as client:
        client.flushall()


def _wait_ready(url: str) -> None:
    deadline = time.monotonic() + START_S
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return
