"""Sends the README's example request through a worker and tells what happens; see script/demo."""

import argparse
import json
import os
import re
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dev import ending
from dev.ending import Failed, Stopped
from dev.launcher import Process
from dev.rabbitmq_url import nobody_reads, nothing_waits, usable
from dev.stack import Stack
from dev.waiting import wait_until
from fake_openrouter.client import FakeClient, running

KEYS = ("sk-or-v1-demo-key-0001", "sk-or-v1-demo-key-0002", "sk-or-v1-demo-key-0003")
PROMPT = "Explain in two sentences what a message queue is."
ANSWER_TIMEOUT_S = 150.0

#: Through which its requests and answers go.
QUEUES = ("gemini.requests", "gemini.generate", "gemini.responses")

#: The schedule of the demo, in place of 60, 600, 3600 and 86400 s.
WAITS = "2,4"

#: A line of the worker's log about a request.
LINE = re.compile(r"^\S+ \S+ - \S+ - \w+ - \[(?P<request_id>[^\]]+)\] (?P<text>.*)$")


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/demo")
    parser.add_argument("prompt", nargs="?", default=PROMPT)
    parser.add_argument("--real", action="store_true", help="use OpenRouter itself, with your keys")
    options = parser.parse_args()
    try:
        return ending.run("script/demo", lambda cleanup: demo(cleanup, options.prompt, real=options.real))
    except Stopped as stopped:
        print("\nStopped.", file=sys.stderr)
        return stopped.code


def demo(cleanup: ExitStack, prompt: str, *, real: bool) -> int:
    """Return when every request was answered with success; `cleanup` ends whatever was started. Raises Failed."""
    began = time.monotonic()
    # RABBITMQ_URL of .env is not used: it may be production.
    url = usable(os.environ.get("RABBITMQ_URL"), cleanup)
    nobody_reads(url, *QUEUES)
    nothing_waits(url, *QUEUES)
    folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="gemini-demo-")))
    fake = None if real else cleanup.enter_context(running(keys=KEYS, per_minute=20, window=60.0))
    if fake is None:
        print("Provider   OpenRouter itself, with your keys: this call is billed")
    else:
        print(f"Provider   a stand-in for OpenRouter at {fake.base_url}: nothing is paid")
    stack = real_stack(url, folder) if fake is None else fake_stack(url, fake, folder)
    cleanup.callback(stack.stop)
    print("Processes  those of the Procfile: ", end="", flush=True)
    worker = stack.start_worker()
    print(f"the worker is ready after {time.monotonic() - began:.1f} s")

    headline("A request and its answer")
    answer = send(stack, worker, example(prompt))
    if fake is not None:
        tell_calls(fake)
        tour(stack, worker, fake)
    print(f"\nDone in {time.monotonic() - began:.0f} s. The answer to your prompt:\n\n  {answer['content']}\n")
    return 0


def tour(stack: Stack, worker: Process, fake: FakeClient) -> None:
    """Show a rotation and a wait, with faults that the stand-in is told to make."""
    headline("A key at its limit: the provider says 429, the next key is used at once")
    fake.reset()
    fake.script([{"status": 429, "headers": {"Retry-After": "60"}, "times": 1}])
    send(stack, worker, example("What happens after a 429?"), show_request=False)
    tell_calls(fake)

    headline(f"Every key at its limit for 3 s: the request waits in RabbitMQ (schedule shortened to {WAITS} s)")
    fake.reset()
    limit = {"status": 429, "headers": {"Retry-After": "3"}, "times": 1}
    fake.script([{"key": key[-4:], **limit} for key in KEYS])
    send(stack, worker, example("What happens when no key is left?"), show_request=False)
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


def send(stack: Stack, worker: Process, request: dict[str, Any], *, show_request: bool = True) -> dict[str, Any]:
    """Publish a request, print what the log says about it, and return its success envelope. Raises Failed, TooLate."""
    if show_request:
        print(indented("-> gemini.requests", request))
    with stack.channel() as channel:
        channel.queue_declare(request["callback_queue"], durable=True)
    stack.publish(request)

    def answered() -> bool:
        ended = worker.ended
        texts = told(worker, request["request_id"])
        for text in texts:
            print(f"   worker  | {text}")
        if ended:
            raise Failed(f"the worker has ended. The last lines of the log:\n\n{worker.last_words()}", code=1)
        return any(text.startswith("Published response") for text in texts)

    wait_until(answered, timeout_s=ANSWER_TIMEOUT_S, pause_s=0.05, what="the answer")
    (answer,) = stack.answers(1, queue=request["callback_queue"])
    print(indented(f"<- {request['callback_queue']}", answer.envelope))
    if answer["status"] != "success":
        raise Failed(f"the answer is an error: {answer['error']}", code=1)
    return answer.envelope


def told(worker: Process, request_id: str) -> list[str]:
    """What the log says about a request, since the last time."""
    found = filter(None, map(LINE.match, worker.new_lines()))
    return [str(one["text"]) for one in found if one["request_id"] == request_id]


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


def fake_stack(url: str, fake: FakeClient, folder: Path) -> Stack:
    """With no key, no proxy, no Sentry of yours; in a folder without .env, which a worker reads as well."""
    schedule = {"QUEUE_RETRY_DELAYS": WAITS, "QUEUE_MAX_RETRIES": len(WAITS.split(","))}
    settings = {**_common(folder), **schedule, "OPENROUTER_API_KEYS": ",".join(KEYS)}
    return Stack.apart(url, fake.base_url, folder, cwd=folder, **settings)


def real_stack(url: str, folder: Path) -> Stack:
    return Stack({**os.environ, **_common(folder), "RABBITMQ_URL": url}, folder)


def _common(folder: Path) -> dict[str, str]:
    return {
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
