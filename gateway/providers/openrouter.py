"""The client of OpenRouter's chat completions."""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final

from gateway.errors import ProviderError, RequestRejected
from gateway.messages import Completion, Request
from gateway.model_names import resolve
from gateway.providers.discretion import hidden
from gateway.providers.live import ACCEPT, Listener, Live
from gateway.providers.openrouter_responses import (
    KeyInfo,
    bill_of,
    classify_key,
    classify_models,
    classify_openrouter,
    text_of_event,
)
from gateway.providers.transport import HttpRequest, KeyHeader, Payload, Transport
from gateway.reporting.redaction import escape_controls, redact
from gateway.secrets import ApiKey

logger = logging.getLogger(__name__)

#: `vendor/name:variant`, `~vendor/name`, `@preset/name`: no white space, no controls, nothing that means a path.
#: OpenRouter's last chunk has the usage as it is; others who speak its language are asked for it.
#: https://openrouter.ai/docs/api-reference/streaming https://platform.openai.com/docs/api-reference/chat/create
_STREAM: Final = {"stream": True, "stream_options": {"include_usage": True}}

_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9~@][A-Za-z0-9._:/@~+-]{0,199}")


@dataclass(frozen=True, slots=True)
class OpenRouter:
    """Completes requests through OpenRouter. Thread-safe.

    `aliases` maps bare model names to OpenRouter's; `max_tokens` is the cap for requests that set none.
    """

    transport: Transport
    base_url: str
    default_model: str
    aliases: Mapping[str, str]
    site_url: str
    site_name: str
    max_tokens: int
    keys: tuple[ApiKey, ...] = ()  # all of ours: an error may repeat any of them

    def resolve_model(self, name: str | None) -> str:
        """The model that OpenRouter is asked for. Raises RequestRejected for what cannot be a name."""
        model = resolve(name, aliases=self.aliases, default=self.default_model)
        if not _MODEL_NAME.fullmatch(model) or ".." in model:
            raise RequestRejected(f"No model name: {escape_controls(model, limit=80)}", reason="invalid_model")
        return model

    def check(self, request: Request) -> None:
        """Raises RequestRejected for a model, or one to fall back to, that cannot be a name."""
        self._models(request)

    def complete(
        self, request: Request, key: ApiKey, *, deadline_s: float, listener: Listener | None = None
    ) -> Completion:
        """The completion of `request`, paid with `key`, within `deadline_s` seconds; else ProviderError. Asks once."""
        model, *fallbacks = self._models(request)
        live = Live(listener, text_of_event) if listener is not None else None
        outgoing = self._outgoing(request, model, fallbacks, key, streams=live is not None)
        answer = self.transport.send(outgoing, deadline_s=deadline_s, live=live)
        hide = partial(hidden, request, {*self.keys, key})
        offers = request.parameters.tools is not None
        outcome = classify_openrouter(answer, asked=model, now=time.time(), hide=hide, with_tools=offers)
        if isinstance(outcome, ProviderError):
            outcome.bill = bill_of(answer, asked=model)
            outcome.may_be_billed |= answer.is_success and answer.content.has_begun
            raise outcome
        if outcome.model_used not in (model, *fallbacks):
            logger.warning("Asked for %s, served by %s", model, outcome.model_used)
        return outcome

    def key_info(self, key: ApiKey, *, deadline_s: float) -> KeyInfo:
        """What OpenRouter knows about `key`; free of charge. Raises ProviderError."""
        outgoing = HttpRequest(f"{self.base_url.rstrip('/')}/key", _bearer(key))
        answer = self.transport.send(outgoing, deadline_s=deadline_s)
        outcome = classify_key(answer, now=time.time(), hide=lambda text: redact(text, [key.reveal()]))
        if isinstance(outcome, ProviderError):
            raise outcome
        return outcome

    def models(self, *, deadline_s: float) -> Mapping[str, str | None]:
        """Every model that OpenRouter has, with the day on which it retires or None. Raises ProviderError."""
        answer = self.transport.send(HttpRequest(f"{self.base_url.rstrip('/')}/models"), deadline_s=deadline_s)
        outcome = classify_models(answer, now=time.time(), hide=redact)
        if isinstance(outcome, ProviderError):
            raise outcome
        return outcome

    def clock_s(self, *, deadline_s: float) -> float | None:
        """What time it is there, in epoch seconds; None when it does not say. Raises ProviderError."""
        answer = self.transport.send(HttpRequest(f"{self.base_url.rstrip('/')}/models"), deadline_s=deadline_s)
        try:
            return parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (KeyError, TypeError, ValueError):
            return None

    def with_keys(self, keys: Sequence[ApiKey]) -> "OpenRouter":
        """With those that were there before as well, behind them: calls with these still run."""
        return replace(self, keys=tuple(dict.fromkeys((*keys, *self.keys))))

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self.transport.close()

    def _models(self, request: Request) -> list[str]:
        """The model, and those to fall back to."""
        return [self.resolve_model(name) for name in (request.model, *(request.parameters.models or ()))]

    def _outgoing(
        self, request: Request, model: str, fallbacks: list[str], key: ApiKey, *, streams: bool
    ) -> HttpRequest:
        # As bytes: a name in Greek is no header text to http.client.
        site = {"HTTP-Referer": self.site_url.encode(), "X-Title": self.site_name.encode()}
        return HttpRequest(
            url=f"{self.base_url.rstrip('/')}/chat/completions",
            auth=_bearer(key),
            headers={**{name: value for name, value in site.items() if value}, **(ACCEPT if streams else {})},
            payload=Payload(_body(request, model, fallbacks, self.max_tokens) | (_STREAM if streams else {})),
        )


def _bearer(key: ApiKey) -> KeyHeader:
    return KeyHeader(key, header="Authorization", prefix="Bearer ")


def _body(request: Request, model: str, fallbacks: list[str], max_tokens: int) -> dict[str, Any]:
    """Everything that was given, under OpenRouter's names, which are ours but for the cap."""
    given = request.parameters.given
    cap = given.pop("max_output_tokens", max_tokens)
    about = {"models": fallbacks or None, "user": request.user, "session_id": request.session_id}
    return {
        "model": model,
        "messages": request.conversation,
        **given,
        **{name: value for name, value in about.items() if value is not None},
        # Always: without a cap the account's budget in flight is charged with the model's maximum.
        "max_tokens": cap,
        "stream": False,
    }
