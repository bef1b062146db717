"""The pool against a model of ten lines, with any sequence of steps that hypothesis can think of."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from gateway.errors import AuthenticationFailed, RateLimited, Scope
from gateway.keys.pool import KeyPool, Lease
from gateway.keys.sqlite import SqliteKeyStore
from gateway.secrets import ApiKey
from gateway.state_file import StateFile
from tests.clock import Clock

KEYS = [ApiKey(f"sk-or-v1-property-{n}", label=label) for n, label in enumerate(["shared", "shared", "own", None])]
LIMIT, WINDOW = 2, 8  # seconds; whole numbers, so that the model and the store calculate alike
MODELS = st.sampled_from(["model/a", "model/b"])


class Reference:
    """What a pool is: uses, turns and rests, at a time that never goes back."""

    def __init__(self) -> None:
        self.uses: list[tuple[str, ApiKey, float]] = []  # lease, key, when
        self.turns = list(KEYS)
        self.rests: dict[object, tuple[float, bool]] = {}  # key, label or model: until when, refused

    def ready_at(self, key: ApiKey) -> float:
        times = sorted((at for _, used, at in self.uses if used == key), reverse=True)
        return max([self.rest_of(key)[0]] + [at + WINDOW for at in times[LIMIT - 1 : LIMIT]])

    def rest_of(self, key: ApiKey) -> tuple[float, bool]:
        return max(self.rests.get(subject, (0.0, False)) for subject in (key, key.label or key))

    def free(self, now: float) -> list[ApiKey]:
        return [key for key in self.turns if self.ready_at(key) <= now]

    def use(self, lease: Lease, now: float) -> None:
        self.uses.append((lease.id, lease.key, now))
        self.turns.remove(lease.key)
        self.turns.append(lease.key)

    def rest(self, subject: object, until: float, *, refused: bool) -> None:
        if until > self.rests.get(subject, (0.0, False))[0]:
            self.rests[subject] = (until, refused)


class PoolMachine(RuleBasedStateMachine):
    """Acquires, cancels, errors and time in any order, by two pools that share the store."""

    leases: Bundle[Lease] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.file = StateFile(Path(self.folder.name) / "state.sqlite3")
        self.clock = Clock()
        self.time = self.clock.now
        self.pools = [
            KeyPool(
                KEYS,
                SqliteKeyStore(self.file),
                max_per_window=LIMIT,
                window_s=WINDOW,
                cooldown_s=5,
                refused_cooldown_s=20,
                margin_s=0,
                clock=self.clock,
            )
            for _ in range(2)
        ]
        self.reference = Reference()

    def teardown(self) -> None:
        self.file.close()
        self.folder.cleanup()

    @rule(target=leases, model=MODELS, pool=st.integers(0, 1))
    def acquire(self, model: str, pool: int):
        model_until = self.reference.rests.get(model, (0.0, False))[0]
        free = self.reference.free(self.time) if model_until <= self.time else []
        found = self.pools[pool].acquire(model)
        if isinstance(found, Lease):
            assert found.key == free[0]
            self.reference.use(found, self.time)
            return found
        assert free == []
        first = min(self.reference.ready_at(key) for key in KEYS)
        assert found.retry_in_s == max(first, model_until) - self.time
        rests = [self.reference.rest_of(key) for key in KEYS]
        assert found.refused == all(until > self.time and refused for until, refused in rests)
        return multiple()

    @rule(lease=consumes(leases))
    def cancel(self, lease: Lease):
        self.pools[0].cancel(lease)
        self.reference.uses = [use for use in self.reference.uses if use[0] != lease.id]

    @rule(
        lease=leases,
        scope=st.sampled_from([Scope.KEY, Scope.ACCOUNT, Scope.MODEL]),
        stated=st.none() | st.integers(1, 40),
        refused=st.booleans(),
    )
    def cool(self, lease: Lease, scope: Scope, stated: int | None, refused: bool):
        kind = AuthenticationFailed if refused else RateLimited
        self.pools[1].cool(lease, kind("HTTP", reason="r", scope=scope, retry_after_s=stated))
        subject = {Scope.KEY: lease.key, Scope.ACCOUNT: lease.key.label or lease.key, Scope.MODEL: lease.model}[scope]
        self.reference.rest(subject, self.time + (stated or (20 if refused else 5)), refused=refused)

    @rule(key=st.sampled_from(KEYS))
    def clear(self, key: ApiKey):
        self.pools[0].clear(key.digest)
        for subject in (key, key.label):
            self.reference.rests.pop(subject, None)

    @rule(seconds=st.integers(1, 9))
    def time_passes(self, seconds: int):
        self.clock.advance(seconds)
        self.time += seconds
        self.pools[0].ready_in_s()

    @rule(seconds=st.integers(1, 10**9))
    def the_clock_is_set_back(self, seconds: int):
        self.pools[0].cancel(Lease(KEYS[0], "", "none", 0.0))  # any step: the store has seen the time before
        self.clock.advance(-seconds)

    @invariant()
    def the_wait_is_known(self):
        first = min(self.reference.ready_at(key) for key in KEYS)
        assert self.pools[0].ready_in_s() == max(0.0, first - self.time)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)
