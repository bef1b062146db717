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
from gateway.redis_server import RedisServer, Reply, microseconds


class RedisKeyStore:
    """Keeps the contract of `KeyStore` for every machine that uses the server; each method is one script."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def acquire(self, ring: Ring, model: str, lease: str) -> Granted | Blocked:
        if not ring.members:  # Redis keeps no empty ring: it could be enrolled for ever
            return Blocked(0.0, refused=True)
        found = self._run(scripts.ACQUIRE, ring, model_subject(model), lease)
        while not found:  # new here, not renewed for an hour, or the server has lost its memory
            self._enrol(ring)
            found = self._run(scripts.ACQUIRE, ring, model_subject(model), lease)
        digest, number, *refused = found
        if digest:
            return Granted(digest.decode(), _seconds(number))
        return Blocked(_seconds(number), refused == [b"1"])

    def cancel(self, ring: Ring, digest: str, lease: str) -> None:
        self._run(scripts.CANCEL, ring, digest, lease)

    def cool(self, ring: Ring, subject: str, rest: Rest) -> None:
        self._run(scripts.COOL, ring, subject, microseconds(rest.seconds), rest.kind, rest.source, rest.reason)

    def clear(self, ring: Ring, digest: str) -> None:
        accounts = [m.account for m in ring.members if m.digest == digest and m.account is not None]
        self._run(scripts.CLEAR, ring, key_subject(digest), *map(account_subject, accounts))

    def ready_in_s(self, ring: Ring, model: str | None) -> float:
        (wait,) = self._run(scripts.READY_IN, ring, "" if model is None else model_subject(model))
        return _seconds(wait)

    def status(self, ring: Ring) -> list[MemberStatus]:
        return [self._status(ring, member.digest) for member in ring.members]

    def close(self) -> None:
        self._server.close()

    def _status(self, ring: Ring, digest: str) -> MemberStatus:
        used, wait, *rest = self._run(scripts.STATUS, ring, digest)
        return MemberStatus(digest, int(used), _seconds(wait), _rest(rest) if rest else None)

    def _enrol(self, ring: Ring) -> None:
        pairs = [text for member in ring.members for text in (member.digest, member.account or "")]
        self._run(scripts.ENROL, ring, *pairs)

    def _run(self, script: str, ring: Ring, *args: str | int) -> Reply:
        return self._server.run(script, ring.clock, ring.id, ring.limit, microseconds(ring.window_s), *args)


def _seconds(text: bytes) -> float:
    return int(text) / 1_000_000


def _rest(fields: list[bytes]) -> Rest:
    ends, kind, source, reason = fields
    return Rest(_seconds(ends), Kind(kind.decode()), Source(source.decode()), reason.decode())
