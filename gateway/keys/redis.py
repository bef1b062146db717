"""The key store of many machines: a Redis that they share. What it does there is in `redis.lua`."""

from importlib.resources import files

from gateway.keys.store import (
    Blocked,
    Granted,
    KeySet,
    Kind,
    Rest,
    Source,
    StoredKeyStatus,
    is_batch,
    model_subject,
)
from gateway.stores.redis_server import RedisServer, Rows, microseconds

SCRIPT = files("gateway.keys").joinpath("redis.lua").read_text(encoding="utf-8")


class RedisKeyStore:
    """Keeps the contract of `KeyStore` for every machine that uses the server.

    Each method is one script and one round trip, whatever the number of keys; where the server does not know the set
    (it is new, or was not registered for an hour) there are two more.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def acquire(self, key_set: KeySet, model: str, lease: str) -> Granted | Blocked:
        most = _most(key_set, batch=is_batch(lease))
        digest, number, refused = self._run("acquire", key_set, model_subject(model), lease, most)
        if digest:
            return Granted(digest.decode(), _seconds(number))
        return Blocked(_seconds(number), refused == b"1")

    def cancel(self, key_set: KeySet, digest: str, lease: str) -> None:
        self._run("cancel", key_set, digest, lease)

    def release(self, key_set: KeySet, digest: str, lease: str) -> None:
        self._run("release", key_set, digest, lease)

    def cool(self, key_set: KeySet, subject: str, rest: Rest) -> None:
        self._run("cool", key_set, subject, microseconds(rest.seconds), rest.kind, rest.source, rest.reason)

    def clear(self, key_set: KeySet, digest: str, reason: str | None = None) -> None:
        self._run("clear", key_set, digest, reason or "")

    def ready_in_s(self, key_set: KeySet, model: str | None, *, batch: bool = False) -> float:
        most = _most(key_set, batch=batch)
        (wait,) = self._run("ready_in", key_set, "" if model is None else model_subject(model), most)
        return _seconds(wait)

    def status(self, key_set: KeySet) -> list[StoredKeyStatus]:
        if not key_set.keys:
            return []
        by_digest = {row[0].decode(): row[1:] for row in self._run("status", key_set)}
        return [_status(key.digest, *by_digest[key.digest]) for key in key_set.keys]

    def _run(self, step: str, key_set: KeySet, *args: str | int) -> Rows:
        """What the step returns; a set that the server does not know is registered first."""
        while not (found := self._send(step, key_set, *args)):
            self._send("register", key_set, *(text for key in key_set.keys for text in (key.digest, key.account or "")))
        return found

    def _send(self, step: str, key_set: KeySet, *args: str | int) -> Rows:
        limits = (key_set.limit, microseconds(key_set.window_s), key_set.max_in_flight, microseconds(key_set.flight_s))
        return self._server.run(SCRIPT, key_set.clock, step, key_set.id, len(key_set.digests), *limits, *args)


def _most(key_set: KeySet, *, batch: bool) -> int | str:
    """How many uses of a window the lane may have; nothing where that is all of them."""
    return key_set.batch_limit if batch and key_set.batch_limit is not None else ""


def _seconds(text: bytes) -> float:
    return int(text) / 1_000_000


def _status(digest: str, used: bytes, wait: bytes, in_flight: bytes, *rest: bytes) -> StoredKeyStatus:
    return StoredKeyStatus(digest, int(used), _seconds(wait), _rest(*rest), int(in_flight))


def _rest(ends: bytes, kind: bytes, source: bytes, reason: bytes) -> Rest | None:
    if not ends:
        return None
    return Rest(_seconds(ends), Kind(kind.decode()), Source(source.decode()), reason.decode())
