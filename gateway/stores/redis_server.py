"""One Redis that machines share: runs scripts, each of which is one atomic step."""

import time
from collections.abc import Callable
from typing import Any

import redis

from gateway.errors import StoreUnavailable
from gateway.stores.round_trips import RoundTrips

#: How long to wait for a connection or an answer, in seconds; a script takes well under a millisecond.
TIMEOUT_S = 5.0

#: Before every script: `now`, in microseconds, on a clock that never goes back. After the clock of the server was set
#: back, time goes on from where it was, so every window, rest and lease keeps its length. ARGV[1] is a clock to use
#: instead of the server's. Numbers become text through `str`, because Lua's own way keeps only 14 digits.
PRELUDE = """
local P = '{gateway}:'
local str = function(n) return string.format('%.0f', n) end
local function read_clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
local clock = read_clock()
local known = redis.call('HMGET', P .. 'clock', 'latest', 'offset')
local latest, offset = tonumber(known[1] or 0), tonumber(known[2] or 0)
if clock + offset < latest then
  offset = latest - clock
  redis.call('HSET', P .. 'clock', 'offset', str(offset))
end
local now = clock + offset
local function keep_time() redis.call('HSET', P .. 'clock', 'latest', str(now)) end
local function expire(key, us)
  -- An hour more than needed, since another clock may be in use; ten years at most, since Redis refuses what overflows.
  redis.call('PEXPIRE', key, str(math.min(math.ceil(us / 1000) + 3600000, 315360000000)))
end
"""

#: ARGV: 2 process, 3 milliseconds.
SHOW_LIFE = """
local owner = P .. 'owner:' .. ARGV[2]
if ARGV[3] == '0' then redis.call('DEL', owner) else redis.call('SET', owner, 1, 'PX', ARGV[3]) end
return {}
"""

Rows = list[Any]


#: What to look at, by a word of the text; the first that fits.
_REMEDIES = {
    "read only replica": "a replica takes no writes, give the primary",
    "has no permissions": "its user needs every command on its keys: ACL SETUSER … ~{gateway}:* +@all",
    "Authentication required": "it asks for a password, as in redis://:password@host",
    "invalid username-password": "check user and password",
    "certificate is not valid for": "give the host by a name that is in its certificate",
    "CERTIFICATE_VERIFY_FAILED": "name the authority of its certificate in REDIS_CA_FILE, or, as Heroku documents for "
    "its add-on, set REDIS_TLS_VERIFY=false",
    "WRONG_VERSION_NUMBER": "that port has no TLS, which is redis://",
    "Timeout connecting": "is it running, and has that port TLS where it begins with rediss://?",
    "Connection reset": "a port with TLS asks for rediss://",
    "Connection closed": "a port with TLS asks for rediss://",
}


def microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


class RedisServer:
    """Runs scripts on the server of `url`; connects when first used, in every process anew.

    How much survives the death of the server is the server's setting (`appendonly`). Whatever Redis or the way to it
    refuses is raised as StoreUnavailable, whose text names neither the URL nor its password.
    `make_room` is called when the server is full; it says whether another try is worth while.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.make_room: Callable[[], bool] = lambda: False
        try:
            self._client = redis.Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, health_check_interval=30
            )
        except ValueError as error:
            raise StoreUnavailable(f"REDIS_URL cannot be used: {error}") from None
        self._trips = RoundTrips(self._client, prelude=PRELUDE)

    def run(
        self, script: str, clock: Callable[[], float] | None, *args: str | bytes | int, makes_room: bool = True
    ) -> Rows:
        """What the script returns, as a list; `clock` gives epoch seconds, None takes the server's own time.

        On a full server it is run again after `make_room`, where it `makes_room`: what it does without more memory it
        does twice.
        """
        # A caller's clock that is the system's differs between machines, which share this server: not to be used.
        own = "" if clock is None or clock is time.time else microseconds(clock())
        try:
            found = self._trips.run(script, [own, *args])
        except redis.OutOfMemoryError as error:
            if not (makes_room and self.make_room()):
                text = "Redis is full (maxmemory), and there is nothing that it could forget. Give it more memory"
                raise StoreUnavailable(text) from error
            return self.run(script, clock, *args)
        except redis.RedisError as error:
            raise StoreUnavailable(_told(error)) from error
        return found if isinstance(found, list) else []

    def show_life(self, owner: str, life_s: float) -> None:
        """Have it known for `life_s` seconds that a process lives; with 0 that it does not. Raises StoreUnavailable."""
        self.run(SHOW_LIFE, None, owner, round(life_s * 1000))

    def lives(self, owner: str) -> bool:
        """Whether a process has said so of late. Raises StoreUnavailable."""
        return bool(self.run("return redis.call('GET', P .. 'owner:' .. ARGV[2]) and {1} or {}", None, owner))

    def ping(self) -> None:
        """Ask for a sign of life. Raises StoreUnavailable, which says what to look at."""
        self.run("return {}", None)

    def close(self) -> None:
        """Close the connections of this process. Idempotent."""
        self._client.close()


def _told(error: redis.RedisError) -> str:
    """What is wrong and what to look at, without where in a script it was noticed."""
    what = str(error).partition(" script: ")[0].rstrip(".")
    remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in what), None)
    return f"Redis cannot be used: {what}. See REDIS_URL" + (f": {remedy}" if remedy else "")
