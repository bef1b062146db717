"""The contract of the key stores, through the pool, over both; steps in any order are in test_pool_property.py."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import redis

from dev.redis import empty
from gateway.errors import AuthenticationFailed, ProviderError, RateLimited, RequestRejected, Scope, UpstreamFailed
from gateway.keys.pool import KeyPool, Lease, Unavailable
from gateway.keys.store import Blocked, Granted, KeySet, KeyStore, Kind, Rest, Source
from gateway.lanes import Lane
from gateway.secrets import ApiKey
from tests.clock import Clock
from tests.key_stores import Noting, key_store

MODEL = "google/gemini-2.5-flash"
ONE, TWO, THREE = (ApiKey(f"sk-or-v1-canary-key-{n}") for n in range(3))


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
    with key_store(*place) as opened:
        yield opened


@pytest.fixture
def redis_store(redis_url: str) -> Iterator[KeyStore]:
    """A fresh one in Redis."""
    empty(redis_url)
    with key_store("redis", redis_url) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


#: How long a lease counts as in flight that nobody releases, in seconds.
FLIGHT_S = 135.0


def pool_of(store: KeyStore, clock: Clock, *keys: ApiKey, limit: int = 2, in_flight: int = 0) -> KeyPool:
    return KeyPool(
        keys or (ONE, TWO, THREE),
        store,
        max_per_window=limit,
        window_s=60.0,
        margin_s=0.25,
        max_in_flight=in_flight,
        max_lease_s=FLIGHT_S,
        clock=clock,
    )


def lease_from(pool: KeyPool, model: str = MODEL) -> Lease:
    lease = pool.acquire(model)
    assert isinstance(lease, Lease)
    return lease


def wait_from(pool: KeyPool, model: str = MODEL) -> Unavailable:
    found = pool.acquire(model)
    assert isinstance(found, Unavailable)
    return found


def limited(scope: Scope = Scope.KEY, retry_after_s: float | None = None) -> RateLimited:
    return RateLimited("HTTP 429", reason="http_429", scope=scope, retry_after_s=retry_after_s)


def refused(retry_after_s: float | None = None) -> AuthenticationFailed:
    return AuthenticationFailed("HTTP 401", reason="http_401", retry_after_s=retry_after_s)


def test_a_window_is_exact(store: KeyStore, clock: Clock):
    """A place returns a window and the margin after its own use, not at a minute's turn and not all at once."""
    pool = pool_of(store, clock, ONE)
    lease_from(pool)
    clock.advance(10)
    lease_from(pool)
    assert wait_from(pool) == Unavailable(50.25, refused=False)
    clock.advance(50)
    assert wait_from(pool).retry_in_s == 0.25
    clock.advance(0.25)
    lease_from(pool)
    assert wait_from(pool).retry_in_s == 10.0


def test_a_part_of_each_window_is_kept_from_the_batch_lane(store: KeyStore, clock: Clock):
    """It has the rest, interactive requests have all; and its own wait is told."""
    pool = reserving(store, clock, reserve=0.5)
    assert [type(pool.acquire(MODEL, lane=Lane.BATCH)) for _ in range(3)] == [Lease, Lease, Unavailable]
    assert (pool.ready_in_s(), pool.ready_in_s(lane=Lane.BATCH)) == (0.0, 60.25)
    assert [type(pool.acquire(MODEL)) for _ in range(3)] == [Lease, Lease, Unavailable]


def test_what_interactive_requests_use_is_not_kept_a_second_time(store: KeyStore, clock: Clock):
    """The batch lane has its half also of a window that others have begun: else its share would be of no use."""
    pool = reserving(store, clock, reserve=0.5)
    for _ in range(2):
        pool.acquire(MODEL)
    assert [type(pool.acquire(MODEL, lane=Lane.BATCH)) for _ in range(2)] == [Lease, Lease]


def test_a_cancelled_use_of_the_batch_lane_gives_its_place_back(store: KeyStore, clock: Clock):
    """To the batch lane; and who asks again under one id has one use."""
    pool = reserving(store, clock, reserve=0.9)
    lease = pool.acquire(MODEL, lane=Lane.BATCH, lease_id="a")
    assert isinstance(lease, Lease)
    assert isinstance(pool.acquire(MODEL, lane=Lane.BATCH), Unavailable)
    pool.cancel(lease)
    assert isinstance(pool.acquire(MODEL, lane=Lane.BATCH), Lease)


@pytest.mark.parametrize(("reserve", "batch"), [(0.0, 4), (0.1, 3), (0.25, 3), (0.3, 2), (0.99, 1)])
def test_the_reserve_is_whole_calls_and_leaves_one(store: KeyStore, clock: Clock, reserve: float, batch: int):
    """Else the batch lane would never come to its end."""
    pool = reserving(store, clock, reserve=reserve)
    assert sum(isinstance(pool.acquire(MODEL, lane=Lane.BATCH), Lease) for _ in range(5)) == batch


def reserving(store: KeyStore, clock: Clock, *, reserve: float) -> KeyPool:
    return KeyPool((ONE,), store, max_per_window=4, window_s=60.0, margin_s=0.25, reserve=reserve, clock=clock)


def test_a_key_that_somebody_else_has_just_used_is_free_though_those_passed_over_come_first(
    store: KeyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    """It was the next in turn until then, and the first of the others comes a second time."""
    pool, acquire, others = pool_of(store, clock, limit=10), store.acquire, ["somebody else"]

    def busy(key_set: KeySet, model: str, lease: str) -> Granted | Blocked:
        found = acquire(key_set, model, lease)
        if isinstance(found, Granted) and found.digest == TWO.digest and others:
            acquire(key_set, model, others.pop())
        return found

    monkeypatch.setattr(store, "acquire", busy)
    lease = pool.acquire(MODEL, without={ONE.digest, TWO.digest})
    assert isinstance(lease, Lease)
    assert lease.key == THREE
    assert [row.used for row in pool.status()] == [0, 0, 2]


def test_keys_can_be_passed_over(store: KeyStore, clock: Clock):
    """That is no use of them, and how long there is to wait is about the others."""
    pool, passed = pool_of(store, clock, limit=2), {ONE.digest, TWO.digest}
    for _ in range(2):
        lease = pool.acquire(MODEL, without=passed)
        assert isinstance(lease, Lease)
        assert lease.key == THREE
        clock.advance(1)
    assert pool.acquire(MODEL, without=passed) == Unavailable(58.25, refused=False)
    assert [row.used for row in pool.status()] == [0, 0, 2]
    pool.cool(lease, refused())
    assert pool.acquire(MODEL, without=passed) == Unavailable(600.0, refused=True)
    assert pool.has_other(passed)
    assert not pool.has_other(passed | {THREE.digest})


def test_a_stated_wait_is_taken_as_it_is(store: KeyStore, clock: Clock):
    """Only what was guessed has our length: a provider may state a second or a week."""
    pool = pool_of(store, clock, ONE, TWO)
    pool.cool(lease_from(pool), limited(retry_after_s=1.5))
    pool.cool(lease_from(pool), limited(retry_after_s=700_000.0))
    assert [row.ready_in_s for row in pool.status()] == [1.5, 700_000.0]


@pytest.mark.parametrize("hint", [-5.0, 0.0, float("inf"), float("nan")])
def test_a_hint_that_is_no_wait_is_ignored(store: KeyStore, clock: Clock, hint: float):
    """It is as if nothing was stated."""
    pool = pool_of(store, clock, ONE)
    pool.cool(lease_from(pool), limited(retry_after_s=hint))
    assert pool.ready_in_s() == 60.0


def test_a_rest_knows_its_reason(store: KeyStore, clock: Clock):
    """An operator reads why a key rests, and whether the provider said for how long."""
    pool = pool_of(store, clock, ONE, TWO, THREE)
    pool.cool(lease_from(pool), limited(retry_after_s=30.0))
    pool.cool(lease_from(pool), refused())
    facts = [(row.rest.kind, row.rest.source, row.rest.reason) for row in pool.status() if row.rest is not None]
    assert facts == [(Kind.LIMITED, Source.STATED, "http_429"), (Kind.REFUSED, Source.GUESSED, "http_401")]


def test_a_refusal_is_a_guess_until_the_provider_has_named_or_confirmed_it(store: KeyStore, clock: Clock):
    """A status alone may be about something else; a confirmed one rests anew, and ends like any other."""
    pool = pool_of(store, clock, ONE, TWO, THREE)
    pool.cool(lease_from(pool), refused())
    pool.cool(lease_from(pool), AuthenticationFailed("no", reason="openrouter_key_limit", is_named=True))
    pool.cool(lease_from(pool), limited())
    assert pool.guesses() == {ONE: "http_401"}
    clock.advance(100)
    pool.confirm(ONE.digest, "http_401")
    assert pool.guesses() == {}
    assert pool.status()[0].rest == Rest(600.0, Kind.REFUSED, Source.STATED, "http_401")
    pool.clear(ONE.digest, "http_401")
    assert pool.status()[0].rest is None


def test_of_two_rests_that_end_together_the_refusal_counts(store: KeyStore, clock: Clock):
    """Waiting helps neither, and the operator is told why."""
    pool = pool_of(store, clock, ApiKey("sk-or-v1-mine-1", label="mine"))
    lease = lease_from(pool)
    pool.cool(lease, limited(retry_after_s=300.0))
    pool.cool(lease, AuthenticationFailed("HTTP 402", reason="x", scope=Scope.ACCOUNT, retry_after_s=300.0))
    assert wait_from(pool) == Unavailable(300.0, refused=True)


def test_a_key_that_joins_a_resting_account_rests(store: KeyStore, clock: Clock):
    """A key added to the settings does not go round its account's limit."""
    old, new = ApiKey("sk-or-v1-mine-1", label="mine"), ApiKey("sk-or-v1-mine-2", label="mine")
    pool = pool_of(store, clock, old)
    pool.cool(lease_from(pool), limited(Scope.ACCOUNT))
    assert wait_from(pool_of(store, clock, old, new)).retry_in_s == 60.0


@pytest.mark.parametrize("error", [RequestRejected("HTTP 400", reason="x"), UpstreamFailed("HTTP 503", reason="x")])
def test_what_is_not_about_a_key_rests_nothing(store: KeyStore, clock: Clock, error: ProviderError):
    """The key is fine."""
    pool = pool_of(store, clock)
    pool.cool(lease_from(pool), error)
    assert pool.ready_in_s(MODEL) == 0.0
    assert all(row.rest is None for row in pool.status())


def test_the_status_is_in_the_order_of_the_settings(store: KeyStore, clock: Clock):
    """However many keys there are, and whoever was used."""
    keys = [ApiKey(f"sk-or-v1-order-{n:04}") for n in range(600)]
    pool = pool_of(store, clock, *keys)
    lease_from(pool)
    assert [row.key for row in pool.status()] == keys


@pytest.mark.parametrize("scope", [Scope.KEY, Scope.ACCOUNT])
def test_clear_for_a_reason_leaves_a_rest_for_another_one(store: KeyStore, clock: Clock, scope: Scope):
    """A probe has found that a key is known again; that it has hit a limit meanwhile is another matter."""
    key = ApiKey("sk-or-v1-mine-1", label="mine")
    pool = pool_of(store, clock, key)
    limit = limited(scope, retry_after_s=33.0)
    pool.cool(lease_from(pool), limit)
    pool.clear(key.digest, "http_401")
    assert wait_from(pool) == Unavailable(33.0, refused=False)
    pool.clear(key.digest, limit.reason)
    assert lease_from(pool).key == key


def test_keys_of_another_configuration_are_never_handed_out(store: KeyStore, clock: Clock):
    """During a deploy two configurations share the store; what both know is counted once."""
    old, new = pool_of(store, clock, ONE, TWO, limit=1), pool_of(store, clock, TWO, THREE, limit=1)
    assert {lease_from(old).key for _ in range(2)} == {ONE, TWO}
    assert lease_from(new).key == THREE
    wait_from(new)


def test_the_keys_of_others_do_not_stand_in_the_way(store: KeyStore, clock: Clock):
    """However many they are, and whether they were never used, rest, or may be used."""
    others = [ApiKey(f"sk-or-v1-other-{n}", label="other") for n in range(300)]
    other, own = pool_of(store, clock, *others, limit=100), pool_of(store, clock, ONE, TWO, limit=1)
    error = AuthenticationFailed("HTTP 402", reason="x", scope=Scope.ACCOUNT, retry_after_s=9.0)
    other.cool(lease_from(other), error)
    assert [lease_from(own).key for _ in range(2)] == [ONE, TWO]
    assert wait_from(own) == Unavailable(60.25, refused=False)
    assert wait_from(other) == Unavailable(9.0, refused=True)
    clock.advance(60.25)
    assert [lease_from(own).key for _ in range(2)] == [ONE, TWO]
    assert own.ready_in_s() == 60.25


def test_a_new_configuration_that_only_asks_is_told_the_truth(store: KeyStore, clock: Clock):
    """It shares a key that rests and brings one that is free."""
    old = pool_of(store, clock, ONE, limit=1)
    old.cool(lease_from(old), limited(retry_after_s=90.0))
    assert pool_of(store, clock, ONE, limit=2).ready_in_s() == 90.0
    new = pool_of(store, clock, ONE, TWO, limit=1)
    assert new.ready_in_s() == 0.0
    assert [row.ready_in_s for row in new.status()] == [90.0, 0.0]


def test_another_limit_counts_for_the_uses_before_it(store: KeyStore, clock: Clock):
    """A lowered limit is kept at once, a raised one opens at once."""
    for _ in range(2):
        lease_from(pool_of(store, clock, ONE, limit=3))
    wait_from(pool_of(store, clock, ONE, limit=2))
    lease_from(pool_of(store, clock, ONE, limit=4))


def test_of_two_limits_at_once_the_lower_is_kept(store: KeyStore, clock: Clock):
    """During a deploy that changes the limit a process counts the uses of all against its own; the others may wait."""
    low, high = pool_of(store, clock, ONE, limit=2), pool_of(store, clock, ONE, limit=3)
    lease_from(low)
    lease_from(high)
    assert wait_from(low).retry_in_s == 60.25
    clock.advance(60.25)
    lease_from(high)


def test_what_is_still_used_is_not_forgotten(store: KeyStore, clock: Clock):
    """A key of a week ago is, unless its configuration has been at work since."""
    day_s, pool, other = 86_400, pool_of(store, clock, ONE, TWO), pool_of(store, clock, THREE)
    lease_from(pool)
    for _ in range(9):
        clock.advance(day_s)
        lease_from(pool)
    lease_from(other)
    assert sorted(row.used for row in pool.status()) == [0, 1]
    assert [lease_from(pool).key for _ in range(2)] == [ONE, TWO]


def test_only_digests_are_stored(place: tuple[str, str], clock: Clock):
    """Neither a key nor the name of an account is in the store's memory."""
    with key_store(*place) as store:
        pool = pool_of(store, clock, ApiKey("sk-or-v1-canary-key", label="canary-label"))
        pool.cool(lease_from(pool), limited(Scope.ACCOUNT))
    kind, where = place
    if kind == "sqlite":
        dump = Path(where).read_bytes().decode("latin-1")
        assert "http_429" in dump
    else:
        dump = everything_in_redis(where)
        assert "account:" in dump
    assert "canary" not in dump


def everything_in_redis(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        keys = list(client.scan_iter())
        values = [client.dump(key) for key in keys]
    return repr(keys) + repr(values)


def test_without_a_limit_nothing_is_in_flight(store: KeyStore, clock: Clock):
    """A key may then be used as often as its window has places, at once."""
    pool = pool_of(store, clock, ONE, limit=100)
    for _ in range(20):
        lease_from(pool)
    assert [row.in_flight for row in pool.status()] == [0]


def test_flights_count_for_another_configuration(store: KeyStore, clock: Clock):
    """During a deploy that lowers the limit the leases of both are counted, and a release reaches both."""
    old, new = (pool_of(store, clock, ONE, limit=100, in_flight=cap) for cap in (2, 1))
    first, second = lease_from(old), lease_from(old)
    wait_from(new)
    old.release(first)
    wait_from(new)
    old.release(second)
    lease_from(new)


def test_what_one_configuration_gives_back_another_may_use(store: KeyStore, clock: Clock):
    """A cancelled use and a rest that was ended are so for every process, whatever its settings."""
    old, new = pool_of(store, clock, ONE, limit=1), pool_of(store, clock, ONE, TWO, limit=1)
    lease = lease_from(old)
    assert lease_from(new).key == TWO
    old.cancel(lease)
    lease = lease_from(new)
    assert lease.key == ONE
    new.cancel(lease)
    new.cool(lease, limited(retry_after_s=900.0))
    wait_from(old)
    new.clear(ONE.digest)
    assert lease_from(old).key == ONE


def test_of_many_that_return_together_the_least_recently_used_is_first(store: KeyStore, clock: Clock):
    """Their order is that of their turns, however many there are: more than a store moves in one piece."""
    keys = [ApiKey(f"sk-or-v1-mine-{n}", label="mine") for n in range(250)]
    keys.sort(key=lambda key: key.digest, reverse=True)  # a store that sorts by digest comes to the first one last
    pool = pool_of(store, clock, *keys, limit=100)
    last = [lease_from(pool) for _ in keys][-1]
    pool.cool(last, limited(Scope.ACCOUNT))
    wait_from(pool)
    clock.advance(60)
    assert [lease_from(pool).key for _ in keys] == keys


def test_a_key_set_goes_on_after_days_in_which_nobody_asked(store: KeyStore, clock: Clock):
    """What rests for a week still does, for those who only ask as well, and turns go on."""
    pool = pool_of(store, clock)
    pool.cool(lease_from(pool), limited(retry_after_s=6 * 86_400.0))
    lease_from(pool)
    clock.advance(5 * 86_400)
    assert [row.ready_in_s for row in pool.status()] == [86_400.0, 0.0, 0.0]
    assert [lease_from(pool).key for _ in range(2)] == [THREE, TWO]


def test_every_step_in_redis_is_one_round_trip(redis_store: KeyStore, redis_url: str):
    """Whatever the number of keys, once the server knows the key set and the scripts."""
    pool = pool_of(redis_store, Clock(), *(ApiKey(f"sk-or-v1-trip-{n:04}") for n in range(300)), limit=1, in_flight=1)
    lease, spare = lease_from(pool), lease_from(pool)
    error = limited(retry_after_s=5.0)
    steps: list[Callable[[], object]] = [
        lambda: pool.acquire(MODEL),
        pool.ready_in_s,
        pool.status,
        lambda: pool.release(lease),
        lambda: pool.cancel(spare),
        lambda: pool.cool(lease, error),
        lambda: pool.clear(lease.key.digest),
    ]
    with redis.Redis.from_url(redis_url) as client:
        for step in steps:
            step()  # sends the script itself, for once
            before = reads(client)
            step()
            assert reads(client) - before == 2  # its own, and that of the question before


def reads(client: "redis.Redis[bytes]") -> int:
    """How often the server has read from a connection."""
    return int(client.info("stats")["total_reads_processed"])


def test_processes_that_miss_a_key_set_together_register_it_once(redis_store: KeyStore, redis_url: str, clock: Clock):
    """Each hears that it is unknown, and sends it: of ten thousand keys, a third of a second of the one thread."""
    pool = pool_of(redis_store, clock, *(ApiKey(f"sk-or-v1-many-{n:04}") for n in range(300)))
    lease_from(pool)
    with redis.Redis.from_url(redis_url) as client:
        before = commands(client)
        redis_store._send("register", pool._key_set, *(key.digest for key in pool._key_set.keys for _ in range(2)))
        assert commands(client) - before < 30


def commands(client: "redis.Redis[bytes]") -> int:
    """How many the server has run so far, those of scripts among them."""
    return sum(one["calls"] for one in client.info("commandstats").values())


def test_a_key_set_of_which_the_server_has_lost_a_part_is_registered_again(
    redis_store: KeyStore, redis_url: str, clock: Clock
):
    """An eviction, or somebody's hand: no key is missing for the rest of the hour, and what rests still rests."""
    pool = pool_of(redis_store, clock)
    pool.cool(lease_from(pool), limited())
    with redis.Redis.from_url(redis_url) as client:
        for pattern in ("*:ready_at:*", "*:refused_until:*", "*:key_sets", "*:turns", "*:accounts"):
            client.delete(*client.scan_iter(pattern))
            assert {lease_from(pool).key for _ in range(2)} == {TWO, THREE}
            clock.advance(50)
            pool.cool(Lease(ONE, MODEL, ""), limited())
            clock.advance(15)


def test_a_shorter_window_forgets_nothing_of_a_longer_one(redis_store: KeyStore, clock: Clock):
    """Two configurations at once: each counts all that its own window holds."""
    short, long = (
        KeyPool([ONE], redis_store, max_per_window=2, window_s=s, margin_s=0, clock=clock) for s in (10.0, 60.0)
    )
    lease_from(long)
    clock.advance(20)
    lease_from(short)
    assert wait_from(long).retry_in_s == 40.0


def test_a_configuration_that_nobody_uses_any_more_costs_nothing(redis_store: KeyStore, redis_url: str, clock: Clock):
    """An hour after its last use the next one to be registered removes it."""
    for limit in (1, 2, 3):
        lease_from(pool_of(redis_store, clock, ONE, limit=limit))
        clock.advance(3601)
    with redis.Redis.from_url(redis_url) as client:
        assert [client.zcard("{gateway}:" + name) for name in ("key_sets", "windows")] == [1, 1]
        assert [len(list(client.scan_iter(f"*:{name}:*"))) for name in ("ready_at", "refused_until")] == [1, 1]
        assert all(client.ttl(key) > 0 for key in client.scan_iter())


def test_a_use_counts_whoever_has_noted_it(redis_store: KeyStore, redis_url: str, clock: Clock):
    """A key is looked at before it is used, also when somebody has noted nothing but uses."""
    pool = pool_of(redis_store, clock, ONE, TWO, limit=2)
    lease_from(pool)
    with redis.Redis.from_url(redis_url) as client:
        client.zadd("{gateway}:uses:" + TWO.digest, {f"old-{n}": clock() * 1e6 for n in range(2)})
    assert lease_from(pool).key == ONE
    assert wait_from(pool).retry_in_s == 60.25


def test_limits_are_exact_over_threads_and_processes(place: tuple[str, str]):
    """Two processes of eight threads take all that there is, and no window of any key has more than its limit.

    The clock is real, and nothing depends on how fast it goes: each thread goes on until it has had its share.
    """
    with get_context("spawn").Pool(2) as children:
        uses = [use for part in children.map(take_all, [place] * 2, chunksize=1) for use in part]
    by_key = defaultdict(list)
    for digest, at in uses:
        by_key[digest].append(at)
    assert len(by_key) == 2
    for times in by_key.values():
        times.sort()
        assert all(later - earlier > WINDOW_S - 1e-6 for earlier, later in zip(times, times[LIMIT:], strict=False))
        assert len(times) > LIMIT  # the windows went round


LIMIT, WINDOW_S, SHARE = 10, 0.1, 5


def take_all(place: tuple[str, str]) -> list[tuple[str, float]]:
    """In a child process: eight threads that acquire what they can; the digests and times of what they got."""

    def take() -> None:
        taken = 0
        while taken < SHARE:
            found = pool.acquire(MODEL)
            if isinstance(found, Lease):
                taken += 1
            else:
                threading.Event().wait(found.retry_in_s)  # all of them come back at the same moment

    with key_store(*place) as store, ThreadPoolExecutor(8) as threads:
        noting = Noting(store)
        pool = KeyPool((ONE, TWO), noting, max_per_window=LIMIT, window_s=WINDOW_S, margin_s=0.0)
        for future in [threads.submit(take) for _ in range(8)]:
            future.result()
    return noting.granted


# Accounts that nobody has labelled


def learned(store: KeyStore, clock: Clock) -> KeyPool:
    """A pool that has learned that two of its three keys are of one user."""
    pool = pool_of(store, clock)
    pool.learn({ONE.digest: "user-a", TWO.digest: "user-a", THREE.digest: "user-b"})
    return pool


def test_a_learned_account_rests_with_all_its_keys(store: KeyStore, clock: Clock):
    pool = learned(store, clock)
    pool.cool(lease_from(pool), limited(Scope.ACCOUNT, 30.0))
    assert [lease_from(pool).key for _ in range(2)] == [THREE, THREE]
    clock.advance(30.0)
    assert {lease_from(pool).key for _ in range(2)} == {ONE, TWO}


def test_a_label_goes_before_what_was_learned(store: KeyStore, clock: Clock):
    """Two keys of one user whose limits the operator knows to be apart."""
    one, two = ApiKey("sk-or-v1-a", label="a"), ApiKey("sk-or-v1-b", label="b")
    pool = pool_of(store, clock, one, two)
    pool.learn({one.digest: "user-a", two.digest: "user-a"})
    pool.cool(lease_from(pool), limited(Scope.ACCOUNT, 30.0))
    assert lease_from(pool).key == two


def test_learning_forgets_no_use_and_no_turn(store: KeyStore, clock: Clock):
    """The windows and the order go on."""
    pool = pool_of(store, clock)
    assert [lease_from(pool).key for _ in range(4)] == [ONE, TWO, THREE, ONE]
    pool.learn({ONE.digest: "user-a", TWO.digest: "user-a", THREE.digest: "user-b"})
    assert [lease_from(pool).key for _ in range(2)] == [TWO, THREE]
    assert wait_from(pool).retry_in_s == 60.25


def test_a_process_that_knows_nothing_yet_makes_no_other_forget(store: KeyStore, clock: Clock):
    """It has just started, or the provider does not answer it."""
    unknowing = pool_of(store, clock, limit=100)
    lease_from(unknowing)
    clock.advance(1800.0)
    knowing = pool_of(store, clock, limit=100)
    knowing.learn({ONE.digest: "user-a", TWO.digest: "user-a", THREE.digest: "user-b"})
    lease_from(knowing)
    clock.advance(1801.0)
    lease_from(unknowing)
    lease = lease_from(knowing)
    assert lease.key == ONE
    knowing.cool(lease, limited(Scope.ACCOUNT, 30.0))
    assert [lease_from(knowing).key for _ in range(2)] == [THREE, THREE]


def test_a_learned_account_can_be_cleared(store: KeyStore, clock: Clock):
    pool = learned(store, clock)
    pool.cool(lease_from(pool), limited(Scope.ACCOUNT, 3600.0))
    pool.clear(TWO.digest)
    assert {lease_from(pool).key for _ in range(3)} == {ONE, TWO, THREE}
