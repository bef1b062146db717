"""What a worker asks about its keys and models while it works."""

import logging
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import pytest

from dev.waiting import wait_until
from gateway.errors import AuthenticationFailed, ProviderError, RequestRejected, StoreUnavailable, UpstreamFailed
from gateway.keys import survey
from gateway.keys.survey import OF_GEMINI, OF_OPENROUTER, Names, Survey
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
        self.away = False

    def learn(self, accounts: Mapping[str, str]) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.learned.append(dict(accounts))


class Provider:
    """Knows the user of each key; a key in `silent` gets no answer so many times."""

    def __init__(self) -> None:
        self.users: dict[ApiKey, str | None] = {ONE: "ann", TWO: "ann", THREE: "bob"}
        self.silent: dict[ApiKey, int] = {}
        self.asked: list[ApiKey] = []
        self.models_fail: ProviderError | None = None
        self.refused: set[ApiKey] = set()
        self.infos: dict[ApiKey, KeyInfo] = {}

    def key_info(self, key: ApiKey) -> KeyInfo:
        self.asked.append(key)
        if key in self.refused:
            raise AuthenticationFailed("OpenRouter answered 401: User not found.", reason="http_401", status=401)
        if key in self.infos:
            return self.infos[key]
        if self.silent.get(key, 0) > 0:
            self.silent[key] -= 1
            raise AWAY
        return KeyInfo(None, creator_user_id=self.users[key], expires_at=None)

    def models(self) -> Mapping[str, str | None]:
        if self.models_fail is not None:
            raise self.models_fail
        return MODELS


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


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

    def start(
        *keys: ApiKey, models: tuple[str, ...] = (), pause_s: float = 0.0, names: Names = OF_OPENROUTER
    ) -> Survey:
        one = Survey(
            pool,  # type: ignore[arg-type]
            keys=keys,
            models=models,
            ask=provider.key_info,
            ask_models=provider.models,
            names=names,
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


def test_a_key_with_a_label_keeps_its_account(pool: Pool, provider: Provider, started: Any):
    """The operator has said whose it is; whether it is accepted is asked all the same."""
    provider.users[LABELLED] = "ann"
    started(LABELLED, ONE)
    wait_until(lambda: pool.learned, what="the accounts")
    assert provider.asked == [LABELLED, ONE]
    assert set(pool.learned[0]) == {ONE.digest}


def test_a_key_that_is_refused_is_said_once(
    pool: Pool, provider: Provider, started: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """By its last four characters and with a remedy, though it is asked about again."""
    monkeypatch.setattr(survey, "AGAIN_S", 0.01)
    provider.refused = {TWO}
    started(ONE, TWO)
    wait_until(lambda: len(pool.learned) >= 3, what="three rounds")
    (warning,) = warnings_of(caplog)
    assert warning == (
        "Key ****2222 is refused, correct it in OPENROUTER_API_KEYS, or wait if OpenRouter has an outage "
        "(OpenRouter answered 401: User not found.)"
    )


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (KeyInfo(None, None, None, manages=True), "is a management key, which makes no calls"),
        (KeyInfo(0.0, None, None), "has used up its own limit"),
        (KeyInfo(-0.0123, None, None), "has used up its own limit"),
    ],
)
def test_a_key_that_is_accepted_and_makes_no_calls_is_said(
    provider: Provider, started: Any, caplog: pytest.LogCaptureFixture, info: KeyInfo, said: str
):
    """`GET /key` answers 200 for it, and only a call would show it."""
    provider.infos[ONE] = info
    started(ONE, TWO)
    wait_until(lambda: TWO in provider.asked, what="the next question")
    (warning,) = warnings_of(caplog)
    assert warning.startswith(f"Key ****1111 {said}")


@pytest.mark.parametrize(
    "error",
    [
        UpstreamFailed("OpenRouter answered 404", reason="http_404", status=404),
        RequestRejected("OpenRouter answered 404", reason="http_404", status=404),
        RequestRejected("OpenRouter answered 405", reason="http_405", status=405),
        UpstreamFailed("OpenRouter answered 403", reason="not_the_provider", status=403),
        UpstreamFailed("OpenRouter answered 200 with something else", reason="invalid_answer", status=200),
        UpstreamFailed("The provider answered with a redirect", reason="redirect", status=301),
    ],
    ids=str,
)
def test_an_address_at_which_somebody_else_answers_is_said(
    pool: Pool, provider: Provider, started: Any, caplog: pytest.LogCaptureFixture, error: ProviderError
):
    """A web server, a page to log in, a firewall: with the address that it usually is."""
    provider.models_fail = error
    started(ONE, models=("google/new",))
    wait_until(lambda: pool.learned, what="the accounts")
    (warning,) = warnings_of(caplog)
    assert warning.startswith("OPENROUTER_BASE_URL: OpenRouter does not answer there: give an address like")
    assert str(error) in warning


def test_a_proxy_that_fails_is_said(pool: Pool, provider: Provider, started: Any, caplog: pytest.LogCaptureFixture):
    """It is a setting, too."""
    provider.models_fail = UpstreamFailed("The proxy refused the connection (status 407)", reason="proxy")
    started(ONE)
    wait_until(lambda: pool.learned, what="the accounts")
    (warning,) = warnings_of(caplog)
    assert warning.startswith("HTTP_PROXY: correct it, or name the provider's host in NO_PROXY (The proxy refused")


def test_the_settings_of_gemini_have_names_of_their_own(
    pool: Pool, provider: Provider, started: Any, caplog: pytest.LogCaptureFixture
):
    """A remedy names the setting that is in use."""
    provider.refused = {ONE}
    started(ONE, TWO, models=("gemini-1.0",), names=OF_GEMINI)
    wait_until(lambda: pool.learned, what="the accounts")
    model, key = warnings_of(caplog)
    assert model.endswith("set GEMINI_MODEL_TEXT or MODEL_ALIASES")
    assert "correct it in GEMINI_API_KEYS" in key


def test_a_model_that_another_vendor_has_is_named(pool: Pool, started: Any, caplog: pytest.LogCaptureFixture):
    """LiteLLM's `gemini/…` is OpenRouter's `google/…`."""
    started(ONE, models=("gemini/gemini-2.5-flash", "gemini-2.5-flash"))
    wait_until(lambda: pool.learned, what="the accounts")
    assert warnings_of(caplog) == [
        f"{model} is not among the provider's models, google/gemini-2.5-flash is: set OPENROUTER_MODEL or MODEL_ALIASES"
        for model in ("gemini/gemini-2.5-flash", "gemini-2.5-flash")
    ]


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


def test_a_store_that_is_away_ends_nothing(
    pool: Pool, provider: Provider, started: Any, caplog: pytest.LogCaptureFixture
):
    """Accounts are a help; the next round tells them again."""
    pool.away = True
    started(ONE)
    wait_until(lambda: warnings_of(caplog), what="a warning")
    assert warnings_of(caplog) == ["The accounts of the keys are not remembered: away"]


def test_questions_are_far_apart_and_end_with_the_process(provider: Provider, started: Any):
    """A thousand keys are no burst of a thousand calls, and a stop does not wait for them."""
    one = started(ONE, TWO, pause_s=3600.0)
    assert one.stop(60)
    assert provider.asked == []


def test_a_model_that_is_gone_is_said_once(pool: Pool, started: Any, caplog: pytest.LogCaptureFixture):
    started(ONE, models=("google/gemini-2.5-flash", "google/new", "google/old"))
    wait_until(lambda: pool.learned, what="the accounts")
    assert warnings_of(caplog) == [
        "google/new is not among the provider's models: set OPENROUTER_MODEL or MODEL_ALIASES",
        "google/old has retired on 2020-01-01: set OPENROUTER_MODEL or MODEL_ALIASES",
    ]


def test_models_that_cannot_be_read_are_no_warning(
    pool: Pool, provider: Provider, started: Any, caplog: pytest.LogCaptureFixture
):
    provider.models_fail = AWAY
    started(ONE, models=("google/new",))
    wait_until(lambda: pool.learned, what="the accounts")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("@preset/mine", None),
        ("google/gemini-2.5-flash@preset/mine", None),
        ("google/gemini-2.5-flash:free@preset/mine", None),
        ("google/none@preset/mine", "google/none is not among"),
    ],
)
def test_of_a_preset_nothing_is_known(model: str, says: str | None):
    """It is the account's own; what stands before it is looked up."""
    said = survey.retirement(model, MODELS, today=date(2026, 1, 1))
    assert said is None if says is None else str(said).startswith(says)
