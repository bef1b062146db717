"""Key stores for tests: opened and closed, and one that notes when it has granted what."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from gateway.keys.redis import RedisKeyStore
from gateway.keys.sqlite import SqliteKeyStore
from gateway.keys.store import Blocked, Granted, KeySet, KeyStore
from gateway.stores.redis_server import RedisServer
from gateway.stores.state_file import StateFile


@contextmanager
def key_store(kind: str, where: str) -> Iterator[KeyStore]:
    """The store in a SQLite file or at the URL of a Redis."""
    if kind == "sqlite":
        with closing(StateFile(Path(where))) as file:
            yield SqliteKeyStore(file)
    else:
        with closing(RedisServer(where)) as server:
            yield RedisKeyStore(server)


class Noting:
    """A store that keeps the digests and times of what it has granted."""

    def __init__(self, store: KeyStore) -> None:
        self.store = store
        self.granted: list[tuple[str, float]] = []

    def acquire(self, key_set: KeySet, model: str, lease: str) -> Granted | Blocked:
        found = self.store.acquire(key_set, model, lease)
        if isinstance(found, Granted):
            self.granted.append((found.digest, found.at))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)
