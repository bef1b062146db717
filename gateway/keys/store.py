"""What a store of keys promises: every method is one atomic step for all threads, processes and machines it serves."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from gateway.secrets import ApiKey


class Kind(StrEnum):
    """Why something rests: the provider refused it, or a limit was hit."""

    REFUSED = "refused"
    LIMITED = "limited"


class Source(StrEnum):
    """Whether the provider has named what rests, or for how long; or we have read it from a status."""

    STATED = "stated"
    GUESSED = "guessed"


@dataclass(frozen=True)
class Rest:
    """How long something rests from now on, in seconds, and why."""

    seconds: float
    kind: Kind
    source: Source
    reason: str


#: How the id of a lease begins that counts towards `batch_limit`: no other one has this letter.
BATCH = "z"


def is_batch(lease: str) -> bool:
    return lease.startswith(BATCH)


#: How the name of an account begins that the provider has told, and no label.
LEARNED = "user-"


@dataclass(frozen=True)
class StoredKey:
    """A key as a store knows it: `account` is a digest too, None where nobody has told it."""

    digest: str
    account: str | None

    @classmethod
    def of(cls, key: ApiKey) -> "StoredKey":
        account = None if key.label is None else hashlib.sha256(key.label.encode()).hexdigest()[:16]
        return cls(key.digest, account)


@dataclass(frozen=True)
class KeySet:
    """Keys that take turns, and how often each may be used: `limit` times in any `window_s` seconds.

    Of these, at most `max_in_flight` at a time are not released yet; 0 sets no such limit, and nothing is noted for it.
    A use that is never released counts as running for `flight_s` seconds. At most `batch_limit` are those of the batch
    lane; with None it may have all, and they are not told apart. `clock` gives epoch seconds; None lets the store take
    its own, which for Redis is the same for all machines.
    """

    keys: Sequence[StoredKey]
    limit: int
    window_s: float
    max_in_flight: int = 0
    flight_s: float = 0.0
    batch_limit: int | None = field(default=None, compare=False)
    clock: Callable[[], float] | None = field(default=None, compare=False)
    id: str = field(init=False, repr=False)
    digests: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        keys = sorted((key.digest, key.account or "") for key in self.keys)
        text = repr((keys, self.limit, self.window_s, self.max_in_flight, self.flight_s))
        object.__setattr__(self, "id", hashlib.sha256(text.encode()).hexdigest()[:16])
        object.__setattr__(self, "digests", frozenset(key.digest for key in self.keys))


@dataclass(frozen=True)
class Granted:
    """The key of this digest has one use recorded at `at`, epoch seconds on the store's clock."""

    digest: str
    at: float


@dataclass(frozen=True)
class Blocked:
    """No key may be used for `retry_in_s` seconds; `refused`: every key rests because it was refused.

    Where a key waits for a release, `retry_in_s` is the most that it can take.
    """

    retry_in_s: float
    refused: bool


@dataclass(frozen=True)
class StoredKeyStatus:
    """What a store knows of one key now; `rest` counts its seconds from now, None when the key does not rest.

    `in_flight` is 0 for a set without a limit of it.
    """

    digest: str
    used: int
    ready_in_s: float
    rest: Rest | None
    in_flight: int = 0


def key_subject(digest: str) -> str:
    return f"key:{digest}"


def account_subject(account: str) -> str:
    return f"account:{account}"


def model_subject(model: str) -> str:
    return f"model:{model}"


class KeyStore(Protocol):
    """Every method raises StoreUnavailable when the store cannot be used.

    A set that the store does not know is registered by the first method that is asked about it.
    """

    def acquire(self, key_set: KeySet, model: str, lease: str) -> Granted | Blocked:
        """Record a use, under the id `lease`, of the least recently used key that may be used now.

        An id that begins with BATCH is that of the batch lane.

        Who asks again under the same id, because the answer was lost on its way, has that use and no second one.
        """

    def cancel(self, key_set: KeySet, digest: str, lease: str) -> None:
        """Forget the use; one that is not there is no error."""

    def release(self, key_set: KeySet, digest: str, lease: str) -> None:
        """The use is no longer in flight, and goes on counting for the window; idempotent."""

    def cool(self, key_set: KeySet, subject: str, rest: Rest) -> None:
        """Rest a key, an account or a model; a longer rest that runs already stays as it is."""

    def clear(self, key_set: KeySet, digest: str, reason: str | None = None) -> None:
        """End the rest of a key and of its account; with `reason`, only a rest that has this one."""

    def ready_in_s(self, key_set: KeySet, model: str | None, *, batch: bool = False) -> float:
        """Seconds until some key may be used, 0.0 when one may be now; changes nothing. `batch`: by the batch lane."""

    def status(self, key_set: KeySet) -> list[StoredKeyStatus]:
        """One entry for each key, in the order of the set; changes nothing."""
