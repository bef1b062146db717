"""What script/run tells: how to send a request, and where its answer is."""

import os
import shlex
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from dotenv import dotenv_values

from gateway.settings import Settings

GUIDE = """
To send a request, start .venv/bin/python in another terminal, in this folder, and paste:

import {imports}
connection = pika.BlockingConnection(pika.URLParameters({url}))
channel = connection.channel()
channel.confirm_delivery()
request = {{"request_id": str(uuid.uuid4()), "prompt": "What is a message queue?"}}
persistent = pika.BasicProperties(delivery_mode=2)
channel.basic_publish("", "{requests}", json.dumps(request), persistent, mandatory=True)
for method, _, body in channel.consume("{responses}"):
    if json.loads(body)["request_id"] == request["request_id"]:
        print(json.dumps(json.loads(body), indent=2))
        channel.basic_ack(method.delivery_tag)
        break

connection.close()

To see what the worker does, in another terminal, in this folder (gemini doctor, keys, waits, ask and failed as well):

{exported}.venv/bin/gemini status

Answers go to {responses}, or to the queue that a request names as its "callback_queue".
Ctrl-C ends everything. The log:
"""


def guide(url: str, settings: Settings, ours: Mapping[str, str] = MappingProxyType({})) -> str:
    """A few lines for a terminal, with a program that can be pasted; no password is in it.

    `ours` are settings of the worker that nobody has given, none of them a secret.
    """
    module, expression = _in_code(url)
    imports = ", ".join(sorted({"json", "pika", "uuid", module} - {""}))
    return GUIDE.format(
        url=expression,
        imports=imports,
        requests=settings.request_queue,
        responses=settings.response_queue,
        exported=_exported({**({"RABBITMQ_URL": url} if not module else {}), **ours}),
    )


def _exported(values: Mapping[str, str]) -> str:
    """For this command and the next ones of that terminal."""
    return f"export {shlex.join(f'{name}={value}' for name, value in values.items())}; " if values else ""


def _in_code(url: str) -> tuple[str, str]:
    """The URL as it stands in a program, and the module that it takes. One with a password is not shown."""
    parts = urlsplit(url)
    if parts.password in {None, parts.username}:  # guest:guest, which is no secret
        return "", f'"{url}"'
    for name in ("RABBITMQ_URL", "CLOUDAMQP_URL"):
        if os.environ.get(name):
            return "os", f'os.environ["{name}"]'
        if dotenv_values(".env").get(name):
            return "dotenv", f'dotenv.get_key(".env", "{name}")'
    raise LookupError("a URL that came from nowhere")
