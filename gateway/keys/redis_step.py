"""What every step of the Redis key store begins with, in Lua: where the keys of a set stand, and how one is placed.

    key_sets             hash  key_set → limit, window, in flight, length of a flight, renewed; counts for an hour
    key_set:<id>         hash  digest → account, '' for none: the keys of one configuration
    places:<id>       zset  digest → below zero: may be used, the least recently used first; else: when it may be
    refused:<id>      zset  digest → until when it rests because it was refused
    turns             zset  digest → number of its last turn
    uses:<digest>     zset  lease → when
    flights:<digest>  zset  lease → when it ends if nobody releases it
    rest:<subject>    hash  until, kind, source, reason
    account:<name>    set   digests
    seen              zset  digest → when its key_set was last renewed

Times are microseconds. ARGV: 1 clock, 2 key_set, 3 and on what the step needs.

The places are kept ready-made in every key_set that a key is in: whatever happens to a key is followed by `place`. So a
step reads the first place and no more, and a thousand keys cost what ten do.
"""

STEP = """
local HOUR, WEEK = 3600000000, 604800000000
local FREE = -4503599627370496  -- 2^52: a number of turn added to it stays below zero, and exact
local TURNS, SEEN, KEY_SETS = P .. 'turns', P .. 'seen', P .. 'key_sets'

local function uses_of(digest) return P .. 'uses:' .. digest end
local function flights_of(digest) return P .. 'flights:' .. digest end
local function rest_ends(subject) return tonumber(redis.call('HGET', P .. 'rest:' .. subject, 'until') or 0) end

local function new_key_set(id, limit, window, cap, flight)
  return {
    id = id, limit = tonumber(limit), window = tonumber(window), cap = tonumber(cap), flight = tonumber(flight),
    keys = P .. 'key_set:' .. id, places = P .. 'places:' .. id, refused = P .. 'refused:' .. id
  }
end

-- The key_sets that are renewed, and the ids of those that are not any more.
local key_sets, gone = {}, {}
local function read_key_sets()
  local rows = redis.call('HGETALL', KEY_SETS)
  for i = 1, #rows, 2 do
    local limit, window, cap, flight, renewed = string.match(rows[i + 1], '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
    if tonumber(renewed) > now - HOUR then
      key_sets[rows[i]] = new_key_set(rows[i], limit, window, cap, flight)
    else
      table.insert(gone, rows[i])
    end
  end
end
read_key_sets()

-- The key_set that asks; nil when it is new, was not renewed for an hour, or the server has lost some of it.
local function own_key_set()
  local key_set = key_sets[ARGV[2]]
  if key_set and redis.call('HLEN', key_set.keys) == redis.call('ZCARD', key_set.places) then return key_set end
  return nil
end

-- What a key rests with: its own rest or its account's, whichever ends later; `subject` is nil when it does not rest.
local function rest_of(digest, account)
  local rest = {ends = now}
  local subjects = account == '' and {'key:' .. digest} or {'key:' .. digest, 'account:' .. account}
  for _, subject in ipairs(subjects) do
    local facts = redis.call('HMGET', P .. 'rest:' .. subject, 'until', 'kind')
    local ends, refused = tonumber(facts[1] or 0), facts[2] == 'refused'
    if ends > rest.ends or (rest.subject and ends == rest.ends and refused) then
      rest = {subject = subject, ends = ends, refused = refused}
    end
  end
  return rest
end

-- The score of the nth from the end, which is there when there are n; else 0.
local function nth_last(zset, n)
  return tonumber(redis.call('ZREVRANGE', zset, n - 1, n - 1, 'WITHSCORES')[2] or 0)
end

-- When the key may be used next, as this key_set counts; now or earlier when it may be used.
local function ready_at(key_set, digest, rest)
  local use = nth_last(uses_of(digest), key_set.limit)
  local window_until = use > 0 and use + key_set.window or 0
  local flights_until = key_set.cap > 0 and nth_last(flights_of(digest), key_set.cap) or 0
  return math.max(window_until, flights_until, rest.subject and rest.ends or 0)
end

local function free_place(digest) return str(FREE + tonumber(redis.call('ZSCORE', TURNS, digest) or 0)) end

local function place_in(key_set, digest)
  local account = redis.call('HGET', key_set.keys, digest)
  if not account then return end
  local rest = rest_of(digest, account)
  local at = ready_at(key_set, digest, rest)
  redis.call('ZADD', key_set.places, at > now and str(at) or free_place(digest), digest)
  if rest.refused then
    redis.call('ZADD', key_set.refused, str(rest.ends), digest)
    expire(key_set.refused, WEEK)
  else
    redis.call('ZREM', key_set.refused, digest)
  end
end

local function place(digest)
  for _, key_set in pairs(key_sets) do place_in(key_set, digest) end
end

local function place_all(subject)
  local scope, name = string.match(subject, '^(%a+):(.*)$')
  if scope == 'key' then place(name) end
  if scope == 'account' then
    for _, digest in ipairs(redis.call('SMEMBERS', P .. 'account:' .. name)) do place(digest) end
  end
end

local function first_place(key_set)
  local found = redis.call('ZRANGE', key_set.places, 0, 0, 'WITHSCORES')
  return found[1], tonumber(found[2])
end

local function ready_in(key_set, model)
  local _, at = first_place(key_set)
  return math.max(0, math.max(at, model == '' and 0 or rest_ends(model)) - now)
end
"""
