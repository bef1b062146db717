"""AMQP's request/reply: which addresses belong to a client that waits, and which of them are no queues.

    reply_to                        what it is                                      published
    amq.gen-…                       a queue with a name of RabbitMQ's own choice    mandatory, as anywhere
    amq.rabbitmq.reply-to.<token>   direct reply-to, as RabbitMQ has rewritten it   not so, when its client is there
    exchange/routing-key            Spring's form of an address                     never: only queues are answered
    /name                           the same for the default exchange: a queue      mandatory

No name that begins with `amq.` can be declared: a client that has left never leaves a queue behind.
https://www.rabbitmq.com/docs/direct-reply-to
"""

#: What a client writes; RabbitMQ puts a token behind it when it takes the request.
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"

_SERVER_NAMED = "amq.gen-"


def is_direct(address: str) -> bool:
    """Whether it is a direct reply-to that RabbitMQ has rewritten: a client's channel, and no queue."""
    return address.startswith(f"{DIRECT_REPLY_TO}.")


def is_of_a_client(address: str) -> bool:
    """Whether only the client that waits can have made it."""
    return is_direct(address) or address.startswith(_SERVER_NAMED)


def queue_of(reply_to: str) -> str | None:
    """The queue that the property `reply_to` names, None where it names an exchange."""
    if is_direct(reply_to):  # a token may have a slash
        return reply_to
    name = reply_to.removeprefix("/")
    return None if "/" in name else name
