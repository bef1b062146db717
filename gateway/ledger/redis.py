"""The ledger of many machines: hashes in a Redis that they share."""

import hashlib
import logging
import time
import zlib
from collections.abc import Callable, Collection, Sequence

from gateway.costs.call import PaidCall
from gateway.costs.redis import BOOK, FORGET_ROWS, booking
from gateway.ledger.store import Answered, Claim, Entry, Running, Started, Superseded, Work
from gateway.reporting import sentry
from gateway.stores.redis_server import RedisServer, Rows, microseconds

#: How many delivered answers a full server is made to forget at a time.
FORGOTTEN_AT_ONCE = 200

#: From how many bytes on an envelope is kept compressed, and how that begins: an envelope itself begins with a brace.
PACKED_FROM, ZLIB = 2048, b"\x78"

logger = logging.getLogger(__name__)

#: ARGV: 1 clock, 2 entry, 3 ttl, 4 token. An entry is held until `lease_ends`; an answered one has `expires`.
STEP = """
local entry, ttl, token = P .. 'ledger:' .. ARGV[2], tonumber(ARGV[3]), ARGV[4]
local function fact(name) return redis.call('HGET', entry, name) or '' end
local function number(name) return tonumber(redis.call('HGET', entry, name) or 0) end
local function answered() return number('expires') > now end
"""

#: 5 delivery, 6 lease, 7 replace a failure, 8 hop, 9 redelivered, 10 dead. Returns {'started', delivery, cancelled},
#: {'running', token, wait}, {'superseded'} or {'answered', …}.
BEGIN = (
    STEP
    + """
local lease, holder = tonumber(ARGV[6]), fact('token')
local held = number('lease_ends') > now and holder ~= token and holder ~= ARGV[10]
if answered() and not (ARGV[7] == '1' and fact('failure') == '1') then
  if fact('published') == '0' then
    if held then return {'running', holder, str(number('lease_ends') - now)} end
    redis.call('HSET', entry, 'token', token, 'lease_ends', str(now + lease))
  end
  return {'answered', fact('envelope'), fact('message_id'), fact('published'), fact('delivery'), fact('failure')}
end
if not answered() then
  if held then return {'running', holder, str(number('lease_ends') - now)} end
  if (fact('delivery') == ARGV[5] or ARGV[9] == '1') and number('hop') > tonumber(ARGV[8]) then
    return {'superseded'}
  end
end
local delivery = ARGV[5]
if ARGV[9] == '1' and fact('delivery') ~= '' then delivery = fact('delivery') end
-- First what a full server refuses: the script is run again then, and has to find what it has found now.
redis.call('HSET', entry, 'token', token, 'delivery', delivery, 'lease_ends', str(now + lease), 'hop', ARGV[8])
redis.call('HDEL', entry, 'envelope', 'message_id', 'failure', 'published', 'expires', 'stored')
expire(entry, lease + ttl)
keep_time()
local cancelled = redis.call('GET', P .. 'cancel:' .. string.match(ARGV[2], '^%x+'))
return {'started', delivery, tonumber(cancelled or 0) > now and 1 or 0}
"""
)

#: `answers` has every answer with the time at which it was stored, as its entry, and the bytes that had been stored by
#: then: so the first and the last tell how much is kept. Only what was delivered is forgotten before its time; what was
#: not, though it is old, counts no longer.
FORGET = """
local answers = P .. 'answers'
local function forget(most)
  local forgotten = 0
  repeat
    local oldest = redis.call('ZRANGE', answers, 0, most - 1)
    for _, answer in ipairs(oldest) do
      local name, stored = string.match(answer, '^(.*)|(%d+)$')
      local facts = redis.call('HMGET', P .. 'ledger:' .. name, 'stored', 'published')
      if facts[1] == stored and facts[2] == '1' then
        redis.call('DEL', P .. 'ledger:' .. name)
        forgotten = forgotten + 1
      end
      redis.call('ZREM', answers, answer)
    end
  until forgotten > 0 or #oldest == 0
  return forgotten
end
"""

#: 5 delivery, 6 envelope, 7 message id, 8 failure, 9 most bytes, 10 what was paid. Returns {1}, or {} when there is
#: somebody else's answer. The lease goes on.
ANSWER = (
    STEP
    + FORGET
    + BOOK
    + """
book(ARGV[10])
if answered() then return {fact('token') == token and 1 or nil} end
local lease_ends = str(number('lease_ends'))
local stored = str(redis.call('HINCRBY', P .. 'clock', 'stored', #ARGV[6]))
redis.call('ZADD', answers, str(now), ARGV[2] .. '|' .. stored)
redis.call('HSET', entry, 'token', token, 'delivery', ARGV[5], 'envelope', ARGV[6], 'message_id', ARGV[7],
  'failure', ARGV[8], 'published', '0', 'lease_ends', lease_ends, 'expires', str(now + ttl), 'stored', stored)
redis.call('HDEL', entry, 'hop')
expire(entry, ttl)
expire(answers, ttl)
local first = redis.call('ZRANGE', answers, 0, 0, 'WITHSCORES')
local kept = tonumber(stored) - tonumber(string.match(first[1], '|(%d+)$'))
if kept > tonumber(ARGV[9]) or tonumber(first[2]) + ttl < now then forget(10) end
keep_time()
return {1}
"""
)

#: 2 how many at most. Returns how many answers were forgotten, and how many rows of paid calls: those first, for what
#: they have cost is in the sums.
MAKE_ROOM = (
    FORGET
    + FORGET_ROWS
    + """
local most = tonumber(ARGV[2])
local rows, answers = forget_rows(most, 1), 0
if rows == 0 then answers = forget(most) end
if rows + answers == 0 then rows = forget_rows(most, 0) end
return {answers, rows}
"""
)

PUBLISHED = STEP + "if answered() then redis.call('HSET', entry, 'published', '1') end return {}"

#: 5 delivery, 6 hop, 7 what was paid.
SCHEDULED = (
    STEP
    + BOOK
    + """
book(ARGV[7])
if answered() or fact('token') ~= token then return {} end
redis.call('HSET', entry, 'token', '', 'delivery', ARGV[5], 'hop', ARGV[6], 'lease_ends', '0')
expire(entry, ttl)
return {}
"""
)

ABANDON = (
    STEP
    + """
if fact('token') ~= token then return {} end
if answered() then redis.call('HSET', entry, 'lease_ends', '0') else redis.call('DEL', entry) end
return {}
"""
)

#: 2 the id's digest, 3 ttl.
CANCEL = """
local cancel = P .. 'cancel:' .. ARGV[2]
redis.call('SET', cancel, str(now + tonumber(ARGV[3])))
expire(cancel, tonumber(ARGV[3]))
keep_time()
return {}
"""


#: From 2 on the ids' digests. Returns those that are marked.
MARKED = """
local marked = {}
for i = 2, #ARGV do
  if tonumber(redis.call('GET', P .. 'cancel:' .. ARGV[i]) or 0) > now then table.insert(marked, ARGV[i]) end
end
return marked
"""


class RedisLedger:
    """Keeps the contract of `Ledger`; an answer is kept for `ttl_s` seconds, then Redis removes it by itself.

    An answer survives the death of this process. Whether it survives that of Redis is a setting of the server: with
    `appendonly yes` all but the last second does, without it what was not saved is forgotten.
    """

    def __init__(
        self, server: RedisServer, *, ttl_s: float, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._server = server
        self._max_bytes = max_bytes
        server.make_room = self._make_room
        self._ttl_s = ttl_s
        self._clock = clock

    def begin(self, claim: Claim) -> Entry:
        found = self._run(
            BEGIN,
            claim.work,
            claim.token,
            claim.delivery,
            microseconds(claim.lease_s),
            int(claim.replace_failure),
            claim.hop,
            int(claim.redelivered),
            claim.dead,
        )
        match found:
            case [b"running", token, wait]:
                return Running(token.decode(), int(wait) / 1_000_000)
            case [b"superseded"]:
                return Superseded()
            case [b"answered", envelope, message_id, published, delivery, failure]:
                return Answered(
                    _unpacked(envelope), message_id.decode(), published == b"1", delivery.decode(), failure == b"1"
                )
            case _:
                return Started(found[1].decode(), cancelled=bool(found[2]))

    def answer(  # noqa: PLR0913 - as the protocol has it
        self,
        work: Work,
        token: str,
        *,
        envelope: bytes,
        message_id: str,
        failure: bool,
        delivery: str,
        paid: Sequence[PaidCall] = (),
    ) -> bool:
        facts = (delivery, _packed(envelope), message_id, int(failure), self._max_bytes)
        return bool(self._run(ANSWER, work, token, *facts, booking(paid)))

    def published(self, work: Work) -> None:
        self._run(PUBLISHED, work, "")

    def scheduled(self, work: Work, token: str, *, delivery: str, hop: int, paid: Sequence[PaidCall] = ()) -> None:
        self._run(SCHEDULED, work, token, delivery, hop, booking(paid))

    def abandon(self, work: Work, token: str) -> None:
        self._run(ABANDON, work, token)

    def cancel(self, request_id: str) -> bool:
        self._server.run(CANCEL, self._clock, _name(request_id), microseconds(self._ttl_s))
        return True

    def cancelled(self, request_ids: Collection[str]) -> set[str]:
        names = {_name(request_id): request_id for request_id in request_ids}
        return {names[name.decode()] for name in self._server.run(MARKED, self._clock, *names)}

    def _run(self, script: str, work: Work, token: str, *args: str | bytes | int) -> Rows:
        entry = f"{_name(work.request_id)}:{work.digest}"
        return self._server.run(script, self._clock, entry, microseconds(self._ttl_s), token, *args)

    def _make_room(self) -> bool:
        """Forget the oldest rows of paid calls, then the oldest answers that were delivered; whether there were any."""
        forgotten, rows = self._server.run(MAKE_ROOM, self._clock, FORGOTTEN_AT_ONCE, makes_room=False)
        if rows:
            logger.warning("Redis is full: %d rows of paid calls are forgotten before their time", rows)
            return True
        if forgotten:
            logger.warning("Redis is full: %d delivered answers are forgotten before their time", forgotten)
        about = "Give it more memory, or set LEDGER_MAX_BYTES to less than it has"
        sentry.tell_operator("redis_full", f"Redis is full (maxmemory). {about}")
        return bool(forgotten)


def _name(request_id: str) -> str:
    """A digest: the id is somebody else's text of any length."""
    return hashlib.sha256(request_id.encode()).hexdigest()


def _packed(envelope: bytes) -> bytes:
    return zlib.compress(envelope, 1) if len(envelope) >= PACKED_FROM else envelope


def _unpacked(kept: bytes) -> bytes:
    return zlib.decompress(kept) if kept.startswith(ZLIB) else kept
