"""Chooses the stores: Redis for many machines, a SQLite file for one."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.keys.redis import RedisKeyStore
from gateway.keys.sqlite import SqliteKeyStore
from gateway.keys.store import KeyStore
from gateway.ledger.redis import RedisLedger
from gateway.ledger.sqlite import SqliteLedger
from gateway.ledger.store import Ledger, NullLedger
from gateway.settings import Settings
from gateway.stores.redis_server import RedisServer
from gateway.stores.state_file import StateFile


@dataclass(frozen=True)
class Stores:
    """The stores of one process; `close()` is idempotent."""

    keys: KeyStore
    ledger: Ledger
    close: Callable[[], None]


def open_stores(settings: Settings) -> Stores:
    """The stores that the settings ask for, tried once. Raises StoreUnavailable when they cannot be used."""
    if settings.redis_url is not None:
        return _in_redis(settings.redis_url.get_secret_value(), settings.ledger_ttl_seconds)
    return _in_a_file(StateFile(settings.state_path), settings.ledger_ttl_seconds)


def _in_redis(url: str, ttl_s: float) -> Stores:
    server = RedisServer(url)
    server.ping()
    ledger = RedisLedger(server, ttl_s=ttl_s) if ttl_s > 0 else NullLedger()
    return Stores(RedisKeyStore(server), ledger, server.close)


def _in_a_file(file: StateFile, ttl_s: float) -> Stores:
    with file.snapshot():
        pass  # opening it was the try
    ledger = SqliteLedger(file, ttl_s=ttl_s) if ttl_s > 0 else NullLedger()
    return Stores(SqliteKeyStore(file), ledger, file.close)
