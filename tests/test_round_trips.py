"""Scripts that travel to Redis together: each has its own outcome, and nobody waits for a stranger's."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

import pytest
import redis

from dev.waiting import wait_until
from gateway.stores.round_trips import MOST_TOGETHER, RoundTrips

#: For what must happen sooner or later, in seconds.
SOON_S = 30.0


class FakeServer:
    """Notes each round trip. A script is a word that says what it does; `hold` stops until it is let `go`."""

    def __init__(self) -> None:
        self.trips: list[list[str]] = []
        self.unknown: set[str] = set()
        self.held = threading.Event()
        self.go = threading.Event()

    def register_script(self, script: str) -> Any:
        return FakeScript(self, script)

    def pipeline(self, *, transaction: bool) -> "FakePipeline":
        assert not transaction
        return FakePipeline(self)

    def outcome(self, script: str, argument: int) -> object:
        if script == "hold":
            self.held.set()
            assert self.go.wait(SOON_S)
        return redis.ResponseError("no") if script == "fail" else [script.encode(), argument]


class FakeScript:
    def __init__(self, server: FakeServer, script: str) -> None:
        self.server, self.sha = server, script

    def __call__(self, args: list[int]) -> object:
        self.server.trips.append([self.sha])
        outcome = self.server.outcome(self.sha, args[0])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class FakePipeline:
    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.calls: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def evalsha(self, sha: str, keys: int, argument: int) -> None:
        assert keys == 0
        self.calls.append((sha, argument))

    def execute(self, *, raise_on_error: bool) -> list[object]:
        assert not raise_on_error
        self.server.trips.append([sha for sha, _ in self.calls])
        if any(sha == "cut" for sha, _ in self.calls):
            raise redis.ConnectionError("lost")
        return [
            redis.exceptions.NoScriptError("?") if sha in self.server.unknown else self.server.outcome(sha, argument)
            for sha, argument in self.calls
        ]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    made = FakeServer()
    yield made
    made.go.set()


Ask = Callable[[str, int], "Future[object]"]


@contextmanager
def asking(server: FakeServer, *, patience_s: float = SOON_S) -> Iterator[tuple[RoundTrips, Ask]]:
    """While one round trip is on its way; what is asked for waits, in order."""
    trips = RoundTrips(server, patience_s=patience_s)  # type: ignore[arg-type]
    with ThreadPoolExecutor(MOST_TOGETHER + 10) as threads:
        first = threads.submit(trips.run, "hold", [0])
        assert server.held.wait(SOON_S)

        def ask(script: str, argument: int) -> "Future[object]":
            before = len(trips._waiting)
            asked = threads.submit(trips.run, script, [argument])
            wait_until(lambda: asked.done() or len(trips._waiting) > before, timeout_s=SOON_S, what="it to wait")
            return asked

        yield trips, ask
        server.go.set()
        assert first.result(SOON_S) == [b"hold", 0]


def test_what_is_asked_for_meanwhile_travels_together(server: FakeServer):
    """One round trip for all of it, and to each the answer to what it has asked."""
    with asking(server) as (_trips, ask):
        asked = [ask("say", number) for number in range(5)]
        server.go.set()
        assert [one.result(SOON_S) for one in asked] == [[b"say", number] for number in range(5)]
    assert server.trips == [["hold"], ["say"] * 5]


def test_no_more_travel_together_than_fit(server: FakeServer):
    """Everybody has an answer all the same."""
    with asking(server) as (_trips, ask):
        asked = [ask("say", number) for number in range(MOST_TOGETHER + 3)]
        server.go.set()
        assert [one.result(SOON_S) for one in asked] == [[b"say", number] for number in range(MOST_TOGETHER + 3)]
    assert [len(trip) for trip in server.trips] == [1, MOST_TOGETHER, 3]


def test_an_error_is_that_of_its_script(server: FakeServer):
    """The others in the same round trip do not hear of it."""
    with asking(server) as (_trips, ask):
        good, bad, other = ask("say", 1), ask("fail", 2), ask("say", 3)
        server.go.set()
        assert (good.result(SOON_S), other.result(SOON_S)) == ([b"say", 1], [b"say", 3])
        with pytest.raises(redis.ResponseError):
            bad.result(SOON_S)


def test_a_lost_connection_is_told_to_all_who_travelled(server: FakeServer):
    """And the next round trip is another one."""
    with asking(server) as (trips, ask):
        asked = [ask("say", 1), ask("cut", 2)]
        server.go.set()
        for one in asked:
            with pytest.raises(redis.ConnectionError):
                one.result(SOON_S)
        assert trips.run("say", [3]) == [b"say", 3]


def test_a_script_that_the_server_has_forgotten_is_sent_again(server: FakeServer):
    """By itself, with its text; what travelled with it is done, and not done twice."""
    server.unknown = {"new"}
    with asking(server) as (_trips, ask):
        new, known = ask("new", 1), ask("say", 2)
        server.go.set()
        assert (new.result(SOON_S), known.result(SOON_S)) == ([b"new", 1], [b"say", 2])
    assert server.trips == [["hold"], ["new", "say"], ["new"]]


def test_nobody_waits_long_for_the_round_trip_of_others(server: FakeServer):
    """A server that does not answer one may answer another; each has its own time for that."""
    with asking(server, patience_s=0.01) as (trips, _ask):
        assert trips.run("say", [1]) == [b"say", 1]


def test_many_threads_on_a_real_server(redis_url: str):
    """Each hears its own answer."""
    with redis.Redis.from_url(redis_url) as client, ThreadPoolExecutor(20) as threads:
        trips = RoundTrips(client, prelude="local given = ")
        asked = [threads.submit(trips.run, "ARGV[1] return given", [number]) for number in range(500)]
        assert [one.result(SOON_S) for one in asked] == [str(number).encode() for number in range(500)]
