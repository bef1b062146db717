"""Which stores the settings choose, and what is said when they are away."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from gateway.errors import StoreUnavailable
from gateway.keys.redis import RedisKeyStore
from gateway.keys.sqlite import SqliteKeyStore
from gateway.ledger.redis import RedisLedger
from gateway.ledger.sqlite import SqliteLedger
from gateway.ledger.store import NullLedger
from gateway.resources import open_stores
from gateway.settings import Settings
from gateway.stores.redis_server import RedisServer


def settings_of(folder: Path, **environment: str) -> Settings:
    with mock.patch.dict(os.environ, {"STATE_PATH": str(folder / "state.sqlite3"), **environment}, clear=True):
        return Settings(_env_file=None)


def test_a_file_is_the_default(tmp_path: Path):
    """One machine needs no other service."""
    stores = open_stores(settings_of(tmp_path))
    assert (type(stores.keys), type(stores.ledger)) == (SqliteKeyStore, SqliteLedger)
    stores.close()
    stores.close()


def test_redis_is_used_when_it_is_set(tmp_path: Path, redis_url: str):
    """And no file is made."""
    stores = open_stores(settings_of(tmp_path, REDIS_URL=redis_url))
    assert (type(stores.keys), type(stores.ledger)) == (RedisKeyStore, RedisLedger)
    stores.close()
    stores.close()
    assert list(tmp_path.iterdir()) == []


def test_without_redis_its_client_is_not_loaded():
    """It is a tenth of the imports, and 6 MB of each process."""
    asked = [sys.executable, "-c", "import actors, sys; print('redis' in sys.modules)"]
    assert subprocess.run(asked, check=True, capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_no_time_to_live_means_no_ledger(tmp_path: Path, kind: str, request: pytest.FixtureRequest):
    """LEDGER_TTL_SECONDS=0, with either store."""
    more = {"REDIS_URL": request.getfixturevalue("redis_url")} if kind == "redis" else {}
    stores = open_stores(settings_of(tmp_path, LEDGER_TTL_SECONDS="0", **more))
    assert isinstance(stores.ledger, NullLedger)
    stores.close()


def test_a_file_that_cannot_be_used_is_told_at_once(tmp_path: Path):
    """At boot, not at the first request."""
    with pytest.raises(StoreUnavailable, match="STATE_PATH"):
        open_stores(settings_of(tmp_path, STATE_PATH=str(tmp_path)))


def test_a_redis_that_cannot_be_reached_is_told_at_once(tmp_path: Path):
    """In one line without its password."""
    with pytest.raises(StoreUnavailable, match="REDIS_URL") as caught:
        open_stores(settings_of(tmp_path, REDIS_URL="redis://:canary@127.0.0.1:1/0"))
    assert "canary" not in str(caught.value)
    assert ("\n" in str(caught.value), ".." in str(caught.value)) == (False, False)


def test_a_url_that_is_none_of_redis_is_told_without_its_password():
    """Whoever makes it, settings or not."""
    with pytest.raises(StoreUnavailable, match="REDIS_URL") as caught:
        RedisServer("http://:canary@127.0.0.1:1/0")
    assert "canary" not in str(caught.value)
