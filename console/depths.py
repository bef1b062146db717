"""How many messages lie in a queue, asked without taking one: a passive declare."""

from dataclasses import dataclass
from typing import Any

from pika.exceptions import ChannelClosedByBroker

from gateway.errors import TopologyError

_NOT_FOUND = 404


@dataclass(frozen=True)
class Depth:
    """What is ready in a queue, and how many consume it."""

    messages: int
    consumers: int


def depth(connection: Any, queue: str) -> Depth | None:
    """None for a queue that does not exist. Raises TopologyError when we may not look."""
    channel = connection.channel()
    try:
        found = channel.queue_declare(queue, passive=True).method
        return Depth(int(found.message_count), int(found.consumer_count))
    except ChannelClosedByBroker as error:
        if error.reply_code == _NOT_FOUND:
            return None
        raise TopologyError(f"RabbitMQ does not let us look into {queue}: {error.reply_text}") from None
    finally:
        if channel.is_open:
            channel.close()
