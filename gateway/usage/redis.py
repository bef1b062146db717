"""Reports of the processes of many machines: in a Redis that they share."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict

from gateway.stores.redis_server import RedisServer, microseconds
from gateway.usage.store import KNOWN_S, SPANS, WAITS_KEPT, Batch, Cell, Process, Seen, Span, Waiting

#: `processes` has the time of the last report of each, `waits` when each is over; the facts are beside them.
NAMES = """
local processes, process_facts, numbers = P .. 'processes', P .. 'processes:facts', P .. 'processes:numbers'
local waits, wait_facts = P .. 'waits', P .. 'waits:facts'
local function forget(set, until_us, ...)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', str(until_us), 'LIMIT', 0, 1000)) do
    redis.call('ZREM', set, id)
    for _, facts in ipairs({...}) do redis.call('HDEL', facts, id) end
  end
end
"""

#: ARGV: 2 process, 3 its facts, 4 for how long it is known, 5 number, 6 most waits, 7 a JSON object: `spans`,
#: `counts`, `waits` and `ended`. A count that Redis refuses, because it is too large, is left out.
REPORT = (
    NAMES
    + """
redis.call('ZADD', processes, str(now), ARGV[2])
redis.call('HSET', process_facts, ARGV[2], ARGV[3])
if tonumber(ARGV[5]) > tonumber(redis.call('HGET', numbers, ARGV[2]) or 0) then
  redis.call('HSET', numbers, ARGV[2], ARGV[5])
  local batch = cjson.decode(ARGV[7])
  for _, span in ipairs(batch.spans) do
    local length = span.length_s
    local since = str(math.floor(now / 1000000 / length) * length)
    for _, count in ipairs(batch.counts) do
      if span.abouts[count[1]] then
        local cell = P .. 'usage:' .. span.name .. ':' .. count[1] .. ':' .. since
        redis.pcall('HINCRBY', cell, count[3] .. '|' .. count[2], count[4])
        redis.call('EXPIRE', cell, span.kept_s + length)
      end
    end
  end
  for _, id in ipairs(batch.ended) do
    redis.call('ZREM', waits, id)
    redis.call('HDEL', wait_facts, id)
  end
  for _, wait in ipairs(batch.waits) do
    if redis.call('ZCARD', waits) < tonumber(ARGV[6]) then
      redis.call('ZADD', waits, str(now + wait[2]), wait[1])
      redis.call('HSET', wait_facts, wait[1], wait[3])
    end
  end
end
forget(waits, now, wait_facts)
forget(processes, now - tonumber(ARGV[4]), process_facts, numbers)
for _, key in ipairs({processes, process_facts, numbers, waits, wait_facts}) do redis.call('EXPIRE', key, 691200) end
return {}
"""
)

LEAVE = (
    NAMES
    + """
redis.call('ZREM', processes, ARGV[2])
redis.call('HDEL', process_facts, ARGV[2])
redis.call('HDEL', numbers, ARGV[2])
return {}
"""
)

PROCESSES = (
    NAMES
    + """
local found = {}
local rows = redis.call('ZREVRANGE', processes, 0, -1, 'WITHSCORES')
for i = 1, #rows, 2 do
  found[#found + 1] = redis.call('HGET', process_facts, rows[i])
  found[#found + 1] = str(now - tonumber(rows[i + 1]))
end
return found
"""
)

WAITS = (
    NAMES
    + """
local found = {}
local rows = redis.call('ZRANGEBYSCORE', waits, '(' .. str(now), '+inf', 'WITHSCORES')
for i = 1, #rows, 2 do
  found[#found + 1] = redis.call('HGET', wait_facts, rows[i])
  found[#found + 1] = str(tonumber(rows[i + 1]) - now)
end
return found
"""
)

#: ARGV: 2 the beginning of the names, 3 length of a piece in seconds, 4 of how many seconds.
CELLS = """
local length, found = tonumber(ARGV[3]), {}
local seconds = now / 1000000
local since = math.floor((seconds - tonumber(ARGV[4]) - length) / length) * length + length
while since <= seconds do
  local row = redis.call('HGETALL', P .. 'usage:' .. ARGV[2] .. ':' .. str(since))
  if #row > 0 then
    found[#found + 1] = str(since)
    found[#found + 1] = row
  end
  since = since + length
end
return found
"""


class RedisUsageStore:
    """Keeps the contract of `UsageStore` for every machine that uses the server.

    A full server refuses a report: no answer is forgotten to make room for it.
    """

    def __init__(self, server: RedisServer, *, clock: Callable[[], float] = time.time) -> None:
        self._server = server
        self._clock = clock

    def report(self, process: Process, batch: Batch) -> None:
        facts, content = json.dumps(asdict(process)), _content(batch)
        known_us = microseconds(KNOWN_S)
        arguments = (process.id, facts, known_us, batch.number, WAITS_KEPT, content)
        self._server.run(REPORT, self._clock, *arguments, makes_room=False)

    def leave(self, process: Process) -> None:
        self._server.run(LEAVE, self._clock, process.id, makes_room=False)

    def processes(self) -> list[Seen]:
        rows = self._server.run(PROCESSES, self._clock, makes_room=False)
        pairs = zip(rows[::2], rows[1::2], strict=True)
        return [Seen(Process(**json.loads(facts)), int(ago) / 1_000_000) for facts, ago in pairs]

    def cells(self, span: Span, about: str, last_s: float) -> list[Cell]:
        arguments = (f"{span.name}:{about}", span.length_s, round(min(last_s, span.kept_s)))
        rows = self._server.run(CELLS, self._clock, *arguments, makes_room=False)
        return [cell for since, row in zip(rows[::2], rows[1::2], strict=True) for cell in _cells(int(since), row)]

    def waits(self) -> list[Waiting]:
        rows = self._server.run(WAITS, self._clock, makes_room=False)
        pairs = zip(rows[::2], rows[1::2], strict=True)
        return [Waiting(**json.loads(facts) | {"due_in_s": int(due) / 1_000_000}) for facts, due in pairs]


def _content(batch: Batch) -> str:
    spans = [
        {
            "name": span.name,
            "length_s": span.length_s,
            "kept_s": span.kept_s,
            "abouts": dict.fromkeys(span.abouts, True),
        }
        for span in SPANS
    ]
    # Numbers as text: Lua would write large ones in a way that Redis does not read.
    counts = [(*count, str(value)) for count, value in batch.counts.items()]
    waits = [(wait.id, microseconds(wait.due_in_s), json.dumps(asdict(wait))) for wait in batch.waits]
    return json.dumps({"spans": spans, "counts": counts, "waits": waits, "ended": list(batch.ended)})


def _cells(since: int, row: list[bytes]) -> list[Cell]:
    cells = []
    for field, value in zip(row[::2], row[1::2], strict=True):
        fact, _, name = field.decode().partition("|")
        cells.append(Cell(since, name, fact, int(value)))
    return sorted(cells)
