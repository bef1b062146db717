"""Gemini's form: https://ai.google.dev/api/generate-content."""

import math
from typing import Any

from starlette.requests import Request

from fake_openrouter.limits import Refusal
from fake_openrouter.provider import Answer, NotUnderstood, Question, as_events, as_json, count, event, said, words
from fake_openrouter.script import Behaviour

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Gemini:
    """POST /v1beta/models/{model}:generateContent, and :streamGenerateContent."""

    def key(self, request: Request) -> str:
        return request.headers.get("x-goog-api-key", "")

    def question(self, request: Request, body: Any) -> Question:
        contents = body.get("contents") if isinstance(body, dict) else None
        if not isinstance(contents, list) or not contents or not all(isinstance(each, dict) for each in contents):
            raise NotUnderstood("contents: a list of contents is needed")
        texts = [(each.get("role", "user"), _text(each)) for each in contents]
        users = [text for role, text in texts if role == "user"]
        system = _text(body.get("systemInstruction"))
        whole = "\n".join([system, *(text for _, text in texts)])
        streams = request.url.path.endswith(":streamGenerateContent")
        if streams and request.query_params.get("alt") != "sse":
            raise NotUnderstood("alt: this stand-in streams events only, alt=sse")
        return Question(request.path_params["model"], users[-1] if users else "", whole, streams=streams)

    def answer(self, question: Question, behaviour: Behaviour) -> Answer:
        if behaviour.error_in_200 is not None:
            return as_json(200, _error(behaviour.status or 503, "The model is overloaded."))
        text = said(question, behaviour)
        candidate = {
            "content": {"role": "model", "parts": [] if behaviour.null_content else [{"text": text}]},
            "finishReason": behaviour.finish_reason or "STOP",
            "index": 0,
        }
        asked, answered = count(question.text), count(text)
        usage = {"promptTokenCount": asked, "candidatesTokenCount": answered, "totalTokenCount": asked + answered}
        content: dict[str, Any] = {"usageMetadata": usage, "modelVersion": question.model}
        if question.streams and not behaviour.empty_choices:
            return _stream(content, candidate, text)
        if not behaviour.empty_choices:
            content["candidates"] = [candidate]
        return as_json(200, content)

    def error(self, status: int, message: str | None = None) -> Answer:
        if status == 401:  # an unknown key is a bad argument here
            info = {"@type": _type("ErrorInfo"), "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
            return as_json(400, _error(400, "API key not valid. Please pass a valid API key.", info))
        return as_json(status, _error(status, message or f"Error {status}"))

    def limited(self, refusal: Refusal) -> Answer:
        wait = {"@type": _type("RetryInfo"), "retryDelay": f"{math.ceil(refusal.wait_s)}s"}
        quota_id = "GenerateRequestsPerMinutePerProjectPerModel"
        quota = {
            "@type": _type("QuotaFailure"),
            "violations": [{"quotaId": quota_id, "quotaValue": str(refusal.limit)}],
        }
        return as_json(429, _error(429, "You exceeded your current quota.", quota, wait))


def _stream(content: dict[str, Any], candidate: dict[str, Any], text: str) -> Answer:
    """Each event is an answer of its own with the next piece; the last one says why the model has stopped."""
    pieces = [{"role": "model", "parts": [{"text": word}]} for word in words(text)]
    candidates: list[dict[str, Any]] = [{"content": piece, "index": 0} for piece in pieces]
    candidates[-1]["finishReason"] = candidate["finishReason"]
    return as_events(
        [event({**content, "candidates": [one]}) for one in candidates],
        event(_error(503, "The model is overloaded.")),
    )


def models() -> dict[str, Any]:
    """GET /models."""
    names = ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-3-flash")
    return {"models": [{"name": f"models/{name}", "displayName": name} for name in names]}


def _type(name: str) -> str:
    return f"type.googleapis.com/google.rpc.{name}"


def _error(status: int, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    name = _STATUSES.get(status, "UNKNOWN")
    return {"error": {"code": status, "message": message, "status": name, "details": list(details)}}


def _text(content: Any) -> str:
    parts = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(parts, list):
        return ""
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
