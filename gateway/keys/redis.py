"""The key store of many machines: a Redis that they share."""

from gateway.keys import redis_scripts as scripts
from gateway.keys.store import (
    Blocked,
    Granted,
    KeySet,
    Kind,
    Rest,
    Source,
    StoredKeyStatus,
    account_subject,
    key_subject,
    model_subject,
)
from gateway.stores.redis_server import RedisServer, Rows, microseconds

#: The fields of one key in what the script STATUS returns.
STATUS_FIELDS = 8


class RedisKeyStore:
    """Keeps the contract of `KeyStore` for every machine that uses the server.

    Each method is one script and one round trip, whatever the number of keys; where the server does not know the set
    (it is new, or was not renewed for an hour) there are two more.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def acquire(self, key_set: KeySet, model: str, lease: str) -> Granted | Blocked:
        if not key_set.keys:  # Redis keeps no empty key_set: it could be registered for ever
            return Blocked(0.0, refused=True)
        digest, number, *refused = self._run_registered(scripts.ACQUIRE, key_set, model_subject(model), lease)
        if digest:
            return Granted(digest.decode(), _seconds(number))
        return Blocked(_seconds(number), refused == [b"1"])

    def cancel(self, key_set: KeySet, digest: str, lease: str) -> None:
        self._run(scripts.CANCEL, key_set, digest, lease)

    def release(self, key_set: KeySet, digest: str, lease: str) -> None:
        self._run(scripts.RELEASE, key_set, digest, lease)

    def cool(self, key_set: KeySet, subject: str, rest: Rest) -> None:
        self._run(scripts.COOL, key_set, subject, microseconds(rest.seconds), rest.kind, rest.source, rest.reason)

    def clear(self, key_set: KeySet, digest: str, reason: str | None = None) -> None:
        accounts = [m.account for m in key_set.keys if m.digest == digest and m.account is not None]
        self._run(scripts.CLEAR, key_set, reason or "", key_subject(digest), *map(account_subject, accounts))

    def ready_in_s(self, key_set: KeySet, model: str | None) -> float:
        if not key_set.keys:
            return 0.0
        (wait,) = self._run_registered(scripts.READY_IN, key_set, "" if model is None else model_subject(model))
        return _seconds(wait)

    def status(self, key_set: KeySet) -> list[StoredKeyStatus]:
        if not key_set.keys:
            return []
        found = self._run_registered(scripts.STATUS, key_set)
        rows = [_status(found[start : start + STATUS_FIELDS]) for start in range(0, len(found), STATUS_FIELDS)]
        by_digest = {row.digest: row for row in rows}
        return [by_digest[key.digest] for key in key_set.keys]

    def close(self) -> None:
        self._server.close()

    def _run_registered(self, script: str, key_set: KeySet, *args: str) -> Rows:
        while not (found := self._run(script, key_set, *args)):
            self._register(key_set)
        return found

    def _register(self, key_set: KeySet) -> None:
        limits = (key_set.limit, microseconds(key_set.window_s), key_set.max_in_flight, microseconds(key_set.flight_s))
        pairs = [text for key in key_set.keys for text in (key.digest, key.account or "")]
        self._run(scripts.REGISTER, key_set, *limits, *pairs)

    def _run(self, script: str, key_set: KeySet, *args: str | int) -> Rows:
        return self._server.run(script, key_set.clock, key_set.id, *args)


def _seconds(text: bytes) -> float:
    return int(text) / 1_000_000


def _status(row: list[bytes]) -> StoredKeyStatus:
    digest, used, wait, in_flight, *rest = row
    return StoredKeyStatus(digest.decode(), int(used), _seconds(wait), _rest(rest), int(in_flight))


def _rest(fields: list[bytes]) -> Rest | None:
    ends, kind, source, reason = fields
    if not ends:
        return None
    return Rest(_seconds(ends), Kind(kind.decode()), Source(source.decode()), reason.decode())
