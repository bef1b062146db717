"""The steps of the Redis key store, in Lua; Redis runs each without interruption. What they share is in `redis_step`.

A step that needs the key_set returns nothing when the server does not know it: register it and ask again.
"""

from gateway.keys.redis_step import STEP

#: 3 limit, 4 window, 5 in flight, 6 length of a flight, 7 and on: digest, account. Renews the key_set for an hour, and
#: removes key_sets that nobody has renewed, and some of the keys that no key_set has had for a week.
REGISTER = (
    STEP
    + """
local key_set = new_key_set(ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])

local function join(digest, account)
  redis.call('HSET', key_set.keys, digest, account)
  -- Who is new comes before all who had a turn, in the order of the settings.
  if not redis.call('ZSCORE', TURNS, digest) then
    redis.call('ZADD', TURNS, str(redis.call('HINCRBY', P .. 'clock', 'joined', 1) - 1000000000000), digest)
  end
  redis.call('ZADD', SEEN, str(now), digest)
  if account ~= '' then
    redis.call('SADD', P .. 'account:' .. account, digest)
    expire(P .. 'account:' .. account, WEEK)
  end
end

local function remove_key_set(id)
  for _, kind in ipairs({'key_set:', 'places:', 'refused:'}) do redis.call('DEL', P .. kind .. id) end
  redis.call('HDEL', KEY_SETS, id)
end

local function forget_keys()
  for _, digest in ipairs(redis.call('ZRANGEBYSCORE', SEEN, '-inf', str(now - WEEK), 'LIMIT', 0, 100)) do
    for _, zset in ipairs({SEEN, TURNS}) do redis.call('ZREM', zset, digest) end
    redis.call('DEL', uses_of(digest), flights_of(digest))
  end
end

for _, id in ipairs(gone) do remove_key_set(id) end
remove_key_set(key_set.id)
redis.call('HSET', KEY_SETS, key_set.id, table.concat({ARGV[3], ARGV[4], ARGV[5], ARGV[6], str(now)}, ' '))
for i = 7, #ARGV, 2 do
  join(ARGV[i], ARGV[i + 1])
  place_in(key_set, ARGV[i])
end
forget_keys()
for _, key in ipairs({key_set.keys, key_set.places, KEY_SETS, SEEN, TURNS, P .. 'clock'}) do expire(key, WEEK) end
keep_time()
return {}
"""
)

#: 3 model subject, 4 lease. Returns {digest, now}, or {'', wait, refused}.
ACQUIRE = (
    STEP
    + """
local key_set = own_key_set()
if not key_set then return {} end

-- All whose time has come, not the first few: among them the least recently used is next.
local function free_who_is_due()
  while true do
    local due = redis.call('ZRANGEBYSCORE', key_set.places, 0, str(now), 'LIMIT', 0, 100)
    if #due == 0 then return end
    local places = {}
    for _, digest in ipairs(due) do
      table.insert(places, free_place(digest))
      table.insert(places, digest)
    end
    redis.call('ZADD', key_set.places, unpack(places))
  end
end

local function next_in_turn()
  free_who_is_due()
  while true do
    local digest, at = first_place(key_set)
    if at >= 0 then return nil end
    -- A worker of an earlier version counts uses and moves nobody.
    local rest = rest_of(digest, redis.call('HGET', key_set.keys, digest))
    if ready_at(key_set, digest, rest) <= now then return digest end
    place_in(key_set, digest)
  end
end

local function longest_window()
  local longest = 0
  for _, other in pairs(key_sets) do longest = math.max(longest, other.window) end
  return longest
end

local function note(zset, ended, score, length)
  redis.call('ZREMRANGEBYSCORE', zset, '-inf', str(ended))
  redis.call('ZADD', zset, str(score), ARGV[4])
  expire(zset, length)
end

local function use(digest)
  local window = longest_window()
  note(uses_of(digest), now - window, now, window)
  if key_set.cap > 0 then note(flights_of(digest), now, now + key_set.flight, key_set.flight) end
  -- Turns are counted, not timed: two uses at the same moment have an order.
  redis.call('ZADD', TURNS, str(redis.call('HINCRBY', P .. 'clock', 'turn', 1)), digest)
  place(digest)
end

local function all_refused()
  local resting = redis.call('ZCOUNT', key_set.refused, '(' .. str(now), '+inf')
  return resting == redis.call('HLEN', key_set.keys) and 1 or 0
end

local digest = rest_ends(ARGV[3]) <= now and next_in_turn() or nil
keep_time()
if digest then
  use(digest)
  return {digest, str(now)}
end
return {'', str(ready_in(key_set, ARGV[3])), str(all_refused())}
"""
)

#: 3 digest, 4 lease.
CANCEL = (
    STEP
    + """
redis.call('ZREM', uses_of(ARGV[3]), ARGV[4])
redis.call('ZREM', flights_of(ARGV[3]), ARGV[4])
place(ARGV[3])
keep_time()
return {}
"""
)

#: 3 digest, 4 lease.
RELEASE = (
    STEP
    + """
redis.call('ZREM', flights_of(ARGV[3]), ARGV[4])
place(ARGV[3])
keep_time()
return {}
"""
)

#: 3 subject, 4 length, 5 kind, 6 source, 7 reason.
COOL = (
    STEP
    + """
local ends = now + tonumber(ARGV[4])
if ends > rest_ends(ARGV[3]) then
  local key = P .. 'rest:' .. ARGV[3]
  redis.call('HSET', key, 'until', str(ends), 'kind', ARGV[5], 'source', ARGV[6], 'reason', ARGV[7])
  expire(key, ends - now)
  place_all(ARGV[3])
end
keep_time()
return {}
"""
)

#: 3 reason, '' for any, 4 and on: subjects.
CLEAR = (
    STEP
    + """
for i = 4, #ARGV do
  local rest = P .. 'rest:' .. ARGV[i]
  if ARGV[3] == '' or ARGV[3] == redis.call('HGET', rest, 'reason') then redis.call('DEL', rest) end
end
for i = 4, #ARGV do place_all(ARGV[i]) end
keep_time()
return {}
"""
)

#: 3 model subject, '' for any. Returns {wait}.
READY_IN = (
    STEP
    + """
local key_set = own_key_set()
if not key_set then return {} end
return {str(ready_in(key_set, ARGV[3]))}
"""
)

#: Returns eight for each key: digest, uses, wait, in flight, rest, kind, source, reason; the last four '' for no rest.
STATUS = (
    STEP
    + """
local key_set = own_key_set()
if not key_set then return {} end

local function after(zset, time) return str(redis.call('ZCOUNT', zset, '(' .. str(time), '+inf')) end

local function row(digest, account)
  local rest = rest_of(digest, account)
  local wait = str(math.max(0, ready_at(key_set, digest, rest) - now))
  local in_flight = key_set.cap > 0 and after(flights_of(digest), now) or '0'
  local shown = {digest, after(uses_of(digest), now - key_set.window), wait, in_flight, '', '', '', ''}
  if rest.subject then
    local facts = redis.call('HMGET', P .. 'rest:' .. rest.subject, 'kind', 'source', 'reason')
    shown[5], shown[6], shown[7], shown[8] = str(rest.ends - now), facts[1], facts[2], facts[3]
  end
  return shown
end

local rows, keys = {}, redis.call('HGETALL', key_set.keys)
for i = 1, #keys, 2 do
  for _, field in ipairs(row(keys[i], keys[i + 1])) do table.insert(rows, field) end
end
return rows
"""
)
