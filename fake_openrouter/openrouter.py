"""OpenRouter's form: https://openrouter.ai/docs/api-reference."""

import math
import re
import time
import uuid
from dataclasses import replace
from typing import Any

from starlette.requests import Request

from fake_openrouter.limits import Refusal
from fake_openrouter.provider import (
    PROCESSING,
    Answer,
    NotUnderstood,
    Question,
    as_events,
    as_json,
    count,
    event,
    said,
    words,
)
from fake_openrouter.script import Behaviour

_COST_OF_A_TOKEN = 0.000_002

_MESSAGES = {
    400: "Invalid request parameters",
    401: "User not found.",
    402: "Insufficient credits. Add more using https://openrouter.ai/settings/credits",
    403: "This key may not do this",
    404: "No endpoints found for this model.",
    408: "Request timed out",
    413: "Request too large",
    429: "Rate limit exceeded",
    500: "Internal Server Error",
    502: "The provider gave no valid answer",
    503: "No provider is available",
    504: "The provider took too long",
    524: "The provider took too long",
    529: "The provider is overloaded",
}


class OpenRouter:
    """POST /chat/completions."""

    def key(self, request: Request) -> str:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""

    def question(self, request: Request, body: Any) -> Question:  # noqa: ARG002  (Gemini reads the path)
        if not isinstance(body, dict):
            raise NotUnderstood("The body is no JSON object")
        model, messages = body.get("model"), body.get("messages")
        if not isinstance(model, str) or not model:
            raise NotUnderstood("model: a name is needed")
        if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
            raise NotUnderstood("messages: a list of messages is needed")
        texts = [(each.get("role"), _text(each.get("content"))) for each in messages]
        users = [text for role, text in texts if role == "user"]
        whole = "\n".join(text for _, text in texts)
        return Question(model, users[-1] if users else "", whole, streams=body.get("stream") is True)

    def answer(self, question: Question, behaviour: Behaviour) -> Answer:
        generation = f"gen-{uuid.uuid4().hex}"
        headers = {"X-Generation-Id": generation}
        fault = {"code": behaviour.status or 502, "message": "Provider returned error", "metadata": _UPSTREAM}
        if behaviour.error_in_200 == "top":
            return as_json(200, {"error": fault, "user_id": "user_fake"}, headers)
        text = said(question, behaviour)
        choice = _choice(None if behaviour.null_content else text, behaviour.finish_reason or "stop")
        if question.streams and not behaviour.empty_choices:
            fails = behaviour.error_in_200 == "choice"
            return _stream(question, choice, generation, fault=fault, fails=fails)
        if behaviour.error_in_200 == "choice":
            choice = {**_choice(text[: len(text) // 2], "error"), "error": fault}
        usage = _usage(question.text, text)
        content = {
            "id": generation,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": question.model,
            "provider": "Fake",
            "choices": [] if behaviour.empty_choices else [choice],
            "usage": usage,
        }
        return replace(as_json(200, content, headers), cost=usage["cost"])

    def error(self, status: int, message: str | None = None) -> Answer:
        text = message or _MESSAGES.get(status, f"Error {status}")
        body = {"error": {"code": status, "message": text, "metadata": None}, "user_id": "user_fake"}
        return as_json(status, body, {"X-Generation-Id": f"gen-{uuid.uuid4().hex}"})

    def limited(self, refusal: Refusal) -> Answer:
        hints = {
            "X-RateLimit-Limit": str(refusal.limit),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(math.ceil((time.time() + refusal.wait_s) * 1000)),
        }
        error = {"code": 429, "message": _MESSAGES[429], "metadata": {"headers": hints}}
        headers = {**hints, "Retry-After": str(math.ceil(refusal.wait_s))}
        return as_json(429, {"error": error, "user_id": "user_fake"}, headers)


_UPSTREAM = {"provider_name": "Fake", "raw": "overloaded"}


def key_info(key: str) -> dict[str, Any]:
    """GET /key: each key is of an account of its own, save that `…-of-<user>-…` names one."""
    named = re.search(r"-of-([a-z]+)-", key)
    return {
        "data": {
            "label": f"sk-or-v1-...{key[-4:]}",
            "limit": None,
            "limit_remaining": None,
            "limit_reset": None,
            "usage": 0.0,
            "usage_daily": 0.0,
            "is_free_tier": False,
            "creator_user_id": f"user_{named[1] if named else key[-4:]}",
            "expires_at": None,
        }
    }


def models() -> dict[str, Any]:
    """GET /models: one of them retires."""
    retiring = {"id": "google/gemini-2.5-flash", "name": "Gemini 2.5 Flash", "expiration_date": "2026-12-31"}
    staying = {"id": "google/gemini-3-flash", "name": "Gemini 3 Flash", "expiration_date": None}
    return {"data": [retiring, staying]}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _choice(content: str | None, finish_reason: str) -> dict[str, Any]:
    return {
        "index": 0,
        "message": {"role": "assistant", "content": content, "refusal": None},
        "finish_reason": finish_reason,
        "native_finish_reason": finish_reason.upper(),
    }


def _stream(
    question: Question, choice: dict[str, Any], generation: str, *, fault: dict[str, Any], fails: bool
) -> Answer:
    """The same in chunks; the usage comes with the last one, an error with a chunk of its own.

    https://openrouter.ai/docs/api-reference/streaming
    """
    text = choice["message"]["content"] or ""
    same = {"id": generation, "object": "chat.completion.chunk", "created": int(time.time()), "model": question.model}

    def chunk(content: str, reason: str | None = None, **more: Any) -> bytes:
        native = reason and reason.upper()
        delta = {"role": "assistant", "content": content}
        said = {"index": 0, "delta": delta, "finish_reason": reason, "native_finish_reason": native, "logprobs": None}
        return event({**same, "provider": "Fake", "choices": [said], **more})

    said = [chunk(word) for word in words(text)]
    said[0] = PROCESSING + said[0]
    reason = choice["finish_reason"]
    usage = _usage(question.text, text)
    end = [chunk("", reason), chunk("", reason, usage=usage), event("[DONE]")]
    error = chunk("", "error", error=fault)
    events = [*said[: len(said) // 2], error] if fails else [*said, *end]
    answer = as_events(events, error, {"X-Generation-Id": generation})
    return replace(answer, cost=None if fails else usage["cost"])


def _usage(asked: str, answered: str) -> dict[str, Any]:
    prompt_tokens, completion_tokens = count(asked), count(answered)
    total = prompt_tokens + completion_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": total,
        "cost": round(total * _COST_OF_A_TOKEN, 9),
        "completion_tokens_details": {"reasoning_tokens": 0},
        "prompt_tokens_details": {"cached_tokens": 0},
    }
