"""Scripts of many threads that travel to Redis together."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import redis

#: How many scripts travel together at the most.
MOST_TOGETHER = 100

#: How long a thread waits for its turn, in seconds, until it travels alone: a round trip takes a millisecond.
PATIENCE_S = 0.25

_NOT_YET: Final = object()


class _Call:
    """A script to run, and what came back: what it returns, or the exception."""

    __slots__ = ("args", "outcome", "script")

    def __init__(self, script: str, args: Sequence[str | bytes | int]) -> None:
        self.script = script
        self.args = args
        self.outcome: object = _NOT_YET


class RoundTrips:
    """Runs scripts on one server, one round trip at a time: what is asked for meanwhile travels in the next one.

    Each script is still one atomic step, with those of other processes between them. `prelude` stands before each.
    Thread-safe.
    """

    def __init__(self, client: "redis.Redis", *, prelude: str = "", patience_s: float = PATIENCE_S) -> None:
        self._client = client
        self._prelude = prelude
        self._patience_s = patience_s
        self._turn = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._scripts: dict[str, Any] = {}

    def run(self, script: str, args: Sequence[str | bytes | int]) -> object:
        """What the script returns. Raises redis.RedisError."""
        call = _Call(script, args)
        self._waiting.append(call)
        if self._turn.acquire(timeout=self._patience_s):
            self._travel(call)
        elif self._taken_back(call):
            call.outcome = self._alone(call)
        else:  # it is on its way
            self._turn.acquire()
            self._travel(call)
        if isinstance(call.outcome, Exception):
            raise call.outcome
        return call.outcome

    def _taken_back(self, call: _Call) -> bool:
        """Whether nobody had taken it along."""
        try:
            self._waiting.remove(call)
        except ValueError:
            return False
        return True

    def _travel(self, call: _Call) -> None:
        """Have it run, with those that wait as well, if nobody else has; with the turn, which ends."""
        try:
            while call.outcome is _NOT_YET:
                self._run([self._waiting.popleft() for _ in range(min(MOST_TOGETHER, len(self._waiting)))])
        finally:
            self._turn.release()

    def _run(self, calls: list[_Call]) -> None:
        outcomes: list[object] = [redis.ConnectionError("a round trip was broken off")] * len(calls)
        try:
            outcomes = [self._alone(calls[0])] if len(calls) == 1 else self._together(calls)
        except Exception as error:  # noqa: BLE001 - each of them hears of it
            outcomes = [error] * len(calls)
        finally:
            for call, outcome in zip(calls, outcomes, strict=True):
                call.outcome = outcome

    def _together(self, calls: list[_Call]) -> list[object]:
        with self._client.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.evalsha(self._known(call.script).sha, 0, *call.args)
            found = pipeline.execute(raise_on_error=False)
        return [
            self._alone(call) if isinstance(outcome, redis.exceptions.NoScriptError) else outcome
            for call, outcome in zip(calls, found, strict=True)
        ]

    def _alone(self, call: _Call) -> object:
        try:
            return self._known(call.script)(args=call.args)
        except redis.RedisError as error:
            return error

    def _known(self, script: str) -> Any:
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self._client.register_script(self._prelude + script)
        return known
