"""The backend of the demo: sends a request, and reads its answer from the callback queue."""

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pika
from _stack import Stack, undisturbed

ANSWER_TIMEOUT_S = 150.0

#: A line of honcho: time, process, and our log line with its request id.
LINE = re.compile(r"^\S+ (?P<process>\w+)\.\d+ +\| \S+ \S+ - \S+ - \w+ - \[(?P<request_id>[^\]]+)\] (?P<text>.*)$")


def ask(stack: Stack, url: str, request: dict[str, Any], *, on_log: Callable[[str, str], None]) -> dict[str, Any]:
    """Publish a request, confirmed, and return its envelope; `on_log` gets process and text of its log lines.

    Raises Failed.
    """
    settled = threading.Event()

    def tell(line: str) -> None:
        found = LINE.match(line)
        if found is None or found["request_id"] != request["request_id"]:
            return
        on_log(found["process"], found["text"])
        if found["text"].startswith("Settled: answered"):
            settled.set()

    stack.follow(tell)
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare("gemini.requests", durable=True)
        channel.queue_declare(request["callback_queue"], durable=True)
        channel.confirm_delivery()
        properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        channel.basic_publish("", "gemini.requests", json.dumps(request).encode(), properties, mandatory=True)
        answers: list[dict[str, Any]] = []

        def answered() -> bool:
            with undisturbed():
                _method, _properties, body = channel.basic_get(request["callback_queue"], auto_ack=True)
            if body is not None:
                answers.append(json.loads(body))
            return bool(answers)

        stack.wait_until(answered, ANSWER_TIMEOUT_S, "no answer came")
    settled.wait(2.0)  # its last log line may still be on its way
    return answers[0]
