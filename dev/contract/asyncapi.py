"""asyncapi.yaml: the queues, who publishes what into which, and the AMQP properties; AsyncAPI 3.0."""

from typing import Any

import yaml

from dev.contract.schemas import DRAFT
from gateway.rabbitmq.topology import CANCELS
from gateway.settings import Settings

HEAD = "# Written by script/contract from gateway/messages.py: change it there, or in dev/contract/asyncapi.py.\n"

_TEXT = {"type": "string"}
_PERSISTENT = {"content_type": {"const": "application/json"}, "delivery_mode": {"const": 2}}
_MADE = {"timestamp": {"type": "integer", "description": "Epoch seconds. expires_in_s and expiration count from it."}}
_ASKED = {
    "correlation_id": _TEXT | {"description": "Comes back as it came. Stands in for request_id."},
    "message_id": _TEXT | {"description": "Stands in for request_id where there is no correlation_id."},
    "reply_to": _TEXT | {"description": "A queue, or amq.rabbitmq.reply-to. Stands in for callback_queue."},
    "expiration": _TEXT | {"description": "Milliseconds: a deadline, and RabbitMQ's own for what it still has."},
    "priority": {"type": "integer", "description": "1 to 3: batch. For a request without the field priority."},
}
_ANSWERED = {
    "correlation_id": _TEXT | {"description": "As it came with the request, else the request_id."},
    "app_id": {"const": "gemini-openrouter-worker"},
    "timestamp": {"type": "integer"},
}
_COPY = {"message_id": _TEXT | {"description": "The same for every copy of one envelope: drop what has been read."}}

#: Each message with its file, its AMQP `type` where it has one, and its properties.
_MESSAGES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "request": ("A prompt or a conversation, and how to answer it.", None, _PERSISTENT | _ASKED | _MADE),
    "cancel": ("Takes a request back.", None, _PERSISTENT),
    "delta": ("A piece of an answer; nothing is promised of it.", "gemini.delta", _ANSWERED),
    "success": ("The answer.", "gemini.success", _PERSISTENT | _ANSWERED | _COPY),
    "error": ("Why there is no answer.", "gemini.error", _PERSISTENT | _ANSWERED | _COPY),
}


def asyncapi() -> str:
    """The file, with references to the schemas beside it."""
    settings = Settings.model_fields
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "gemini-openrouter-worker",
            "version": "0.1.0",
            "description": "Takes prompts from RabbitMQ, calls Gemini models through OpenRouter, answers on a callback "
            "queue. Operations are the worker's: what it receives, a backend publishes to the default exchange, "
            "persistent, mandatory and with publisher confirms.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "requests": _queue(settings["request_queue"].default, "Requests, and cancels.", ["request", "cancel"]),
            "cancels": _queue(CANCELS, "Cancels that overtake the requests.", ["cancel"]),
            "answers": _queue(
                settings["response_queue"].default,
                "Where answers go by default: callback_queue or reply_to of a request name another queue.",
                ["delta", "success", "error"],
            ),
        },
        "operations": {
            "receiveRequest": _receive("requests", ["request"])
            | {
                "reply": {
                    "channel": {"$ref": "#/channels/answers"},
                    "messages": [{"$ref": f"#/channels/answers/messages/{name}"} for name in ("success", "error")],
                }
            },
            "receiveCancel": _receive("requests", ["cancel"]),
            "receiveCancelAtOnce": _receive("cancels", ["cancel"]),
            "sendEnvelope": _send(["success", "error"], delivery_mode=2),
            "sendDelta": _send(["delta"], delivery_mode=1),
        },
        "components": {"messages": {name: _message(name, *said) for name, said in _MESSAGES.items()}},
    }
    return HEAD + yaml.dump(document, Dumper=_WithoutAnchors, sort_keys=False, allow_unicode=True, width=120)


class _WithoutAnchors(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - yaml decides the signature
        return True


def _queue(name: Any, description: str, messages: list[str]) -> dict[str, Any]:
    return {
        "address": name,
        "description": description,
        "messages": {one: {"$ref": f"#/components/messages/{one}"} for one in messages},
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {"name": name, "durable": True, "exclusive": False, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _receive(channel: str, messages: list[str]) -> dict[str, Any]:
    bindings = {"amqp": {"ack": True, "bindingVersion": "0.3.0"}}
    return {"action": "receive"} | _over(channel, messages) | {"bindings": bindings}


def _send(messages: list[str], *, delivery_mode: int) -> dict[str, Any]:
    bindings = {"amqp": {"deliveryMode": delivery_mode, "mandatory": True, "bindingVersion": "0.3.0"}}
    return {"action": "send"} | _over("answers", messages) | {"bindings": bindings}


def _over(channel: str, messages: list[str]) -> dict[str, Any]:
    return {
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{one}"} for one in messages],
    }


def _message(name: str, summary: str, kind: str | None, properties: dict[str, Any]) -> dict[str, Any]:
    amqp = {"messageType": kind} if kind else {}
    typed = {"type": {"const": kind}} if kind else {}
    return {
        "name": name,
        "summary": summary,
        "contentType": "application/json",
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-07",
            "schema": {"$ref": f"./{name}.schema.json"},
        },
        "bindings": {"amqp": {"contentEncoding": "utf-8", **amqp, "bindingVersion": "0.3.0"}},
        "x-amqp-properties": {"$schema": DRAFT, "type": "object", "properties": typed | properties},
    }
