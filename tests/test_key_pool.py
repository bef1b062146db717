"""What the pool decides before it asks its store."""

from pathlib import Path

import pytest

from gateway.errors import RateLimited, Scope, StoreUnavailable
from gateway.keys.pool import KeyPool, Lease, Unavailable
from gateway.keys.store import Granted, KeySet, Rest, StoredKey
from gateway.resources import Resources
from gateway.secrets import ApiKey
from gateway.settings import Settings

KEY = ApiKey("sk-or-v1-canary-key-1", label="canary-label")


class Store:
    """Grants the first key, and notes what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def acquire(self, key_set: KeySet, model: str, lease: str) -> Granted:
        self.told.append(("acquire", key_set, model, lease))
        return Granted(key_set.keys[0].digest, 7.0)

    def cool(self, key_set: KeySet, subject: str, rest: Rest) -> None:
        self.told.append(("cool", key_set, subject, rest))

    def cancel(self, key_set: KeySet, digest: str, lease: str) -> None:
        raise StoreUnavailable("away")

    def release(self, key_set: KeySet, digest: str, lease: str) -> None:
        self.told.append(("release", digest, lease))


def test_the_margin_lengthens_the_window():
    """The provider counts calls when they arrive, we count them when they are granted."""
    store = Store()
    KeyPool([KEY], store, max_per_window=3, window_s=60.0, margin_s=0.5).acquire("m")
    key_set = store.told[0][1]
    assert (key_set.limit, key_set.window_s) == (3, 60.5)


@pytest.mark.parametrize(("window_s", "lengthened_s"), [(2.0, 2.25), (60.0, 61.0), (3600.0, 3660.0)])
def test_the_margin_grows_with_the_window(window_s: float, lengthened_s: float):
    """A second of a minute: a first call, which connects, takes that much longer than one on an open connection."""
    store = Store()
    KeyPool([KEY], store, max_per_window=3, window_s=window_s).acquire("m")
    assert store.told[0][1].window_s == lengthened_s


def test_the_store_takes_its_own_time_unless_a_clock_is_given():
    """With Redis all machines then have the server's."""
    store = Store()
    KeyPool([KEY], store, max_per_window=1).acquire("m")
    KeyPool([KEY], store, max_per_window=1, clock=lambda: 5.0).acquire("m")
    first, second = (told[1] for told in store.told)
    assert first.clock is None
    assert second.clock() == 5.0


def test_every_lease_has_an_id_of_its_own():
    """So that giving one back never gives back another."""
    pool = KeyPool([KEY], Store(), max_per_window=9)
    assert len({pool.acquire("m").id for _ in range(50)}) == 50


def test_a_release_asks_the_store_only_where_flights_are_limited():
    """Without a limit there is nothing to count down, and no trip to the store to do it."""
    unlimited, limited = Store(), Store()
    for store, cap in ((unlimited, 0), (limited, 2)):
        pool = KeyPool([KEY], store, max_per_window=9, max_in_flight=cap)
        lease = pool.acquire("m")
        assert isinstance(lease, Lease)
        pool.release(lease)
    assert [told[0] for told in unlimited.told] == ["acquire"]
    assert limited.told[1] == ("release", KEY.digest, lease.id)


def test_the_settings_limit_what_is_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A lease that nobody releases counts for as long as a call may take, and a margin more."""
    monkeypatch.setattr("gateway.resources.LEASE_MARGIN_S", 1000.0)
    resources = Resources()
    settings = Settings(
        OPENROUTER_API_KEYS="sk-or-v1-canary-key-1",
        STATE_PATH=tmp_path / "state.sqlite3",
        KEYS_MAX_IN_FLIGHT=1,
        REQUEST_TIMEOUT_SECONDS=30,
        _env_file=None,
    )
    resources.settings.open(settings)
    resources.open_provider()
    pool = resources.pool()
    lease = pool.acquire("m")
    found = pool.acquire("m")
    resources.close(1.0)
    assert isinstance(lease, Lease)
    assert isinstance(found, Unavailable)
    assert 30.0 < found.retry_in_s <= 1030.0
    assert repr(pool) == "KeyPool(1 keys, 10 per 61 s, 1 in flight)"


def test_no_key_and_no_label_is_told_to_the_store():
    """Digests are all that a store is asked about."""
    store = Store()
    pool = KeyPool([KEY], store, max_per_window=1)
    lease = pool.acquire("m")
    assert isinstance(lease, Lease)
    for scope in Scope:
        pool.cool(lease, RateLimited("x", reason="r", scope=scope))
    assert len(store.told) == 4
    assert "canary" not in repr(store.told)


def test_no_key_is_in_any_text_of_the_pool():
    """`repr` shows counts."""
    pool = KeyPool([KEY], Store(), max_per_window=3)
    assert repr(pool) == "KeyPool(1 keys, 3 per 61 s)"
    assert "canary" not in repr(pool.acquire("m"))


def test_the_same_key_twice_is_one_key():
    """A key listed twice has one window."""
    store = Store()
    KeyPool([KEY, KEY], store, max_per_window=1).acquire("m")
    assert len(store.told[0][1].keys) == 1


def test_the_order_of_the_settings_does_not_make_another_key_set():
    """Two processes with the same keys have one set."""
    keys = [StoredKey("a", None), StoredKey("b", "x")]
    assert KeySet(keys, 1, 2.0).id == KeySet(keys[::-1], 1, 2.0).id
    others = [KeySet(keys, 2, 2.0), KeySet(keys, 1, 3.0), KeySet(keys, 1, 2.0, 1), KeySet(keys, 1, 2.0, 1, 9.0)]
    assert len({key_set.id for key_set in [KeySet(keys, 1, 2.0), *others]}) == 5
