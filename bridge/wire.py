"""The wire form of our Dramatiq messages: read strictly, because anyone who may publish can forge one."""

import json
from typing import Any

from dramatiq import Message
from dramatiq.encoder import Encoder, MessageData
from dramatiq.errors import DecodeError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.messages import Job, Reply, as_json
from gateway.rabbitmq.topology import CALLBACKS, WORK

#: What the only argument of each actor is. An actor that is not listed is not ours.
ARGUMENTS: dict[str, type[Job | Reply]] = {"generate": Job, "publish_success": Reply, "publish_error": Reply}

#: The queue of the actors that take it.
QUEUES: dict[type[Job | Reply], str] = {Job: WORK, Reply: CALLBACKS}


def work_message(job: Job) -> "Message[None]":
    """The message that has the actor `generate` work on a request."""
    return _message(WORK, "generate", job)


def callback_message(reply: Reply) -> "Message[None]":
    """The message that has an envelope published to its callback queue."""
    return _message(CALLBACKS, "publish_success" if reply.success else "publish_error", reply)


def _message(queue: str, actor: str, argument: Job | Reply) -> "Message[None]":
    return Message(queue_name=queue, actor_name=actor, args=(argument,), kwargs={}, options={})


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    queue_name: str = Field(max_length=255)
    actor_name: str = Field(max_length=255)
    args: list[dict[str, Any]] = Field(min_length=1, max_length=1)
    message_id: str = Field(min_length=1, max_length=64)
    message_timestamp: int = Field(ge=0)


class StrictEncoder(Encoder):
    """Decodes only messages of our own actors, with their argument as a validated model.

    Options and keyword arguments of an incoming message are dropped: ours have none, and Dramatiq obeys forged ones
    (`max_retries`, `on_success`, `eta`). A DecodeError names the fields at fault, never their values.
    """

    def encode(self, data: MessageData) -> bytes:
        args = [as_json(arg) if isinstance(arg, Job | Reply) else arg for arg in data["args"]]
        return json.dumps({**data, "args": args}, separators=(",", ":"), ensure_ascii=False).encode()

    def read(self, body: bytes, *, queue: str) -> Message[None]:
        """The message that lies in `queue`. Raises DecodeError, also for one that names or belongs into another queue.

        Dramatiq settles a message with the consumer of the queue that it names: a forged name kills a worker thread.
        """
        fields = self.decode(body)
        if fields["queue_name"] != queue:
            raise DecodeError("names another queue", b"", None)
        if QUEUES[type(fields["args"][0])] != queue:
            raise DecodeError("its actor is that of another queue", b"", None)
        return Message(**fields)

    def decode(self, data: bytes) -> MessageData:
        try:
            wire = _Wire.model_validate_json(data)
            argument = ARGUMENTS[wire.actor_name].model_validate(wire.args[0])
        except ValidationError as error:
            fields = ", ".join(sorted({".".join(map(str, e["loc"])) or "body" for e in error.errors()})[:5])
            raise DecodeError(f"not one of our messages: {fields}", b"", error) from None
        except KeyError as error:
            raise DecodeError("not one of our actors", b"", error) from None
        return {
            "queue_name": wire.queue_name,
            "actor_name": wire.actor_name,
            "args": (argument,),
            "kwargs": {},
            "options": {},
            "message_id": wire.message_id,
            "message_timestamp": wire.message_timestamp,
        }
