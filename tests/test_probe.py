"""Keys that were refused: asked about until they are accepted again, and called dead only after that."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dev.waiting import wait_until
from gateway.errors import AuthenticationFailed, StoreUnavailable, UpstreamFailed
from gateway.keys import probe
from gateway.keys.probe import Prober
from gateway.secrets import ApiKey

ONE, TWO = ApiKey("sk-or-v1-probe-key-1111"), ApiKey("sk-or-v1-probe-key-2222")
REFUSED = AuthenticationFailed("HTTP 401", reason="http_401", status=401)
REASON = "http_403"
AWAY = UpstreamFailed("out of reach", reason="network")


class Pool:
    """Notes whose rest was ended."""

    def __init__(self) -> None:
        self.cleared: list[str] = []
        self.reasons: set[str] = set()
        self.confirmed: list[tuple[str, str]] = []
        self.away = False

    def confirm(self, digest: str, reason: str) -> None:
        self.confirmed.append((digest, reason))

    def clear(self, digest: str, reason: str) -> None:
        self.reasons.add(reason)
        if self.away:
            self.away = False
            raise StoreUnavailable("away")
        self.cleared.append(digest)


class Provider:
    """Answers about each key what its script says, then that it is fine."""

    def __init__(self) -> None:
        self.script: dict[ApiKey, list[Exception]] = {}
        self.asked: list[ApiKey] = []

    def __call__(self, key: ApiKey) -> None:
        self.asked.append(key)
        if self.script.get(key):
            raise self.script[key].pop(0)


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def prober(pool: Pool, provider: Provider) -> Iterator[Prober]:
    made = Prober(pool, provider, pauses_s=(0.01, 0.01))  # type: ignore[arg-type]
    yield made
    assert made.stop(60)


def test_a_key_that_is_accepted_again_comes_back(prober: Prober, pool: Pool, provider: Provider):
    """After as many refusals as it takes, and a provider that was away; then it is left alone."""
    provider.script[ONE] = [REFUSED, AWAY, REFUSED]
    prober.suspect(ONE, REASON)
    wait_until(lambda: pool.cleared == [ONE.digest], what="the key to come back")
    assert provider.asked == [ONE] * 4
    assert pool.confirmed == [(ONE.digest, REASON)] * 2
    assert pool.reasons == {REASON}


def test_every_guess_about_a_key_ends_with_it(pool: Pool, provider: Provider):
    """A 403 after a 401: both were guesses about the same key."""
    known = threading.Event()

    def ask(key: ApiKey) -> None:
        assert known.wait(30)
        provider(key)

    prober = Prober(pool, ask, pauses_s=(0.01,))  # type: ignore[arg-type]
    prober.suspect(ONE, "http_401")
    prober.suspect(ONE, "http_403")
    known.set()
    wait_until(lambda: len(pool.cleared) == 2, what="both rests to end")
    assert prober.stop(60)
    assert pool.reasons == {"http_401", "http_403"}


def test_a_key_that_is_accepted_and_refused_in_turn_is_asked_about_ever_less_often(pool: Pool, provider: Provider):
    """Its calls are refused for something that the question does not show: it must not be called every few seconds."""
    prober = Prober(pool, provider, pauses_s=(0.01, 3600.0))  # type: ignore[arg-type]
    prober.suspect(ONE, REASON)
    wait_until(lambda: pool.cleared == [ONE.digest], what="the key to come back")
    wait_until(lambda: ONE not in prober._suspects, what="the prober to be done with it")
    prober.suspect(ONE, REASON)
    assert prober._due[0][0] - time.monotonic() > 60
    assert prober.stop(60)


def test_a_suspect_is_asked_about_once_at_a_time(pool: Pool, provider: Provider):
    """A hundred requests find out at the same time; the provider is asked once."""
    known = threading.Event()

    def ask(key: ApiKey) -> None:
        assert known.wait(30)
        provider(key)

    prober = Prober(pool, ask, pauses_s=(0.01,))  # type: ignore[arg-type]
    for _ in range(100):
        prober.suspect(ONE, REASON)
    prober.suspect(TWO, REASON)
    known.set()
    wait_until(lambda: sorted(pool.cleared) == sorted([ONE.digest, TWO.digest]), what="both to come back")
    assert prober.stop(60)
    assert len(provider.asked) == 2


def test_a_key_can_be_refused_again_later(prober: Prober, pool: Pool):
    prober.suspect(ONE, REASON)
    wait_until(lambda: len(pool.cleared) == 1, what="the key to come back")

    def back_again() -> bool:
        prober.suspect(ONE, REASON)  # more than once, for the thread may still be about to forget the first time
        return len(pool.cleared) > 1

    wait_until(back_again, what="the key to come back again")


def test_a_key_that_stays_refused_is_told_once(
    prober: Prober, pool: Pool, provider: Provider, monkeypatch: pytest.MonkeyPatch
):
    """To an operator, by its last four characters; and it is asked about still."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(probe.sentry, "tell_operator", lambda *args, **facts: told.append(facts))
    provider.script[ONE] = [REFUSED] * 6
    prober.suspect(ONE, REASON)
    wait_until(lambda: pool.cleared, what="the key to come back")
    assert told == [{"about": "****1111"}]


def test_a_store_that_is_away_ends_no_probe(prober: Prober, pool: Pool):
    pool.away = True
    prober.suspect(ONE, REASON)
    wait_until(lambda: pool.cleared == [ONE.digest], what="the key to come back")


def test_a_stop_does_not_wait_for_a_pause(pool: Pool, provider: Provider):
    """And nothing is asked after it."""
    prober = Prober(pool, provider, pauses_s=(3600.0,))  # type: ignore[arg-type]
    prober.suspect(ONE, REASON)
    assert prober.stop(60)
    assert prober.stop(60)
    prober.suspect(TWO, REASON)
    assert provider.asked == []


def test_a_prober_without_a_suspect_has_no_thread(pool: Pool, provider: Provider):
    prober = Prober(pool, provider)  # type: ignore[arg-type]
    assert "key-prober" not in {thread.name for thread in threading.enumerate()}
    assert prober.stop(60)
