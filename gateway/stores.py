"""Chooses the stores: Redis for many machines, a SQLite file for one."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.keys.sqlite import SqliteKeyStore
from gateway.keys.store import KeyStore
from gateway.ledger import Ledger, NullLedger
from gateway.ledger_sqlite import SqliteLedger
from gateway.settings import Settings
from gateway.state_file import StateFile


@dataclass(frozen=True)
class Stores:
    """The stores of one process; `close()` is idempotent."""

    keys: KeyStore
    ledger: Ledger
    close: Callable[[], None]


def open_stores(settings: Settings) -> Stores:
    """The stores that the settings ask for. Raises StoreUnavailable when they cannot be used."""
    file = StateFile(settings.state_path)
    with file.snapshot():  # a path that cannot be used is told at boot
        pass
    ttl_s = settings.ledger_ttl_seconds
    return Stores(
        keys=SqliteKeyStore(file),
        ledger=SqliteLedger(file, ttl_s=ttl_s) if ttl_s > 0 else NullLedger(),
        close=file.close,
    )
