"""The steps of the Redis key store, in Lua; Redis runs each without interruption.

    ring:<id>       hash  digest → account, '' for none: the keys of one configuration; gone after an hour, then renewed
    turns           zset  digest → number of its last turn
    ready           zset  digest → when it may be used next
    uses:<digest>   zset  lease → when
    rest:<subject>  hash  until, kind, source, reason
    account:<name>  set   digests
    seen            zset  digest → when its ring was last renewed

Times are microseconds. ARGV: 1 clock, 2 ring, 3 limit, 4 window, 5 and on what the step needs.
"""

#: What the steps have in common. `ready` is kept ready-made, so that a thousand keys cost what ten do.
STEP = """
local HOUR, WEEK = 3600000000, 604800000000
local ring, limit, window = P .. 'ring:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local READY, TURNS, SEEN = P .. 'ready', P .. 'turns', P .. 'seen'

local function uses_of(digest) return P .. 'uses:' .. digest end
local function rest_ends(subject) return tonumber(redis.call('HGET', P .. 'rest:' .. subject, 'until') or 0) end

local function subjects_of(digest)
  local account = redis.call('HGET', ring, digest)
  if account and account ~= '' then return {'key:' .. digest, 'account:' .. account} end
  return {'key:' .. digest}
end

-- What the key rests with, its own rest or its account's, whichever ends later; nil when it does not rest.
local function rest_of(digest)
  local subject, ends = nil, now
  for _, candidate in ipairs(subjects_of(digest)) do
    local candidate_ends = rest_ends(candidate)
    if candidate_ends > ends then subject, ends = candidate, candidate_ends end
  end
  return subject, ends
end

-- When the key's window has a place again; 0 when it has one.
local function window_until(digest)
  local use = redis.call('ZREVRANGE', uses_of(digest), limit - 1, limit - 1, 'WITHSCORES')
  return use[2] and tonumber(use[2]) + window or 0
end

local function ready_at(digest)
  local rests, ends = rest_of(digest)
  return math.max(window_until(digest), rests and ends or 0)
end

local function refresh(digest)
  local at = ready_at(digest)
  redis.call('ZADD', READY, str(at), digest)
  return at
end

local function refresh_all(subject)
  local scope, name = string.match(subject, '^(%a+):(.*)$')
  if scope == 'key' then refresh(name) end
  if scope == 'account' then
    for _, digest in ipairs(redis.call('SMEMBERS', P .. 'account:' .. name)) do refresh(digest) end
  end
end

-- The first member of the sorted set that is of this ring and pleases `wanted`; read in small pieces.
local function first(zset, wanted)
  local from = 0
  while true do
    local piece = redis.call('ZRANGE', zset, from, from + 63, 'WITHSCORES')
    if #piece == 0 then return nil end
    for i = 1, #piece, 2 do
      if redis.call('HEXISTS', ring, piece[i]) == 1 and wanted(piece[i]) then
        return piece[i], tonumber(piece[i + 1])
      end
    end
    from = from + 64
  end
end

local function first_ready_at()
  local _, at = first(READY, function() return true end)
  return at or 0
end

local function ready_in(model)
  local rests_until = model == '' and 0 or rest_ends(model)
  return math.max(0, math.max(first_ready_at(), rests_until) - now)
end
"""

#: 5 and on: digest, account. Renews the ring, and removes some of what nobody has renewed for a week.
ENROL = (
    STEP
    + """
redis.call('DEL', ring)
for i = 5, #ARGV, 2 do
  local digest, account = ARGV[i], ARGV[i + 1]
  redis.call('HSET', ring, digest, account)
  redis.call('ZADD', TURNS, 'NX', str(i - 5 - #ARGV), digest)
  redis.call('ZADD', SEEN, str(now), digest)
  if account ~= '' then
    redis.call('SADD', P .. 'account:' .. account, digest)
    expire(P .. 'account:' .. account, WEEK)
  end
end
redis.call('PEXPIRE', ring, HOUR / 1000)
for i = 5, #ARGV, 2 do refresh(ARGV[i]) end
for _, digest in ipairs(redis.call('ZRANGEBYSCORE', SEEN, '-inf', str(now - WEEK), 'LIMIT', 0, 100)) do
  for _, zset in ipairs({SEEN, READY, TURNS}) do redis.call('ZREM', zset, digest) end
  redis.call('DEL', uses_of(digest))
end
for _, zset in ipairs({SEEN, READY, TURNS, P .. 'clock'}) do expire(zset, WEEK) end
keep_time()
return {}
"""
)

#: 5 model subject, 6 lease. Returns {digest, now}, or {'', wait, refused}, or nothing for a ring that is not known.
ACQUIRE = (
    STEP
    + """
if redis.call('EXISTS', ring) == 0 then return {} end

local function next_in_turn()
  if first_ready_at() > now then return nil end
  return (first(TURNS, function(digest)
    -- What other settings have counted is checked against ours.
    return tonumber(redis.call('ZSCORE', READY, digest) or 0) <= now and refresh(digest) <= now
  end))
end

local function use(digest)
  redis.call('ZREMRANGEBYSCORE', uses_of(digest), '-inf', str(now - window))
  redis.call('ZADD', uses_of(digest), str(now), ARGV[6])
  expire(uses_of(digest), window)
  -- Turns are counted, not timed: two uses at the same moment have an order.
  redis.call('ZADD', TURNS, str(redis.call('HINCRBY', P .. 'clock', 'turn', 1)), digest)
  refresh(digest)
end

local function all_refused()
  for _, digest in ipairs(redis.call('HKEYS', ring)) do
    local subject = rest_of(digest)
    if not subject or redis.call('HGET', P .. 'rest:' .. subject, 'kind') ~= 'refused' then return 0 end
  end
  return 1
end

local digest = rest_ends(ARGV[5]) <= now and next_in_turn() or nil
keep_time()
if digest then
  use(digest)
  return {digest, str(now)}
end
return {'', str(ready_in(ARGV[5])), str(all_refused())}
"""
)

#: 5 digest, 6 lease.
CANCEL = (
    STEP
    + """
redis.call('ZREM', uses_of(ARGV[5]), ARGV[6])
refresh(ARGV[5])
keep_time()
return {}
"""
)

#: 5 subject, 6 length, 7 kind, 8 source, 9 reason.
COOL = (
    STEP
    + """
local ends = now + tonumber(ARGV[6])
if ends > rest_ends(ARGV[5]) then
  local key = P .. 'rest:' .. ARGV[5]
  redis.call('HSET', key, 'until', str(ends), 'kind', ARGV[7], 'source', ARGV[8], 'reason', ARGV[9])
  expire(key, ends - now)
  refresh_all(ARGV[5])
end
keep_time()
return {}
"""
)

#: 5 and on: subjects.
CLEAR = (
    STEP
    + """
for i = 5, #ARGV do
  redis.call('DEL', P .. 'rest:' .. ARGV[i])
  refresh_all(ARGV[i])
end
keep_time()
return {}
"""
)

#: 5 model subject, '' for any. Returns {wait}.
READY_IN = STEP + "return {str(ready_in(ARGV[5]))}"

#: 5 digest. Returns {uses, wait}, and {rest, kind, source, reason} behind it when the key rests.
STATUS = (
    STEP
    + """
local used = redis.call('ZCOUNT', uses_of(ARGV[5]), '(' .. str(now - window), '+inf')
local found = {str(used), str(math.max(0, ready_at(ARGV[5]) - now))}
local subject, ends = rest_of(ARGV[5])
if subject then
  local facts = redis.call('HMGET', P .. 'rest:' .. subject, 'kind', 'source', 'reason')
  for _, fact in ipairs({str(ends - now), facts[1], facts[2], facts[3]}) do table.insert(found, fact) end
end
return found
"""
)
