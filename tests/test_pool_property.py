"""The pool against a model of a few lines, over both stores, with any sequence of steps hypothesis can think of."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from dev.redis import empty
from gateway.errors import AuthenticationFailed, RateLimited, Scope
from gateway.keys.pool import KeyPool, KeyStatus, Lease, Unavailable
from gateway.keys.store import KeyStore, Kind
from gateway.lanes import Lane
from gateway.secrets import ApiKey
from tests.clock import Clock
from tests.key_stores import key_store

KEYS = [ApiKey(f"sk-or-v1-property-{n}", label=label) for n, label in enumerate(["shared", "shared", "own", None])]
CONFIGURATIONS = [KEYS, KEYS, KEYS[1:3]]
#: Whole numbers of seconds, so that the model and the stores calculate alike.
LIMIT, WINDOW, IN_FLIGHT, FLIGHT = 3, 8, 2, 11
#: What is kept of each window from the batch lane, and what it may use.
RESERVE, BATCH_LIMIT = 0.3, 2
GUESSED, GUESSED_REFUSED = 5, 20
MODELS = st.sampled_from(["model/a", "model/b"])
LANES = st.sampled_from(list(Lane))


class Reference:
    """What a pool is: uses, flights, turns and rests, at a time that never goes back."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.uses: list[tuple[str, ApiKey, float]] = []  # lease, key, when
        self.batch: set[str] = set()  # leases
        self.flights: dict[str, tuple[ApiKey, float]] = {}  # lease: key, when it ends by itself
        self.turns = list(KEYS)
        self.rests: dict[object, tuple[float, bool]] = {}  # key, label or model: until when, refused

    def ready_at(self, key: ApiKey) -> float:
        leaves = [at + WINDOW for _, used, at in self.uses if used == key]
        lands = [ends for flown, ends in self.flights.values() if flown == key]
        return max(self.rest_of(key)[0], nth_last(leaves, LIMIT), nth_last(lands, IN_FLIGHT))

    def ready_for(self, key: ApiKey, lane: Lane) -> float:
        batch = [at + WINDOW for lease, used, at in self.uses if used == key and lease in self.batch]
        return max(self.ready_at(key), nth_last(batch, BATCH_LIMIT) if lane is Lane.BATCH else 0.0)

    def rest_of(self, key: ApiKey) -> tuple[float, bool]:
        return max(self.rests.get(subject, (0.0, False)) for subject in (key, key.label or key))

    def free(self, model: str, keys: list[ApiKey], lane: Lane) -> list[ApiKey]:
        if self.rests.get(model, (0.0, False))[0] > self.now:
            return []
        return [key for key in self.turns if key in keys and self.ready_for(key, lane) <= self.now]

    def wait(self, model: str | None, keys: list[ApiKey], lane: Lane = Lane.INTERACTIVE) -> float:
        first = min(self.ready_for(key, lane) for key in keys)
        return max(0.0, max(first, self.rests.get(model, (0.0, False))[0]) - self.now)

    def all_refused(self, keys: list[ApiKey]) -> bool:
        return all(until > self.now and refused for until, refused in map(self.rest_of, keys))

    def used(self, key: ApiKey) -> int:
        return sum(used == key and at > self.now - WINDOW for _, used, at in self.uses)

    def in_flight(self, key: ApiKey) -> int:
        return sum(flown == key and ends > self.now for flown, ends in self.flights.values())

    def use(self, lease: Lease, lane: Lane) -> None:
        self.batch |= {lease.id} if lane is Lane.BATCH else set()
        self.uses.append((lease.id, lease.key, self.now))
        self.flights[lease.id] = (lease.key, self.now + FLIGHT)
        self.turns.remove(lease.key)
        self.turns.append(lease.key)

    def cancel(self, lease: Lease) -> None:
        self.uses = [use for use in self.uses if use[0] != lease.id]
        self.flights.pop(lease.id, None)

    def rest(self, subject: object, seconds: float, *, refused: bool) -> None:
        until = self.now + seconds
        if until > self.rests.get(subject, (0.0, False))[0]:
            self.rests[subject] = (until, refused)


def nth_last(times: list[float], n: int) -> float:
    return sorted(times, reverse=True)[n - 1] if len(times) >= n else 0.0


class PoolMachine(RuleBasedStateMachine):
    """Acquires, releases, errors and time in any order, by pools that share the store; the last one has fewer keys."""

    leases: Bundle[Lease] = Bundle("leases")

    def __init__(self, open_store: Callable[[], AbstractContextManager[KeyStore]]) -> None:
        super().__init__()
        self.clock = Clock()
        self.reference = Reference(self.clock.now)
        self.opened = ExitStack()
        self.store = self.opened.enter_context(open_store())
        self.pools = [
            KeyPool(
                keys,
                self.store,
                max_per_window=LIMIT,
                window_s=WINDOW,
                cooldown_s=GUESSED,
                refused_cooldown_s=GUESSED_REFUSED,
                max_in_flight=IN_FLIGHT,
                max_lease_s=FLIGHT,
                reserve=RESERVE,
                margin_s=0,
                clock=self.clock,
            )
            for keys in CONFIGURATIONS
        ]

    def teardown(self) -> None:
        self.opened.close()

    @rule(target=leases, model=MODELS, pool=st.integers(0, 2), lane=LANES)
    def acquire(self, model: str, pool: int, lane: Lane):
        keys = CONFIGURATIONS[pool]
        free = self.reference.free(model, keys, lane)
        found = self.pools[pool].acquire(model, lane=lane)
        if not free:  # and never otherwise: nobody starves while a key may be used
            assert found == Unavailable(self.reference.wait(model, keys, lane), self.reference.all_refused(keys))
            return multiple()
        assert isinstance(found, Lease)
        assert found.key == free[0]
        self.reference.use(found, lane)
        return found

    @rule(lease=leases)
    def cancel(self, lease: Lease):
        self.pools[0].cancel(lease)
        self.reference.cancel(lease)

    @rule(lease=leases, pool=st.integers(0, 2))
    def release(self, lease: Lease, pool: int):
        self.pools[pool].release(lease)
        self.reference.flights.pop(lease.id, None)

    @rule(
        lease=leases,
        scope=st.sampled_from([Scope.KEY, Scope.ACCOUNT, Scope.MODEL]),
        stated=st.none() | st.integers(1, 40),
        refused=st.booleans(),
    )
    def cool(self, lease: Lease, scope: Scope, stated: int | None, refused: bool):
        before = self.pools[0].ready_in_s(lease.model)
        kind = AuthenticationFailed if refused else RateLimited
        self.pools[1].cool(lease, kind("HTTP", reason="r", scope=scope, retry_after_s=stated))
        assert self.pools[0].ready_in_s(lease.model) >= before
        subject = {Scope.KEY: lease.key, Scope.ACCOUNT: lease.key.label or lease.key, Scope.MODEL: lease.model}[scope]
        guessed = GUESSED_REFUSED if refused else GUESSED
        self.reference.rest(subject, stated or guessed, refused=refused)

    @rule(key=st.sampled_from(KEYS))
    def clear(self, key: ApiKey):
        self.pools[0].clear(key.digest)
        for subject in (key, key.label):
            self.reference.rests.pop(subject, None)

    @rule(seconds=st.integers(1, 9))
    def time_passes(self, seconds: int):
        self.clock.advance(seconds)
        self.reference.now += seconds
        self.pools[0].ready_in_s()

    @rule(seconds=st.integers(1, 10**9))
    def the_clock_is_set_back(self, seconds: int):
        self.pools[0].cancel(Lease(KEYS[0], "", "none"))  # any step: the store has seen the time before
        self.clock.advance(-seconds)

    @rule(model=MODELS, lane=LANES)
    def the_wait_for_a_model_is_known(self, model: str, lane: Lane):
        assert self.pools[1].ready_in_s(model, lane=lane) == self.reference.wait(model, KEYS, lane)

    @invariant()
    def every_key_is_as_the_model_says(self):
        waits = [pool.ready_in_s() for pool in self.pools]
        assert waits == [self.reference.wait(None, keys) for keys in CONFIGURATIONS]
        assert [shown(row) for row in self.pools[1].status()] == [expected(self.reference, key) for key in KEYS]

    @invariant()
    def what_is_kept_for_others_is_not_batch(self):
        now, uses = self.reference.now, self.reference.uses
        for key in KEYS:
            batch = [lease for lease, used, at in uses if used == key and at > now - WINDOW]
            assert len(self.reference.batch.intersection(batch)) <= BATCH_LIMIT

    @invariant()
    def no_limit_is_ever_passed(self):
        assert all(row.used <= LIMIT and row.in_flight <= IN_FLIGHT for row in self.pools[0].status())


def shown(row: KeyStatus) -> tuple[object, ...]:
    rest = None if row.rest is None else (row.rest.seconds, row.rest.kind)
    return row.key, row.used, row.in_flight, row.ready_in_s, rest


def expected(reference: Reference, key: ApiKey) -> tuple[object, ...]:
    until, refused = reference.rest_of(key)
    rest = (until - reference.now, Kind.REFUSED if refused else Kind.LIMITED) if until > reference.now else None
    wait = max(0.0, reference.ready_at(key) - reference.now)
    return key, reference.used(key), reference.in_flight(key), wait, rest


#: Of 50 steps each: a fourth of what the profile asks for in other tests.
EXAMPLES = settings(max_examples=settings().max_examples // 4)


def test_any_history_in_a_file_is_that_of_the_model(tmp_path: Path):
    """SQLite; three pools that share the file."""
    numbers = count()

    def fresh() -> AbstractContextManager[KeyStore]:
        return key_store("sqlite", str(tmp_path / f"{next(numbers)}.sqlite3"))

    run_state_machine_as_test(lambda: PoolMachine(fresh), settings=EXAMPLES)


def test_any_history_in_redis_is_that_of_the_model(redis_url: str):
    """A real server; three pools that share it."""

    def fresh() -> AbstractContextManager[KeyStore]:
        empty(redis_url)
        return key_store("redis", redis_url)

    run_state_machine_as_test(lambda: PoolMachine(fresh), settings=EXAMPLES)
