"""Key stores of both kinds: a test that asks for `store` runs over each; a child process opens the same again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.keys.redis import RedisKeyStore
from gateway.keys.sqlite import SqliteKeyStore
from gateway.keys.store import KeyStore
from gateway.redis_server import RedisServer
from gateway.state_file import StateFile
from tests.redis_server import empty


def key_store(kind: str, where: str) -> KeyStore:
    return SqliteKeyStore(StateFile(Path(where))) if kind == "sqlite" else RedisKeyStore(RedisServer(where))


@pytest.fixture(params=["sqlite", "redis"])
def place(request: Any, tmp_path: Path) -> tuple[str, str]:
    """The kind of a store and where a fresh one is."""
    if request.param == "sqlite":
        return "sqlite", str(tmp_path / "state.sqlite3")
    url = request.getfixturevalue("redis_url")
    empty(url)
    return "redis", url


@pytest.fixture
def store(place: tuple[str, str]) -> Iterator[KeyStore]:
    """A fresh key store of each kind."""
    opened = key_store(*place)
    yield opened
    opened.close()
