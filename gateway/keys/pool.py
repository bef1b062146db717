"""The key pool: which key may be used now, and what rests after an error."""

import math
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from gateway.errors import AuthenticationFailed, ProviderError, Scope, StoreUnavailable
from gateway.keys.store import (
    BATCH,
    Granted,
    KeySet,
    KeyStore,
    Kind,
    Rest,
    Source,
    StoredKey,
    account_subject,
    key_subject,
    model_subject,
)
from gateway.lanes import Lane
from gateway.schedule import window_margin_s
from gateway.secrets import ApiKey

#: So often the keys that are passed over have their turns while others use up what is free between them.
MOST_ROUNDS = 10


@dataclass(frozen=True)
class Lease:
    """One use of a key for a model, counted in the key's window."""

    key: ApiKey
    model: str
    id: str


@dataclass(frozen=True)
class Unavailable:
    """No key may be used for `retry_in_s` seconds; `refused`: every key is benched because the provider refused it."""

    retry_in_s: float
    refused: bool


@dataclass(frozen=True)
class KeyStatus:
    """One key now: uses in its window, seconds until it may be used, and its rest, None when it does not rest.

    `in_flight` counts the leases that are not released; 0 when that is not limited.
    """

    key: ApiKey
    used: int
    ready_in_s: float
    rest: Rest | None
    in_flight: int = 0


class KeyPool:
    """Hands out each key at most `max_per_window` times in any `window_s` seconds, the least recently used first.

    With `max_in_flight`, so many leases of a key at most are not released; one that nobody releases, because its
    process was killed, counts for `max_lease_s`, which has to be longer than any call.
    That holds for all threads, processes and machines whose pools share the store. All times are seconds. Every method
    that asks the store raises StoreUnavailable when it cannot be used.
    """

    def __init__(  # noqa: PLR0913 - limits, all by name
        self,
        keys: Sequence[ApiKey],
        store: KeyStore,
        *,
        max_per_window: int,
        window_s: float = 60.0,
        cooldown_s: float = 60.0,
        refused_cooldown_s: float = 600.0,
        max_in_flight: int = 0,
        max_lease_s: float = 135.0,
        reserve: float = 0.0,
        margin_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._cooldown_s = cooldown_s
        self._refused_cooldown_s = refused_cooldown_s
        # A use is recorded before its call reaches the provider, one call sooner after than the next: counted by the
        # provider, two calls can be closer together than by us. The margin is what the way there may vary by, a new
        # connection above all, so that the provider's record, too, never shows more than the limit in a window.
        margin_s = window_margin_s(window_s) if margin_s is None else margin_s
        # Every key that was ever in the set: a lease of one that was taken out is still held by its call.
        self._keys = {key.digest: key for key in keys}
        self._accounts: dict[str, str] = {}
        self._key_set = KeySet(
            keys=tuple(StoredKey.of(key) for key in self._keys.values()),
            limit=max_per_window,
            window_s=window_s + margin_s,
            max_in_flight=max_in_flight,
            flight_s=max_lease_s if max_in_flight else 0.0,
            batch_limit=_batch_limit(max_per_window, reserve),
            clock=None if clock is time.time else clock,
        )

    @property
    def keys(self) -> list[ApiKey]:
        """Those that are used, in the order of the settings."""
        return [self._keys[key.digest] for key in self._key_set.keys]

    def __repr__(self) -> str:
        held = self._key_set
        in_flight = f", {held.max_in_flight} in flight" if held.max_in_flight else ""
        return f"KeyPool({len(held.keys)} keys, {held.limit} per {held.window_s:g} s{in_flight})"

    def acquire(
        self,
        model: str,
        *,
        lane: Lane = Lane.INTERACTIVE,
        lease_id: str | None = None,
        without: Collection[str] = (),
    ) -> Lease | Unavailable:
        """A lease of the least recently used key that may be used for `model` now; one atomic step.

        Who could not hear the answer asks again with the same `lease_id`, a text that nobody else uses. A lease of a
        key `without` which it has to be, by digest, is cancelled, and another one asked for.
        """
        found = self._acquire(model, self._id(lane, lease_id))
        unwanted: list[Lease] = []
        while isinstance(found, Lease) and found.key.digest in without:
            comes_again = any(found.key == lease.key for lease in unwanted)
            unwanted.append(found)
            if comes_again and (none := self._no_other(without, tries=len(unwanted))):
                found = none
            else:
                found = self._acquire(model, self._id(lane))
        for lease in unwanted:
            with suppress(StoreUnavailable):  # it counts for one window, and a lease that is wanted is not lost
                self.cancel(lease)
        return found

    def _no_other(self, without: Collection[str], tries: int) -> Unavailable | None:
        """None where another one is free: somebody has used it just now, and so it was not the next in turn."""
        none = self._unavailable(without)
        return none if none.retry_in_s or tries > MOST_ROUNDS * len(without) else None

    def _id(self, lane: Lane, lease_id: str | None = None) -> str:
        is_told_apart = lane is Lane.BATCH and self._key_set.batch_limit is not None
        return (BATCH if is_told_apart else "") + (lease_id or uuid.uuid4().hex)

    def _acquire(self, model: str, lease: str) -> Lease | Unavailable:
        found = self._store.acquire(self._key_set, model, lease)
        if isinstance(found, Granted):
            return Lease(self._keys[found.digest], model, lease)
        return Unavailable(found.retry_in_s, found.refused)

    def _unavailable(self, without: Collection[str]) -> Unavailable:
        rows = [row for row in self.status() if row.key.digest not in without]
        refused = all(row.rest is not None and row.rest.kind is Kind.REFUSED for row in rows)
        return Unavailable(min((row.ready_in_s for row in rows), default=0.0), refused)

    def siblings(self, key: ApiKey) -> set[str]:
        """The digests of the keys of the same account as `key`, as far as accounts are known; its own among them."""
        account = self._stored(key).account
        same = {one.digest for one in self._key_set.keys if one.account == account} if account else set()
        return same | {key.digest}

    def has_other(self, without: Collection[str]) -> bool:
        """Whether there is a key that is none of these, by digest."""
        return any(key.digest not in without for key in self._key_set.keys)

    def cancel(self, lease: Lease) -> None:
        """No call was made: the use no longer counts. Idempotent."""
        self._store.cancel(self._key_set, lease.key.digest, lease.id)

    def release(self, lease: Lease) -> None:
        """The call has ended; its use goes on counting for the window. Idempotent.

        The store is asked only where calls in flight are limited.
        """
        if self._key_set.max_in_flight:
            self._store.release(self._key_set, lease.key.digest, lease.id)

    def cool(self, lease: Lease, error: ProviderError) -> None:
        """Rest what the error is about, for as long as the provider stated, else for as long as guessed.

        The scope KEY rests the key, ACCOUNT the keys of the same account (the key alone, where nothing is known of it),
        MODEL the lease's model on every key; REQUEST and UPSTREAM rest nothing. A running rest is never shortened.
        """
        subject = self._subject(lease, error.scope)
        if subject is not None:
            self._store.cool(self._key_set, subject, self._rest(error))

    def confirm(self, digest: str, reason: str) -> None:
        """The provider has said, when it was asked, that the key with this digest is refused: no guess any more."""
        rest = Rest(self._refused_cooldown_s, Kind.REFUSED, Source.STATED, reason)
        self._store.cool(self._key_set, key_subject(digest), rest)

    def guesses(self) -> dict[ApiKey, str]:
        """The keys that rest as refused because a status was read so, with the reason. Reads only."""
        rests = {row.key: row.rest for row in self.status() if row.rest is not None}
        return {
            key: rest.reason
            for key, rest in rests.items()
            if rest.kind is Kind.REFUSED and rest.source is Source.GUESSED
        }

    def ready_in_s(self, model: str | None = None, *, lane: Lane = Lane.INTERACTIVE) -> float:
        """Seconds until some key may be used by a lane, for `model` if given; 0.0 when one may be now. Reads only."""
        is_told_apart = lane is Lane.BATCH and self._key_set.batch_limit is not None
        return self._store.ready_in_s(self._key_set, model, batch=is_told_apart)

    def status(self) -> list[KeyStatus]:
        """Every key, in the order of the settings. Reads only."""
        return [
            KeyStatus(self._keys[row.digest], row.used, row.ready_in_s, row.rest, row.in_flight)
            for row in self._store.status(self._key_set)
        ]

    def clear(self, digest: str, reason: str | None = None) -> None:
        """End the rest of the key with this digest, and that of its account; a key that does not rest is no error.

        With `reason`, a rest for another reason goes on.
        """
        self._store.clear(self._key_set, digest, reason)

    def learn(self, accounts: Mapping[str, str]) -> None:
        """Take keys, by digest, for one account where `accounts` has the same name for them; a label goes before it."""
        self._accounts = self._accounts | dict(accounts)
        self.use(self.keys)

    def use(self, keys: Sequence[ApiKey]) -> None:
        """From now on these are the keys. Calls that run with another one are released and cooled as ever."""
        self._keys = self._keys | {key.digest: key for key in keys}
        rows = ((key.digest, StoredKey.of(key).account or self._accounts.get(key.digest)) for key in keys)
        self._key_set = replace(self._key_set, keys=tuple(StoredKey(digest, account) for digest, account in rows))

    def _subject(self, lease: Lease, scope: Scope) -> str | None:
        key = self._stored(lease.key)
        match scope:
            case Scope.ACCOUNT if key.account is not None:
                return account_subject(key.account)
            case Scope.KEY | Scope.ACCOUNT:
                return key_subject(key.digest)
            case Scope.MODEL:
                return model_subject(lease.model)
            case _:
                return None

    def _stored(self, key: ApiKey) -> StoredKey:
        return next((one for one in self._key_set.keys if one.digest == key.digest), StoredKey.of(key))

    def _rest(self, error: ProviderError) -> Rest:
        refused = isinstance(error, AuthenticationFailed)
        kind = Kind.REFUSED if refused else Kind.LIMITED
        stated = error.retry_after_s
        if stated is not None and math.isfinite(stated) and stated > 0:
            return Rest(stated, kind, Source.STATED, error.reason)
        guessed = self._refused_cooldown_s if refused else self._cooldown_s
        return Rest(guessed, kind, Source.STATED if error.is_named else Source.GUESSED, error.reason)


def _batch_limit(limit: int, reserve: float) -> int | None:
    """How many uses of a window the batch lane may have, one at least; None where nothing is kept from it."""
    if reserve <= 0:
        return None
    kept = math.ceil(limit * reserve - 1e-9)  # 0.3 of 10 are 3
    return max(1, limit - kept)
