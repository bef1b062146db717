"""What tests of every kind share: a real RabbitMQ, virtual hosts on it, and a real Redis."""

import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from dev.rabbitmq import Node, Server
from dev.rabbitmq.programs import installed
from dev.redis import installed as is_redis_installed
from dev.redis import redis_server

#: What property tests try: every day the same, and no time is measured; many more, and others, in `script/chaos`.
settings.register_profile("every-day", deadline=None, derandomize=True, database=None)
settings.register_profile("bulk", deadline=None, max_examples=2000, stateful_step_count=100, print_blob=True)
settings.load_profile("every-day")


def pytest_configure() -> None:
    """A SIGTERM, as from `timeout` or a CI system, tidies up like Ctrl-C: no server is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def rabbitmq_server(rabbitmq_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this test run's own, shared by tests that do it no harm; or the one of TEST_RABBITMQ_URL.

    TEST_RABBITMQ_MANAGEMENT_URL is where the HTTP API of that one is, TEST_RABBITMQ_CONTROL the command line of its
    `rabbitmqctl`.
    """
    if url := os.environ.get("TEST_RABBITMQ_URL"):
        control = shlex.split(os.environ.get("TEST_RABBITMQ_CONTROL", "rabbitmqctl"))
        yield Server(url, os.environ.get("TEST_RABBITMQ_MANAGEMENT_URL", "http://localhost:15672"), control)
        return
    with Node(tmp_path_factory.mktemp("rabbitmq")).started() as node:
        yield node


@pytest.fixture
def own_rabbitmq(rabbitmq_installed: None, tmp_path: Path) -> Iterator[Node]:
    """A server of one test's own, to be hurt."""
    with Node(tmp_path / "own-rabbitmq").started() as node:
        yield node


@pytest.fixture
def vhost_url(rabbitmq_server: Server) -> Iterator[str]:
    """A fresh virtual host on the shared server."""
    with rabbitmq_server.fresh_vhost() as url:
        yield url


@pytest.fixture(scope="session")
def redis_installed() -> None:
    """Skips a test where there is no Redis, and fails it in CI."""
    _needs(is_redis_installed(), "redis-server is not installed")


@pytest.fixture(scope="session")
def redis_url(redis_installed: None) -> Iterator[str]:
    """A Redis of this test run's own; a test that uses it empties it first."""
    with redis_server() as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq_installed() -> None:
    """Skips a test where there is no RabbitMQ, and fails it in CI."""
    _needs(installed() is not None, "RabbitMQ is not installed: script/rabbitmq install")


def _needs(is_there: bool, otherwise: str) -> None:
    if not is_there:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(otherwise)
