"""The client of Google's own Gemini API, for installations that have no OpenRouter key yet."""

import logging
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from gateway.errors import ProviderError, RequestRejected
from gateway.messages import Completion, Parameters, Request
from gateway.providers.discretion import hidden
from gateway.providers.gemini_responses import classify_gemini, classify_gemini_key
from gateway.providers.transport import HttpRequest, KeyHeader, Payload, Transport
from gateway.reporting.redaction import escape_controls, redact
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

    def key_info(self, key: ApiKey, *, deadline_s: float) -> None:
        """Free of charge, whether Google accepts `key`: it may list the models. Raises ProviderError where it may not.

        https://ai.google.dev/api/models#method:-models.list
        """
        url = f"{self.base_url.rstrip('/')}/v1beta/models?pageSize=1"
        answer = self.transport.send(HttpRequest(url, KeyHeader(key, header="x-goog-api-key")), deadline_s=deadline_s)
        trouble = classify_gemini_key(answer, now=time.time(), hide=partial(redact, secrets=[key.reveal()]))
        if trouble is not None:
            raise trouble

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self.transport.close()

    def _outgoing(self, request: Request, model: str, key: ApiKey) -> HttpRequest:
        return HttpRequest(
            url=f"{self.base_url.rstrip('/')}/v1beta/models/{model}:generateContent",
            auth=KeyHeader(key, header="x-goog-api-key"),
            payload=Payload(_body(request)),
        )


def _body(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": request.prompt}]}]}
    if request.system_instruction:
        body["systemInstruction"] = {"parts": [{"text": request.system_instruction}]}
    generation = _generation(request.parameters)
    if generation:
        body["generationConfig"] = generation
    return body


def _generation(parameters: Parameters) -> dict[str, float | int]:
    stated = {
        "temperature": parameters.temperature,
        "topP": parameters.top_p,
        "topK": parameters.top_k,
        "maxOutputTokens": parameters.max_output_tokens,
    }
    return {name: value for name, value in stated.items() if value is not None}
