"""What every peer does to a request: check it, ask the provider, make an envelope of the answer."""

import json
import os
import time
from datetime import UTC, datetime
from typing import Any

URL = os.environ["OPENROUTER_BASE_URL"] + "/chat/completions"
HEADERS = {"Authorization": "Bearer sk-or-v1-benchmark", "Content-Type": "application/json"}


def question(body: bytes | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request in `body`, and what the provider is asked."""
    request = json.loads(body)
    if not isinstance(request["request_id"], str) or not request["prompt"].strip():
        raise ValueError("not a request")
    messages = [{"role": "user", "content": request["prompt"]}]
    return request, {"model": "google/gemini-2.5-flash", "messages": messages, "max_tokens": 8192, "stream": False}


def envelope(request: dict[str, Any], answer: dict[str, Any], started: float) -> bytes:
    return json.dumps(
        {
            "request_id": request["request_id"],
            "status": "success",
            "content": answer["choices"][0]["message"]["content"],
            "usage": answer["usage"],
            "model_used": answer["model"],
            "processing_time_ms": round((time.monotonic() - started) * 1000),
            "timestamp": datetime.now(UTC).isoformat(),
        }
    ).encode()
