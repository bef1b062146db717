"""Which RabbitMQ a command uses: that of RABBITMQ_URL as it is, else a private one."""

import logging
from contextlib import ExitStack
from urllib.parse import urlsplit

from dev.backend import Backend
from dev.ending import Failed
from dev.rabbitmq.private import private_node


def usable(url: str | None, cleanup: ExitStack) -> str:
    """This URL, where RabbitMQ answers; without one that of a node that lasts until `cleanup`. Raises Failed."""
    if not url:
        private = cleanup.enter_context(private_node()).url
        print(f"RabbitMQ   {private}, a private one: it ends with this command, with all that is in it")
        return private
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # we say ourselves that RabbitMQ does not answer
    if not Backend(url).is_let_in():
        raise Failed(
            f"RabbitMQ at {_shown(url)} (RABBITMQ_URL) does not answer, or does not let us in: start it, correct "
            "the URL, or leave it empty to have a private one started"
        )
    print(f"RabbitMQ   {_shown(url)}, as it is")
    return url


def nobody_reads(url: str, *queues: str) -> None:
    """Return where nobody consumes these queues: two workers would answer each other's requests. Raises Failed."""
    _refuse("somebody reads", url, [queue for queue in queues if Backend(url).consumers(queue)])


def nothing_waits(url: str, *queues: str) -> None:
    """Return where these queues are empty, or do not exist: what waits there is for somebody else. Raises Failed."""
    _refuse("something waits in", url, [queue for queue in queues if Backend(url).depth(queue)])


def _refuse(reason: str, url: str, queues: list[str]) -> None:
    if queues:
        raise Failed(
            f"{reason} {' and '.join(queues)} of {_shown(url)} (RABBITMQ_URL), which must not be mixed with this: name "
            "another virtual host, or leave RABBITMQ_URL empty to have a private server started"
        )


def _shown(url: str) -> str:
    """Where a URL leads, without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
