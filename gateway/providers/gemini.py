"""The client of Google's own Gemini API, for installations that have no OpenRouter key yet."""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from gateway.errors import AuthenticationFailed, ProviderError, RequestRejected
from gateway.messages import Completion, Request
from gateway.model_names import bare, resolve
from gateway.providers.discretion import hidden
from gateway.providers.gemini_requests import gemini_body
from gateway.providers.gemini_responses import bill_of, classify_gemini, classify_gemini_key, text_of_event
from gateway.providers.live import ACCEPT, Listener, Live
from gateway.providers.openrouter_responses import KeyInfo
from gateway.providers.responses import Answer, Hide
from gateway.providers.transport import HttpRequest, KeyHeader, Payload, Transport
from gateway.providers.values import mapping, string
from gateway.reporting.redaction import escape_controls, redact
from gateway.secrets import ApiKey

logger = logging.getLogger(__name__)

_KEY_HEADER: Final = "x-goog-api-key"

#: Without `alt=sse` a stream is a list, which is a document. https://ai.google.dev/api/generate-content
_WHOLE: Final = "generateContent"
_STREAM: Final = "streamGenerateContent?alt=sse"

#: The name becomes part of a path: nothing that a path or a URL gives a meaning to.
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class Gemini:
    """Completes requests through the Gemini API. Thread-safe. `aliases` are those of OpenRouter, too."""

    transport: Transport
    base_url: str
    default_model: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[ApiKey, ...] = ()  # all of ours: an error may repeat any of them

    def resolve_model(self, name: str | None) -> str:
        """The model in its bare form: `google/gemini-x` is `gemini-x`. Raises RequestRejected for any other vendor."""
        model = bare(resolve(name, aliases=self.aliases, default=self.default_model))
        if not _MODEL_NAME.fullmatch(model) or ".." in model:
            raise RequestRejected(f"No Gemini model name: {escape_controls(model, limit=80)}", reason="invalid_model")
        return model

    def check(self, request: Request) -> None:
        """Raises RequestRejected for what Gemini has no word for."""
        gemini_body(request)

    def complete(
        self, request: Request, key: ApiKey, *, deadline_s: float, listener: Listener | None = None
    ) -> Completion:
        """The completion of `request`, paid with `key`, within `deadline_s` seconds; else ProviderError. Asks once."""
        model = self.resolve_model(request.model)
        live = Live(listener, text_of_event) if listener is not None else None
        outgoing = self._outgoing(request, model, key, streams=live is not None)
        answer = self.transport.send(outgoing, deadline_s=deadline_s, live=live)
        hide = partial(hidden, request, {*self.keys, key})
        offers = request.parameters.tools is not None
        outcome = classify_gemini(answer, asked=model, now=time.time(), hide=hide, with_tools=offers)
        if isinstance(outcome, ProviderError):
            outcome.bill = bill_of(answer, asked=model)
            outcome.may_be_billed |= answer.is_success and answer.content.has_begun
            raise outcome
        if outcome.model_used != model:
            logger.warning("Asked for %s, served by %s", model, outcome.model_used)
        return outcome

    def key_info(self, key: ApiKey, *, deadline_s: float) -> KeyInfo:
        """That Google accepts `key`, which is all that it tells; free of charge. Raises ProviderError."""
        self._list(key, page_size=1, deadline_s=deadline_s)
        return KeyInfo(limit_remaining=None, creator_user_id=None, expires_at=None)

    def models(self, *, deadline_s: float) -> Mapping[str, str | None]:
        """Every model that Google has for the first key that it accepts; it tells no day of retirement.

        Raises ProviderError.
        """
        for key in self.keys[:-1]:
            with suppress(AuthenticationFailed):
                return self._list(key, page_size=1000, deadline_s=deadline_s)
        return self._list(self.keys[-1], page_size=1000, deadline_s=deadline_s)

    def _list(self, key: ApiKey, *, page_size: int, deadline_s: float) -> Mapping[str, str | None]:
        url = f"{self.base_url.rstrip('/')}/v1beta/models?pageSize={page_size}"
        answer = self.transport.send(HttpRequest(url, KeyHeader(key, header=_KEY_HEADER)), deadline_s=deadline_s)
        hide = partial(redact, secrets=[each.reveal() for each in {*self.keys, key}])
        outcome = _models(answer, hide=hide)
        if isinstance(outcome, ProviderError):
            raise outcome
        return outcome

    def with_keys(self, keys: Sequence[ApiKey]) -> "Gemini":
        """With those that were there before as well, behind them: calls with these still run."""
        return replace(self, keys=tuple(dict.fromkeys((*keys, *self.keys))))

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self.transport.close()

    def _outgoing(self, request: Request, model: str, key: ApiKey, *, streams: bool) -> HttpRequest:
        return HttpRequest(
            url=f"{self.base_url.rstrip('/')}/v1beta/models/{model}:{_STREAM if streams else _WHOLE}",
            auth=KeyHeader(key, header=_KEY_HEADER),
            headers=ACCEPT if streams else {},
            payload=Payload(gemini_body(request)),
        )


def _models(answer: Answer, *, hide: Hide) -> Mapping[str, str | None] | ProviderError:
    """The names in an answer to `GET /v1beta/models`, or the error that it means.

    Source: https://ai.google.dev/api/models#v1beta.models.list
    """
    if (failed := classify_gemini_key(answer, now=time.time(), hide=hide)) is not None:
        return failed
    rows = next(one["models"] for one in answer.content.objects if isinstance(one.get("models"), list))
    return {string(mapping(row).get("name")).removeprefix("models/"): None for row in rows}
