"""What a worker asks about its keys and models while it works."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dev.waiting import wait_until
from gateway.errors import UpstreamFailed
from gateway.keys import survey
from gateway.keys.survey import Survey
from gateway.providers.openrouter_responses import KeyInfo
from gateway.secrets import ApiKey

ONE, TWO, THREE = (ApiKey(f"sk-or-v1-survey-key-{last4}") for last4 in ("1111", "2222", "3333"))
LABELLED = ApiKey("sk-or-v1-survey-key-4444", label="mine")
AWAY = UpstreamFailed("out of reach", reason="network")

MODELS = {"google/gemini-2.5-flash": None, "google/old": "2020-01-01"}


class Pool:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.learned: list[dict[str, str]] = []

    def learn(self, accounts: Mapping[str, str]) -> None:
        self.learned.append(dict(accounts))


class Provider:
    """Knows the user of each key; a key in `silent` gets no answer so many times."""

    def __init__(self) -> None:
        self.users: dict[ApiKey, str | None] = {ONE: "ann", TWO: "ann", THREE: "bob"}
        self.silent: dict[ApiKey, int] = {}
        self.asked: list[ApiKey] = []
        self.models_away = False

    def key_info(self, key: ApiKey) -> KeyInfo:
        self.asked.append(key)
        if self.silent.get(key, 0) > 0:
            self.silent[key] -= 1
            raise AWAY
        return KeyInfo(None, creator_user_id=self.users[key], expires_at=None)

    def models(self) -> Mapping[str, str | None]:
        if self.models_away:
            raise AWAY
        return MODELS


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def started(pool: Pool, provider: Provider) -> Iterator[Any]:
    """Starts a survey; it is stopped after the test."""
    made: list[Survey] = []

    def start(*keys: ApiKey, models: tuple[str, ...] = (), pause_s: float = 0.0) -> Survey:
        one = Survey(
            pool,  # type: ignore[arg-type]
            keys=keys,
            models=models,
            ask=provider.key_info,
            ask_models=provider.models,
            pause_s=pause_s,
        )
        made.append(one)
        one.start()
        return one

    yield start
    assert all(one.stop(60) for one in made)


def test_keys_of_one_user_are_one_account(pool: Pool, started: Any):
    """By names that say nothing about the user."""
    started(ONE, TWO, THREE)
    wait_until(lambda: pool.learned, what="the accounts")
    (accounts,) = pool.learned
    assert accounts[ONE.digest] == accounts[TWO.digest] != accounts[THREE.digest]
    assert "ann" not in str(accounts)


def test_a_key_with_a_label_is_not_asked_about(pool: Pool, provider: Provider, started: Any):
    """The operator has said whose it is."""
    started(LABELLED, ONE)
    wait_until(lambda: pool.learned, what="the accounts")
    assert provider.asked == [ONE]


def test_a_key_without_an_answer_is_asked_about_again(
    pool: Pool, provider: Provider, started: Any, monkeypatch: pytest.MonkeyPatch
):
    """Only that one; what is known meanwhile is used."""
    monkeypatch.setattr(survey, "AGAIN_S", 0.01)
    provider.silent = {TWO: 2}
    started(ONE, TWO)
    wait_until(lambda: len(pool.learned) == 3, what="three rounds")
    assert [set(accounts) for accounts in pool.learned] == [{ONE.digest}, {ONE.digest}, {ONE.digest, TWO.digest}]
    assert provider.asked == [ONE, TWO, TWO, TWO]


def test_a_user_that_is_not_told_makes_no_account(pool: Pool, provider: Provider, started: Any):
    provider.users[ONE] = None
    started(ONE, THREE)
    wait_until(lambda: pool.learned, what="the accounts")
    assert set(pool.learned[0]) == {THREE.digest}


def test_questions_are_far_apart_and_end_with_the_process(provider: Provider, started: Any):
    """A thousand keys are no burst of a thousand calls, and a stop does not wait for them."""
    one = started(ONE, TWO, pause_s=3600.0)
    assert one.stop(60)
    assert provider.asked == []


def test_a_model_that_is_gone_is_said_once(pool: Pool, started: Any, caplog: pytest.LogCaptureFixture):
    started(ONE, models=("google/gemini-2.5-flash", "google/new", "google/old"))
    wait_until(lambda: pool.learned, what="the accounts")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "google/new is not among the provider's models",
        "google/old has retired on 2020-01-01: set OPENROUTER_MODEL or MODEL_ALIASES",
    ]


def test_models_that_cannot_be_read_are_no_warning(
    pool: Pool, provider: Provider, started: Any, caplog: pytest.LogCaptureFixture
):
    provider.models_away = True
    started(ONE, models=("google/new",))
    wait_until(lambda: pool.learned, what="the accounts")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
