-- The steps of the Redis key store; Redis runs each without interruption. `gateway/stores/redis_server.py` puts its
-- prelude in front: P, now, str, keep_time, expire. Times are microseconds.
--
--   every step: if the set is new, or not registered for an hour: register its keys, refresh each, and ask again
--   acquire(model):
--     unless the model rests, or no key of the set has ready_at <= now:
--       for each key of the set with ready_at <= now, least recently used first:
--         if it may be used now: note the use, and the flight; it is the last in turn; refresh it; granted
--         refresh it
--     blocked until the lowest ready_at in the set; refused if the lowest refused_until in the set is to come
--   cancel, release, cool, clear: change what is noted; refresh each key that it is about
--   refresh(key):
--     ready_at = the latest of the end of its rest or its account's, the moment when its window has a place,
--                and the moment when one more of its calls may be in flight
--     refused_until = the end of that rest, if the provider has refused the key; else 0
--
-- `ready_at` is what makes a thousand keys cost what ten do: the lowest says how long no key need be looked at. It is
-- noted under the limits of whoever has refreshed the key last, so it is checked before the key is used; and while two
-- configurations with different limits are at work, the one with the higher ones may wait as long as the other.
--
--   ready_at:<set>       zset  digest → ready_at; below zero, in the order of their turns, where that has come
--   refused_until:<set>  zset  digest → refused_until
--   key_sets, windows    zset  set → when it was registered, its window; they count for an hour
--   turns                zset  digest → number of its last turn, of every known key
--   accounts             hash  digest → account, '' for none, of every known key
--   seen                 zset  digest → when a set that has it was registered
--   uses:<digest>        zset  lease → when
--   batch_uses:<digest>  zset  those of the batch lane among them, where it may not have all
--   flights:<digest>     zset  lease → when it ends if nobody releases it
--   rest:<subject>       hash  until, kind, source, reason
--   account:<name>       set   digests
--   granted:<lease>      hash  digest, at; for as long as somebody may ask again because the answer was lost
--
-- ARGV: 1 clock, 2 step, 3 set, 4 its number of keys, 5 limit, 6 window, 7 in flight, 8 length of a flight, and from
-- FIRST on what the step needs.

local HOUR, WEEK, FIRST = 3600000000, 604800000000, 9
local GRANTED_MS = 120000
local READY = -4503599627370496  -- 2^52: a number of turn added to it stays below zero, and exact
local id, count = ARGV[3], tonumber(ARGV[4])
local limit, window, cap, flight = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local READY_AT, REFUSED_UNTIL, KEY_SETS = P .. 'ready_at:', P .. 'refused_until:', P .. 'key_sets'
local WINDOWS, TURNS, ACCOUNTS, SEEN = P .. 'windows', P .. 'turns', P .. 'accounts', P .. 'seen'

local function uses_of(digest) return P .. 'uses:' .. digest end
local function batch_uses_of(digest) return P .. 'batch_uses:' .. digest end
local function is_batch(lease) return string.sub(lease, 1, 1) == 'z' end
local function flights_of(digest) return P .. 'flights:' .. digest end
local function account_of(digest) return redis.call('HGET', ACCOUNTS, digest) or '' end
local function rest_ends(subject) return tonumber(redis.call('HGET', P .. 'rest:' .. subject, 'until') or 0) end

-- The lowest of a zset, and its score.
local function first(zset)
  local found = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')
  return found[1], tonumber(found[2])
end

-- Also not where the server has lost a part, by an eviction for one: no key may be missing, or be without its account.
local function registered()
  return tonumber(redis.call('ZSCORE', KEY_SETS, id) or 0) > now - HOUR
    and redis.call('ZCARD', READY_AT .. id) == count and redis.call('ZCARD', REFUSED_UNTIL .. id) == count
    and redis.call('HLEN', ACCOUNTS) == redis.call('ZCARD', TURNS)
end

-- The rest of the key or of its account, whichever ends later; of two that end together, the refusal.
local function rest_of(digest)
  local rest = {ends = 0}
  for _, subject in ipairs({'key:' .. digest, 'account:' .. account_of(digest)}) do
    local facts = redis.call('HMGET', P .. 'rest:' .. subject, 'until', 'kind', 'source', 'reason')
    local ends = tonumber(facts[1] or 0)
    if ends > rest.ends or (ends == rest.ends and facts[2] == 'refused') then
      rest = {ends = ends, kind = facts[2], source = facts[3], reason = facts[4]}
    end
  end
  return rest
end

-- The nth score from the end, and `more`; 0 when there are fewer.
local function nth_last(zset, n, more)
  local score = n > 0 and redis.call('ZREVRANGE', zset, n - 1, n - 1, 'WITHSCORES')[2]
  return score and tonumber(score) + more or 0
end

local function ready_at(digest, rest)
  return math.max(rest.ends, nth_last(uses_of(digest), limit, window), nth_last(flights_of(digest), cap, 0))
end

local function in_turn(digest) return str(READY + tonumber(redis.call('ZSCORE', TURNS, digest) or 0)) end

local function refresh(digest)
  local rest = rest_of(digest)
  local at = ready_at(digest, rest)
  local place, refused_until = at > now and str(at) or in_turn(digest), rest.kind == 'refused' and str(rest.ends) or '0'
  for _, set in ipairs(redis.call('ZRANGE', KEY_SETS, 0, -1)) do
    redis.call('ZADD', READY_AT .. set, 'XX', place, digest)
    redis.call('ZADD', REFUSED_UNTIL .. set, 'XX', refused_until, digest)
  end
end

local function refresh_all(subject)
  local scope, name = string.match(subject, '^(%a+):(.+)$')
  if scope == 'key' then refresh(name) end
  if scope == 'account' then
    for _, digest in ipairs(redis.call('SMEMBERS', P .. 'account:' .. name)) do refresh(digest) end
  end
end

-- When one more use may be one of at most so many; at once without a number.
local function lane_at(digest, most) return most and nth_last(batch_uses_of(digest), most, window) or 0 end

local function ready_in(model, most)
  local _, at = first(READY_AT .. id)
  if most and at then
    local rows = redis.call('ZRANGE', READY_AT .. id, 0, -1, 'WITHSCORES')
    at = math.huge
    for i = 1, #rows, 2 do at = math.min(at, math.max(tonumber(rows[i + 1]), lane_at(rows[i], most))) end
  end
  return math.max(0, math.max(at or 0, rest_ends(model)) - now)
end

-- The least recently used key of the set of which nothing is known that keeps it from being used.
local function next_in_turn(most)
  for _, digest in ipairs(redis.call('ZRANGEBYSCORE', READY_AT .. id, 0, str(now))) do
    redis.call('ZADD', READY_AT .. id, in_turn(digest), digest)
  end
  if most then
    for _, digest in ipairs(redis.call('ZRANGEBYSCORE', READY_AT .. id, '-inf', '(0')) do
      if lane_at(digest, most) <= now then return digest end
    end
    return false
  end
  local digest, at = first(READY_AT .. id)
  return digest and at < 0 and digest
end

local function note(zset, ended, score, lease, length)
  redis.call('ZREMRANGEBYSCORE', zset, '-inf', str(ended))
  redis.call('ZADD', zset, str(score), lease)
  expire(zset, length)
end

local function use(digest, lease)
  -- Another configuration may count for a longer window than this one, and needs the uses.
  local longest = math.max(window, tonumber(redis.call('ZREVRANGE', WINDOWS, 0, 0, 'WITHSCORES')[2] or 0))
  note(uses_of(digest), now - longest, now, lease, longest)
  if is_batch(lease) then note(batch_uses_of(digest), now - longest, now, lease, longest) end
  if cap > 0 then note(flights_of(digest), now, now + flight, lease, flight) end
  -- Turns are counted, not timed: two uses at the same moment have an order.
  redis.call('ZADD', TURNS, str(redis.call('HINCRBY', P .. 'clock', 'turn', 1)), digest)
  refresh(digest)
end

local function join(digest, account)
  -- A process that has just started does not know what another one has learned, and leaves it.
  if account == '' and string.match(account_of(digest), '^user%-') then account = account_of(digest) end
  redis.call('HSET', ACCOUNTS, digest, account)
  if account ~= '' then
    redis.call('SADD', P .. 'account:' .. account, digest)
    expire(P .. 'account:' .. account, WEEK)
  end
  -- Who is new comes before all who had a turn, in the order of the settings.
  if not redis.call('ZSCORE', TURNS, digest) then
    redis.call('ZADD', TURNS, str(redis.call('HINCRBY', P .. 'clock', 'joined', 1) - 1000000000000), digest)
  end
  redis.call('ZADD', READY_AT .. id, 0, digest)
  redis.call('ZADD', REFUSED_UNTIL .. id, 0, digest)
  redis.call('ZADD', SEEN, str(now), digest)
  refresh(digest)
end

local function forget()
  for _, digest in ipairs(redis.call('ZRANGEBYSCORE', SEEN, '-inf', str(now - WEEK), 'LIMIT', 0, 100)) do
    for _, zset in ipairs({TURNS, SEEN}) do redis.call('ZREM', zset, digest) end
    redis.call('HDEL', ACCOUNTS, digest)
    redis.call('DEL', uses_of(digest), batch_uses_of(digest), flights_of(digest))
  end
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEY_SETS, '-inf', str(now - HOUR))) do
    for _, zset in ipairs({KEY_SETS, WINDOWS}) do redis.call('ZREM', zset, gone) end
    redis.call('DEL', READY_AT .. gone, REFUSED_UNTIL .. gone)
  end
end

local steps = {}

-- digest and account of each key
function steps.register()
  redis.call('DEL', READY_AT .. id, REFUSED_UNTIL .. id)
  redis.call('ZADD', KEY_SETS, str(now), id)
  redis.call('ZADD', WINDOWS, str(window), id)
  for i = FIRST, #ARGV, 2 do join(ARGV[i], ARGV[i + 1]) end
  forget()
  local kept = {READY_AT .. id, REFUSED_UNTIL .. id, KEY_SETS, WINDOWS, TURNS, ACCOUNTS, SEEN, P .. 'clock'}
  for _, key in ipairs(kept) do expire(key, WEEK) end
end

-- model subject, lease, how many uses its lane may have ('' for all); returns digest and now, or '', wait, whether all were refused
function steps.acquire()
  local model, lease, most = ARGV[FIRST], ARGV[FIRST + 1], tonumber(ARGV[FIRST + 2])
  -- Its answer was lost, and who asks again has its use already.
  local granted = P .. 'granted:' .. lease
  local before = redis.call('HMGET', granted, 'digest', 'at')
  if before[1] then return {before[1], before[2], ''} end
  local digest = rest_ends(model) <= now and next_in_turn(most)
  while digest do
    if ready_at(digest, rest_of(digest)) <= now then
      use(digest, lease)
      redis.call('HSET', granted, 'digest', digest, 'at', str(now))
      redis.call('PEXPIRE', granted, GRANTED_MS)
      return {digest, str(now), ''}
    end
    refresh(digest)
    digest = next_in_turn(most)
  end
  local _, refused_until = first(REFUSED_UNTIL .. id)
  return {'', str(ready_in(model, most)), (refused_until or math.huge) > now and '1' or '0'}
end

-- digest, lease
function steps.cancel()
  redis.call('ZREM', uses_of(ARGV[FIRST]), ARGV[FIRST + 1])
  if is_batch(ARGV[FIRST + 1]) then redis.call('ZREM', batch_uses_of(ARGV[FIRST]), ARGV[FIRST + 1]) end
  redis.call('DEL', P .. 'granted:' .. ARGV[FIRST + 1])
  steps.release()
end

-- digest, lease
function steps.release()
  redis.call('ZREM', flights_of(ARGV[FIRST]), ARGV[FIRST + 1])
  refresh(ARGV[FIRST])
end

-- subject, length, kind, source, reason
function steps.cool()
  local subject, ends = ARGV[FIRST], now + tonumber(ARGV[FIRST + 1])
  if ends <= rest_ends(subject) then return end
  local rest = P .. 'rest:' .. subject
  redis.call('HSET', rest, 'until', str(ends), 'kind', ARGV[FIRST + 2], 'source', ARGV[FIRST + 3],
    'reason', ARGV[FIRST + 4])
  expire(rest, ends - now)
  refresh_all(subject)
end

-- digest, reason, '' for any
function steps.clear()
  local digest, reason = ARGV[FIRST], ARGV[FIRST + 1]
  for _, subject in ipairs({'key:' .. digest, 'account:' .. account_of(digest)}) do
    local rest = P .. 'rest:' .. subject
    if reason == '' or reason == redis.call('HGET', rest, 'reason') then redis.call('DEL', rest) end
    refresh_all(subject)
  end
end

-- model subject, '' for any; how many uses a lane may have, '' for all; returns the wait
function steps.ready_in() return {str(ready_in(ARGV[FIRST], tonumber(ARGV[FIRST + 1])))} end

-- returns for each key: digest, uses, wait, in flight, and of its rest length, kind, source, reason, '' for none
function steps.status()
  local function after(zset, time) return str(redis.call('ZCOUNT', zset, '(' .. str(time), '+inf')) end
  local rows = {}
  for _, digest in ipairs(redis.call('ZRANGE', READY_AT .. id, 0, -1)) do
    local rest = rest_of(digest)
    local used, wait = after(uses_of(digest), now - window), str(math.max(0, ready_at(digest, rest) - now))
    local in_flight = cap > 0 and after(flights_of(digest), now) or '0'
    local facts = rest.ends > now and {str(rest.ends - now), rest.kind, rest.source, rest.reason} or {'', '', '', ''}
    rows[#rows + 1] = {digest, used, wait, in_flight, unpack(facts)}
  end
  return rows
end

-- Who has missed the set together with others sends it as they do: the first one counts.
if registered() == (ARGV[2] == 'register') then return registered() and {'done'} or {} end
local answer = steps[ARGV[2]]()
if ARGV[2] ~= 'ready_in' and ARGV[2] ~= 'status' then keep_time() end
return answer or {'done'}
