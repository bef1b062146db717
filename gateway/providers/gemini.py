"""The client of Google's own Gemini API, for installations that have no OpenRouter key yet."""

import logging
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Final

from gateway.errors import ProviderError, RequestRejected
from gateway.messages import Completion, Request
from gateway.providers.discretion import hidden
from gateway.providers.gemini_requests import gemini_body
from gateway.providers.gemini_responses import classify_gemini
from gateway.providers.transport import HttpRequest, KeyHeader, Payload, Transport
from gateway.reporting.redaction import escape_controls
from gateway.secrets import ApiKey

logger = logging.getLogger(__name__)

#: The name becomes part of a path: nothing that a path or a URL gives a meaning to.
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class Gemini:
    """Completes requests through the Gemini API. Thread-safe."""

    transport: Transport
    base_url: str
    default_model: str
    keys: tuple[ApiKey, ...] = ()  # all of ours: an error may repeat any of them

    def resolve_model(self, name: str | None) -> str:
        """The model in its bare form: `google/gemini-x` is `gemini-x`. Raises RequestRejected for any other vendor."""
        model = (name or self.default_model).removeprefix("google/")
        if not _MODEL_NAME.fullmatch(model) or ".." in model:
            raise RequestRejected(f"No Gemini model name: {escape_controls(model, limit=80)}", reason="invalid_model")
        return model

    def check(self, request: Request) -> None:
        """Raises RequestRejected for what Gemini has no word for."""
        gemini_body(request)

    def complete(self, request: Request, key: ApiKey, *, deadline_s: float) -> Completion:
        """The completion of `request`, paid with `key`, within `deadline_s` seconds; else ProviderError. Asks once."""
        model = self.resolve_model(request.model)
        answer = self.transport.send(self._outgoing(request, model, key), deadline_s=deadline_s)
        hide = partial(hidden, request, {*self.keys, key})
        outcome = classify_gemini(answer, asked=model, now=time.time(), hide=hide)
        if isinstance(outcome, ProviderError):
            raise outcome
        if outcome.model_used != model:
            logger.warning("Asked for %s, served by %s", model, outcome.model_used)
        return outcome

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self.transport.close()

    def _outgoing(self, request: Request, model: str, key: ApiKey) -> HttpRequest:
        return HttpRequest(
            url=f"{self.base_url.rstrip('/')}/v1beta/models/{model}:generateContent",
            auth=KeyHeader(key, header="x-goog-api-key"),
            payload=Payload(gemini_body(request)),
        )
