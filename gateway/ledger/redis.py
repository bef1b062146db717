"""The ledger of many machines: hashes in a Redis that they share."""

import hashlib
import time
import uuid
from collections.abc import Callable

from gateway.ledger.store import Answered, Entry, Running, Started, Superseded, Work
from gateway.stores.redis_server import RedisServer, Rows, microseconds

#: ARGV: 1 clock, 2 entry, 3 ttl, 4 token. A running entry has `lease_ends`, an answered one `envelope`.
STEP = """
local entry, ttl, token = P .. 'ledger:' .. ARGV[2], tonumber(ARGV[3]), ARGV[4]
local function fact(name) return redis.call('HGET', entry, name) or '' end
local function answered() return tonumber(redis.call('HGET', entry, 'expires') or 0) > now end
"""

#: 5 delivery, 6 lease, 7 replace a failure, 8 hop, 9 redelivered. Returns {'started', delivery}, {'running', wait},
#: {'superseded'} or {'answered', …}.
BEGIN = (
    STEP
    + """
if answered() and not (ARGV[7] == '1' and fact('failure') == '1') then
  return {'answered', fact('envelope'), fact('message_id'), fact('published'), fact('delivery'), fact('failure')}
end
local lease_ends = tonumber(redis.call('HGET', entry, 'lease_ends') or 0)
-- Its own token: the client has lost the answer to its first try and asks again.
if lease_ends > now and fact('token') ~= token then return {'running', str(lease_ends - now)} end
local delivery = ARGV[5]
if ARGV[9] == '1' and fact('delivery') ~= '' then delivery = fact('delivery') end
if not answered() and fact('delivery') == delivery and (tonumber(fact('hop')) or 0) > tonumber(ARGV[8]) then
  return {'superseded'}
end
local lease = tonumber(ARGV[6])
redis.call('DEL', entry)
redis.call('HSET', entry, 'token', token, 'delivery', delivery, 'lease_ends', str(now + lease), 'hop', ARGV[8])
expire(entry, lease + ttl)
keep_time()
return {'started', delivery}
"""
)

#: 5 delivery, 6 envelope, 7 message id, 8 failure.
ANSWER = (
    STEP
    + """
if answered() then return {} end
redis.call('DEL', entry)
redis.call('HSET', entry, 'token', token, 'delivery', ARGV[5], 'envelope', ARGV[6], 'message_id', ARGV[7],
  'failure', ARGV[8], 'published', '0', 'expires', str(now + ttl))
expire(entry, ttl)
keep_time()
return {}
"""
)

PUBLISHED = STEP + "if answered() then redis.call('HSET', entry, 'published', '1') end return {}"

#: 5 delivery, 6 hop.
SCHEDULED = (
    STEP
    + """
if answered() or fact('token') ~= token then return {} end
redis.call('HSET', entry, 'token', '', 'delivery', ARGV[5], 'hop', ARGV[6], 'lease_ends', '0')
expire(entry, ttl)
return {}
"""
)

ABANDON = STEP + "if not answered() and fact('token') == token then redis.call('DEL', entry) end return {}"


class RedisLedger:
    """Keeps the contract of `Ledger`; an answer is kept for `ttl_s` seconds, then Redis removes it by itself.

    An answer survives the death of this process. Whether it survives that of Redis is a setting of the server: with
    `appendonly yes` all but the last second does, without it what was not saved is forgotten.
    """

    def __init__(self, server: RedisServer, *, ttl_s: float, clock: Callable[[], float] = time.time) -> None:
        self._server = server
        self._ttl_s = ttl_s
        self._clock = clock

    def begin(self, work: Work, *, delivery: str, hop: int = 0, lease_s: float, redelivered: bool = False) -> Entry:
        return self._begin(work, delivery, hop, lease_s, redelivered=redelivered)

    def restart(self, work: Work, *, delivery: str, hop: int = 0, lease_s: float) -> Entry:
        return self._begin(work, delivery, hop, lease_s, replace_failure=True)

    def answer(  # noqa: PLR0913 - as the protocol has it
        self, work: Work, token: str, *, envelope: bytes, message_id: str, failure: bool, delivery: str
    ) -> None:
        self._run(ANSWER, work, token, delivery, envelope, message_id, int(failure))

    def published(self, work: Work) -> None:
        self._run(PUBLISHED, work, "")

    def scheduled(self, work: Work, token: str, *, delivery: str, hop: int) -> None:
        self._run(SCHEDULED, work, token, delivery, hop)

    def abandon(self, work: Work, token: str) -> None:
        self._run(ABANDON, work, token)

    def _begin(  # noqa: PLR0913 - the facts of a delivery
        self,
        work: Work,
        delivery: str,
        hop: int,
        lease_s: float,
        *,
        redelivered: bool = False,
        replace_failure: bool = False,
    ) -> Entry:
        token = uuid.uuid4().hex
        lease = microseconds(lease_s)
        found = self._run(BEGIN, work, token, delivery, lease, int(replace_failure), hop, int(redelivered))
        match found:
            case [b"running", wait]:
                return Running(int(wait) / 1_000_000)
            case [b"superseded"]:
                return Superseded()
            case [b"answered", envelope, message_id, published, answered_delivery, failure]:
                return Answered(
                    envelope, message_id.decode(), published == b"1", answered_delivery.decode(), failure == b"1"
                )
            case _:
                return Started(token, found[1].decode())

    def _run(self, script: str, work: Work, token: str, *args: str | bytes | int) -> Rows:
        # The request's id is somebody else's text of any length; its digest is as good a name.
        entry = f"{hashlib.sha256(work.request_id.encode()).hexdigest()}:{work.digest}"
        return self._server.run(script, self._clock, entry, microseconds(self._ttl_s), token, *args)
