"""The key store of many machines: a Redis that they share."""

from gateway.keys import redis_scripts as scripts
from gateway.keys.store import (
    Blocked,
    Granted,
    Kind,
    MemberStatus,
    Rest,
    Ring,
    Source,
    account_subject,
    key_subject,
    model_subject,
)
from gateway.stores.redis_server import RedisServer, Rows, microseconds

#: The fields of one key in what the script STATUS returns.
STATUS_FIELDS = 8


class RedisKeyStore:
    """Keeps the contract of `KeyStore` for every machine that uses the server.

    Each method is one script and one round trip, whatever the number of keys; where the server does not know the ring
    (it is new, or was not renewed for an hour) there are two more.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def acquire(self, ring: Ring, model: str, lease: str) -> Granted | Blocked:
        if not ring.members:  # Redis keeps no empty ring: it could be enrolled for ever
            return Blocked(0.0, refused=True)
        digest, number, *refused = self._run_enrolled(scripts.ACQUIRE, ring, model_subject(model), lease)
        if digest:
            return Granted(digest.decode(), _seconds(number))
        return Blocked(_seconds(number), refused == [b"1"])

    def cancel(self, ring: Ring, digest: str, lease: str) -> None:
        self._run(scripts.CANCEL, ring, digest, lease)

    def release(self, ring: Ring, digest: str, lease: str) -> None:
        self._run(scripts.RELEASE, ring, digest, lease)

    def cool(self, ring: Ring, subject: str, rest: Rest) -> None:
        self._run(scripts.COOL, ring, subject, microseconds(rest.seconds), rest.kind, rest.source, rest.reason)

    def clear(self, ring: Ring, digest: str, reason: str | None = None) -> None:
        accounts = [m.account for m in ring.members if m.digest == digest and m.account is not None]
        self._run(scripts.CLEAR, ring, reason or "", key_subject(digest), *map(account_subject, accounts))

    def ready_in_s(self, ring: Ring, model: str | None) -> float:
        if not ring.members:
            return 0.0
        (wait,) = self._run_enrolled(scripts.READY_IN, ring, "" if model is None else model_subject(model))
        return _seconds(wait)

    def status(self, ring: Ring) -> list[MemberStatus]:
        if not ring.members:
            return []
        found = self._run_enrolled(scripts.STATUS, ring)
        rows = [_status(found[start : start + STATUS_FIELDS]) for start in range(0, len(found), STATUS_FIELDS)]
        by_digest = {row.digest: row for row in rows}
        return [by_digest[member.digest] for member in ring.members]

    def close(self) -> None:
        self._server.close()

    def _run_enrolled(self, script: str, ring: Ring, *args: str) -> Rows:
        while not (found := self._run(script, ring, *args)):
            self._enrol(ring)
        return found

    def _enrol(self, ring: Ring) -> None:
        limits = (ring.limit, microseconds(ring.window_s), ring.max_in_flight, microseconds(ring.flight_s))
        pairs = [text for member in ring.members for text in (member.digest, member.account or "")]
        self._run(scripts.ENROL, ring, *limits, *pairs)

    def _run(self, script: str, ring: Ring, *args: str | int) -> Rows:
        return self._server.run(script, ring.clock, ring.id, *args)


def _seconds(text: bytes) -> float:
    return int(text) / 1_000_000


def _status(row: list[bytes]) -> MemberStatus:
    digest, used, wait, in_flight, *rest = row
    return MemberStatus(digest.decode(), int(used), _seconds(wait), _rest(rest), int(in_flight))


def _rest(fields: list[bytes]) -> Rest | None:
    ends, kind, source, reason = fields
    if not ends:
        return None
    return Rest(_seconds(ends), Kind(kind.decode()), Source(source.decode()), reason.decode())
