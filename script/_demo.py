"""Sends the README's example request through the running worker and tells what happens; see script/demo."""

import argparse
import io
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from _demo_backend import ask
from _stack import ROOT, Failed, Stack

from fake_openrouter.client import FakeClient, running

KEYS = ("sk-or-v1-demo-key-0001", "sk-or-v1-demo-key-0002", "sk-or-v1-demo-key-0003")
PROMPT = "Explain in two sentences what a message queue is."

#: The schedule of the demo, in place of 60, 600, 3600 and 86400 s.
WAITS = "2,4"


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/demo")
    parser.add_argument("prompt", nargs="?", default=PROMPT)
    parser.add_argument("--real", action="store_true", help="use OpenRouter itself, with your keys")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # step by step, into a pipe as well
    try:
        with ExitStack() as cleanup:
            try:
                demo(options.prompt, real=options.real, cleanup=cleanup)
            finally:
                _clean_up_undisturbed()
    except Failed as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


def _clean_up_undisturbed() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


def _leave(signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def demo(prompt: str, *, real: bool, cleanup: ExitStack) -> None:
    """Return when every request was answered with success; `cleanup` ends whatever was started."""
    began = time.monotonic()
    folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="gemini-demo-")))
    fake = None if real else cleanup.enter_context(running(keys=KEYS, per_minute=20, window=60.0))
    if fake is None:
        print("Provider   OpenRouter itself, with your keys: this call is billed")
    else:
        print(f"Provider   a stand-in for OpenRouter at {fake.base_url}: nothing is paid")
    # Settings are read from .env in the current folder as well: the demo with the stand-in keeps away from it.
    settings, cwd = (real_settings(folder), ROOT) if fake is None else (fake_settings(folder, fake), folder)
    stack = Stack(settings, cwd=cwd)
    cleanup.callback(stack.stop)
    print(f"RabbitMQ   {settings['RABBITMQ_URL'].rpartition('@')[2]}")
    print("Processes  those of the Procfile: ", end="", flush=True)
    stack.start()
    print(f"the worker is ready after {time.monotonic() - began:.1f} s")

    headline("A request and its answer")
    answer = send(stack, example(prompt))
    if fake is not None:
        tell_calls(fake)
        tour(stack, fake)
    print(f"\nDone in {time.monotonic() - began:.0f} s. The answer to your prompt:\n\n  {answer['content']}\n")


def tour(stack: Stack, fake: FakeClient) -> None:
    """Show a rotation and a wait, with faults that the stand-in is told to make."""
    headline("A key at its limit: the provider says 429, the next key is used at once")
    fake.reset()
    fake.script([{"status": 429, "headers": {"Retry-After": "60"}, "times": 1}])
    send(stack, example("What happens after a 429?"), show_request=False)
    tell_calls(fake)

    headline(f"Every key at its limit for 3 s: the request waits in RabbitMQ (schedule shortened to {WAITS} s)")
    fake.reset()
    limit = {"status": 429, "headers": {"Retry-After": "3"}, "times": 1}
    fake.script([{"key": key[-4:], **limit} for key in KEYS])
    send(stack, example("What happens when no key is left?"), show_request=False)
    tell_calls(fake)


def example(prompt: str) -> dict[str, Any]:
    """The README's example request."""
    return {
        "request_id": str(uuid.uuid4()),
        "prompt": prompt,
        "model": "gemini-pro",
        "parameters": {"temperature": 0.7, "top_p": 0.95, "top_k": 40, "max_output_tokens": 1024},
        "system_instruction": "You are a helpful assistant.",
        "metadata": {"user_id": 42},
        "callback_queue": "gemini.responses",
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "retry_count": 0,
    }


def send(stack: Stack, request: dict[str, Any], *, show_request: bool = True) -> dict[str, Any]:
    """Publish a request, print what the processes log about it, and return its success envelope. Raises Failed."""
    if show_request:
        print(indented("-> gemini.requests", request))
    url = os.environ["RABBITMQ_URL"]
    answer = ask(stack, url, request, on_log=lambda process, text: print(f"   {process:7}| {text}"))
    print(indented(f"<- {request['callback_queue']}", answer))
    if answer["status"] != "success":
        raise Failed(f"the answer is an error: {answer['error']}")
    return answer


def tell_calls(fake: FakeClient) -> None:
    """Print what the stand-in has seen."""
    for call in fake.calls():
        model = (call.get("body") or {}).get("model")
        print(f"   provider| {model} with key ****{call['key_last4']}: HTTP {call['status']}")


def indented(label: str, message: dict[str, Any]) -> str:
    text = json.dumps(message, indent=2, ensure_ascii=False)
    return "\n".join("   " + line for line in f"{label} {text}".splitlines())


def headline(text: str) -> None:
    print(f"\n== {text}")


def fake_settings(folder: Path, fake: FakeClient) -> dict[str, str]:
    """Settings of the demo and nothing of yours: no key, no proxy, no Sentry of the environment is used."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {
        **_common(folder),
        "OPENROUTER_API_KEYS": ",".join(KEYS),
        "OPENROUTER_BASE_URL": f"{fake.base_url}/api/v1",
        "QUEUE_RETRY_DELAYS": WAITS,
        "QUEUE_MAX_RETRIES": str(len(WAITS.split(","))),
    }


def real_settings(folder: Path) -> dict[str, str]:
    return {**os.environ, **_common(folder)}


def _common(folder: Path) -> dict[str, str]:
    return {
        "RABBITMQ_URL": os.environ["RABBITMQ_URL"],
        "REQUEST_QUEUE": "gemini.requests",
        "RESPONSE_QUEUE": "gemini.responses",
        "STATE_PATH": str(folder / "worker.sqlite3"),
        "LOG_LEVEL": "INFO",
        "LOG_FORMAT": "text",
        "WORKER_PROCESSES": "2",
        "WORKER_THREADS": "4",
    }


if __name__ == "__main__":
    sys.exit(main())
