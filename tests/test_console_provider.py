"""What the console asks of the provider: the same of OpenRouter and of Gemini, with remedies about the one in use."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from console import cli
from console.doctor import provider as doctor
from console.doctor.finding import Finding
from console.opened import opened
from gateway.errors import AuthenticationFailed, ProviderError, UpstreamFailed
from gateway.keys.survey import OF_GEMINI, OF_OPENROUTER, Names
from gateway.providers.gemini import Gemini
from gateway.providers.openrouter import OpenRouter
from gateway.providers.openrouter_responses import KeyInfo
from gateway.secrets import ApiKey

KEY = "sk-or-v1-canary-key-1111"
THERE = {"google/gemini-2.5-flash": None, "google/gemini-2.5-pro": None}


@pytest.fixture(autouse=True)
def of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder and a state; providers that know two models and refuse no key."""
    monkeypatch.chdir(tmp_path)
    for kind, models in ((OpenRouter, THERE), (Gemini, {name.removeprefix("google/"): None for name in THERE})):
        monkeypatch.setattr(kind, "models", lambda _self, *, deadline_s, _models=models: _models)
        monkeypatch.setattr(kind, "key_info", lambda _self, _key, *, deadline_s: KeyInfo(None, None, None))
    monkeypatch.setattr(OpenRouter, "clock_s", lambda _self, *, deadline_s: None)


Check = Callable[..., list[Finding]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    """What the doctor finds with these settings and does not call well."""

    def checked(**settings: str) -> list[Finding]:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        with opened() as here:
            return [finding for finding in doctor.check(here) if finding.level in {"failed", "warning"}]

    return checked


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "models/gemini-2.5-flash", "gemini-pro", "fast"])
def test_a_model_is_looked_up_as_it_is_asked_for(check: Check, model: str):
    """A bare name and an alias are no faults."""
    assert check(OPENROUTER_API_KEYS=KEY, OPENROUTER_MODEL=model, MODEL_ALIASES="fast=gemini-2.5-pro") == []


def test_gemini_is_asked_too(check: Check):
    """About its keys and models, under the names of its own settings."""
    assert check(GEMINI_API_KEYS="AIza-canary-1111") == []
    (finding,) = check(GEMINI_API_KEYS="AIza-canary-1111", GEMINI_MODEL_TEXT="gemini-none")
    assert (finding.what.startswith("gemini-none is not among"), "GEMINI_MODEL_TEXT" in str(finding.remedy)) == (
        True,
        True,
    )


def test_a_key_that_gemini_refuses_is_named_with_its_setting(check: Check, monkeypatch: pytest.MonkeyPatch):
    def refused(_self: Gemini, _key: ApiKey, *, deadline_s: float) -> KeyInfo:
        raise AuthenticationFailed("Gemini answered 400: API key not valid", reason="http_400", status=400)

    monkeypatch.setattr(Gemini, "key_info", refused)
    finding, _none_is_usable = check(GEMINI_API_KEYS="AIza-canary-1111")
    assert ("is refused" in finding.what, "GEMINI_API_KEYS" in str(finding.remedy)) == (True, True)


@pytest.mark.parametrize("names", [OF_OPENROUTER, OF_GEMINI])
def test_a_provider_that_cannot_be_asked_is_one_of_its_own_address(names: Names):
    """And keys that it refuses are one of its keys."""
    for reason in ("network", "http_404"):
        assert names.base_url in doctor.remedy_of(UpstreamFailed("no", reason=reason), names)
    assert names.keys in doctor.remedy_of(AuthenticationFailed("no", reason="http_401", status=401), names)


def test_the_keys_of_gemini_are_asked_about(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`gemini keys` says what Google says; --offline asks nobody."""
    monkeypatch.setenv("GEMINI_API_KEYS", "AIza-canary-1111")

    def away(_self: Gemini, *, deadline_s: float) -> Mapping[str, str | None]:
        raise ProviderError("out of reach", reason="network")

    monkeypatch.setattr(Gemini, "models", away)
    assert cli.main(["keys"]) == 0
    assert "out of reach" in capsys.readouterr().out
    assert cli.main(["keys", "--offline"]) == 0
    assert "out of reach" not in capsys.readouterr().out


def test_a_key_that_did_not_rest_is_told_from_one_that_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """`gemini keys --clear`: both are well afterwards."""
    monkeypatch.setenv("OPENROUTER_API_KEYS", KEY)
    assert cli.main(["keys", "--clear", "1111"]) == 0
    assert "did not rest" in capsys.readouterr().out
