"""A node for one command, on a machine that may have no RabbitMQ yet."""

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dev.launcher import ROOT
from dev.rabbitmq.node import Node
from dev.rabbitmq.programs import install


@contextmanager
def private_node() -> Iterator[Node]:
    """A node of our own on free ports; gone afterwards, with all that is in it. Raises Failed."""
    install()
    print("RabbitMQ: starting a private server", file=sys.stderr, flush=True)
    with Node(ROOT / ".rabbitmq" / f"gemini-{secrets.token_hex(4)}").started() as node:
        yield node
