"""The providers: one interface, OpenRouter and, for older installations, Gemini behind it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from gateway.messages import Completion, Request
from gateway.providers.gemini import Gemini
from gateway.providers.live import Listener
from gateway.providers.openrouter import OpenRouter
from gateway.providers.openrouter_responses import KeyInfo
from gateway.providers.transport import Transport
from gateway.secrets import ApiKey

if TYPE_CHECKING:
    from gateway.settings import Settings


class Provider(Protocol):
    """Turns requests into completions. Thread-safe; one for a process."""

    def resolve_model(self, name: str | None) -> str:
        """The model that the provider is asked for, and that cools down; `None` is the default one.

        Raises RequestRejected for what cannot be a model's name. Pure.
        """

    def check(self, request: Request) -> None:
        """Raises RequestRejected for a request that this provider cannot be asked as it is. Pure."""

    def complete(
        self, request: Request, key: ApiKey, *, deadline_s: float, listener: Listener | None = None
    ) -> Completion:
        """The completion of `request`, paid with `key`, within `deadline_s` seconds. Asks the provider once.

        For a `listener` the provider is asked for a stream, and its text is told as it comes; raises Unwanted when that
        has ended the call. The completion, or the error, is the same as without one.

        Raises RequestRejected, AuthenticationFailed, RateLimited or UpstreamFailed; nothing else that the provider or
        the network can cause.
        """

    def key_info(self, key: ApiKey, *, deadline_s: float) -> KeyInfo:
        """What the provider tells of `key`, within `deadline_s` seconds; free of charge.

        Raises AuthenticationFailed for a key that it refuses, another ProviderError where nothing was learnt.
        """

    def models(self, *, deadline_s: float) -> Mapping[str, str | None]:
        """The models that the provider has, each with the day on which it retires or None. Raises ProviderError."""

    def with_keys(self, keys: Sequence[ApiKey]) -> "Provider":
        """This client, over the same connections, when these are the keys: for what is asked for and hidden of them."""

    def close(self) -> None:
        """Close the connections and end what is still running. Idempotent."""


def provider_from(settings: "Settings") -> Provider:
    """The provider that the settings have keys for: OpenRouter, unless there are Gemini keys only. No I/O."""
    transport = Transport(proxy=settings.provider_proxy)
    if settings.uses_gemini:
        return Gemini(
            transport=transport,
            base_url=str(settings.gemini_base_url),
            default_model=settings.gemini_model_text,
            aliases=settings.model_aliases,
            keys=settings.keys,
        )
    return OpenRouter(
        transport=transport,
        base_url=str(settings.openrouter_base_url),
        default_model=settings.openrouter_model,
        aliases=settings.model_aliases,
        site_url=str(settings.openrouter_site_url or ""),
        site_name=settings.openrouter_site_name or "",
        max_tokens=settings.openrouter_max_tokens,
        keys=settings.keys,
    )
