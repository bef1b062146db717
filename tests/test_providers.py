"""Which provider the settings choose."""

from types import SimpleNamespace

from pydantic import SecretStr

from gateway.providers import provider_from
from gateway.providers.gemini import Gemini
from gateway.providers.openrouter import OpenRouter
from gateway.secrets import ApiKey


def settings(*, uses_gemini: bool) -> SimpleNamespace:
    return SimpleNamespace(
        uses_gemini=uses_gemini,
        provider_proxy=SecretStr("http://user:canary@proxy.invalid:3128"),
        openrouter_base_url="https://openrouter.test/api/v1",
        openrouter_model="google/gemini-2.5-flash",
        openrouter_site_url=None,
        openrouter_site_name=None,
        openrouter_max_tokens=4096,
        model_aliases={"fast": "google/gemini-2.5-flash-lite"},
        gemini_base_url="https://gemini.test",
        gemini_model_text="gemini-2.5-pro",
        keys=(ApiKey("sk-or-v1-canary-1111"),),
    )


def test_openrouter_is_the_usual_provider():
    """With its model, its aliases and its cap."""
    provider = provider_from(settings(uses_gemini=False))

    assert isinstance(provider, OpenRouter)
    assert provider.resolve_model(None) == "google/gemini-2.5-flash"
    assert provider.resolve_model("fast") == "google/gemini-2.5-flash-lite"
    assert "canary" not in repr(provider)
    provider.close()


def test_gemini_serves_those_who_have_gemini_keys_only():
    """The legacy path, where names are bare."""
    provider = provider_from(settings(uses_gemini=True))

    assert isinstance(provider, Gemini)
    assert provider.resolve_model(None) == "gemini-2.5-pro"
    assert "canary" not in repr(provider)
    provider.close()
