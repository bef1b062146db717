"""Costs of many machines: in a Redis that they share."""

import json
import time
from collections.abc import Callable, Iterable, Sequence

from gateway.costs.call import PaidCall
from gateway.costs.store import MOST_ROWS, ROWS_KEPT_S, SPANS, Span, Sum, Today, facts_of
from gateway.stores.redis_server import RedisServer, microseconds

#: Rows lie in hashes of so many seconds, which are forgotten as a whole.
PIECE_S = 600

#: Between the names of a sum; no name holds one, for they are on one line.
BETWEEN = "\x1f"

#: `book(text)` writes the rows of the JSON text, if there is one. It is the first to write in a script: a full server
#: refuses it as a whole. A row that the piece before has is one that was sent again.
BOOK = """
local function book(text)
  if text == '' then return end
  local content, seconds = cjson.decode(text), math.floor(now / 1000000)
  local piece = math.floor(seconds / content.piece_s) * content.piece_s
  local rows, earlier = P .. 'calls:' .. str(piece), P .. 'calls:' .. str(piece - content.piece_s)
  for _, call in ipairs(content.calls) do
    if redis.call('HEXISTS', earlier, call.id) == 0
        and redis.call('HSETNX', rows, call.id, str(now) .. '|' .. call.row) == 1 then
      redis.call('EXPIRE', rows, content.kept_s + content.piece_s)
      for _, span in ipairs(content.spans) do
        local since = P .. 'paid:' .. span[1] .. ':' .. str(math.floor(seconds / span[2]) * span[2])
        for fact, value in pairs(call.facts) do redis.call('HINCRBY', since, fact .. call.names, value) end
        redis.call('EXPIRE', since, span[3] + span[2])
      end
      if call.facts.cost_nano then
        local today = P .. 'paid:today:' .. str(math.floor(seconds / 86400))
        redis.call('INCRBY', today, call.facts.cost_nano)
        redis.call('EXPIRE', today, 172800)
      end
    end
  end
end
"""

#: `forget_rows(most, keep)` forgets the oldest pieces, until so many rows are gone; the last `keep` pieces stay.
FORGET_ROWS = f"""
local function forget_rows(most, keep)
  local newest, forgotten = math.floor(now / 1000000 / {PIECE_S}) * {PIECE_S}, 0
  for since = newest - {ROWS_KEPT_S}, newest - keep * {PIECE_S}, {PIECE_S} do
    local rows = P .. 'calls:' .. str(since)
    forgotten = forgotten + redis.call('HLEN', rows)
    redis.call('DEL', rows)  -- at once: somebody waits for the room
    if forgotten >= most then break end
  end
  return forgotten
end
"""

BOOK_ONLY = BOOK + "book(ARGV[2]) return {}"

#: ARGV: 2 the beginning of the names, 3 length of a piece in seconds, 4 of how many seconds.
PIECES = """
local length, found = tonumber(ARGV[3]), {str(now)}
local since = math.floor((now / 1000000 - tonumber(ARGV[4])) / length) * length
while since <= now / 1000000 do
  local row = redis.call('HGETALL', P .. ARGV[2] .. str(since))
  if #row > 0 then
    found[#found + 1] = str(since)
    found[#found + 1] = row
  end
  since = since + length
end
return found
"""

TODAY = """
local seconds = now / 1000000
local day = math.floor(seconds / 86400)
local spent = redis.call('GET', P .. 'paid:today:' .. str(day)) or '0'
return {spent, str((day + 1) * 86400000000 - now)}
"""

#: 2 name, 3 text, 4 milliseconds.
NOTE = """
local note = P .. 'note:' .. ARGV[2]
local is_new = redis.call('EXISTS', note) == 0
redis.call('SET', note, ARGV[3], 'PX', ARGV[4])
return is_new and {1} or {}
"""

NOTES = """
local found = {}
for i = 2, #ARGV do found[i - 1] = redis.call('GET', P .. 'note:' .. ARGV[i]) or '' end
return found
"""

#: 2 most rows, 3 length of a piece in seconds, 4 for how many seconds they are kept. The last two pieces stay.
SWEEP = """
local length, count = tonumber(ARGV[3]), 0
local newest = math.floor(now / 1000000 / length) * length
for back = 0, tonumber(ARGV[4]), length do
  local rows = P .. 'calls:' .. str(newest - back)
  count = count + redis.call('HLEN', rows)
  if count > tonumber(ARGV[2]) and back > length then redis.call('UNLINK', rows) end
end
return {}
"""


def booking(calls: Sequence[PaidCall]) -> str:
    """The argument of `book`; empty for none."""
    if not calls:
        return ""
    spans = [(span.name, span.length_s, span.kept_s) for span in SPANS]
    rows = [
        {
            "id": call.id,
            "row": json.dumps(call.row, separators=(",", ":")),
            "names": BETWEEN + BETWEEN.join((call.key, call.model, call.tag)),
            # As text: Lua would write large ones in a way that Redis does not read.
            "facts": {fact: str(value) for fact, value in facts_of(call).items()},
        }
        for call in calls
    ]
    return json.dumps({"piece_s": PIECE_S, "kept_s": ROWS_KEPT_S, "spans": spans, "calls": rows})


class RedisCostStore:
    """Keeps the contract of `CostStore` for every machine that uses the server.

    A row takes some 300 bytes there, a sum some 100 for each of its facts. Rows beyond the most that are kept are
    forgotten in pieces of ten minutes, the last ten to twenty minutes never.
    """

    def __init__(
        self, server: RedisServer, *, clock: Callable[[], float] = time.time, most_rows: int = MOST_ROWS
    ) -> None:
        self._server = server
        self._clock = clock
        self._most_rows = most_rows

    def book(self, calls: Sequence[PaidCall]) -> None:
        self._server.run(BOOK_ONLY, self._clock, booking(calls))

    def sums(self, span: Span, last_s: float) -> list[Sum]:
        _, pieces = self._pieces(f"paid:{span.name}:", span.length_s, min(last_s, span.kept_s))
        return [found for since, row in pieces for found in _sums(since, row)]

    def rows(self, last_s: float) -> list[tuple[float, PaidCall]]:
        now, pieces = self._pieces("calls:", PIECE_S, min(last_s, ROWS_KEPT_S))
        found = [_call(id_, text) for _, row in pieces for id_, text in row.items()]
        return sorted(((at, call) for at, call in found if at > now - last_s), key=lambda row: (row[0], row[1].id))

    def today(self) -> Today:
        cost, left_us = self._server.run(TODAY, self._clock)
        return Today(int(cost), int(left_us) / 1_000_000)

    def note(self, name: str, text: str, *, kept_s: float) -> bool:
        return bool(self._server.run(NOTE, self._clock, name, text, microseconds(kept_s) // 1000))

    def notes(self, names: Iterable[str]) -> dict[str, str]:
        wanted = list(names)
        texts = self._server.run(NOTES, self._clock, *wanted)
        return {name: text.decode() for name, text in zip(wanted, texts, strict=True) if text}

    def sweep(self) -> None:
        self._server.run(SWEEP, self._clock, self._most_rows, PIECE_S, ROWS_KEPT_S, makes_room=False)

    def _pieces(self, names: str, length_s: int, last_s: float) -> tuple[float, list[tuple[int, dict[str, str]]]]:
        """The server's time, and the hashes of these pieces with the beginning of each; epoch seconds."""
        now, *rows = self._server.run(PIECES, self._clock, names, length_s, round(last_s), makes_room=False)
        pieces = zip(rows[::2], rows[1::2], strict=True)
        return int(now) / 1_000_000, [(int(since), _decoded(row)) for since, row in pieces]


def _decoded(row: list[bytes]) -> dict[str, str]:
    return {field.decode(): value.decode() for field, value in zip(row[::2], row[1::2], strict=True)}


def _call(id_: str, text: str) -> tuple[float, PaidCall]:
    at, _, row = text.partition("|")
    return int(at) / 1_000_000, PaidCall.of_row(id_, tuple(json.loads(row)))


def _sums(since: int, row: dict[str, str]) -> list[Sum]:
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for field, value in row.items():
        fact, key, model, tag = field.split(BETWEEN)
        found.setdefault((key, model, tag), {})[fact] = int(value)
    return [Sum(since, key, model, tag, facts) for (key, model, tag), facts in sorted(found.items())]
