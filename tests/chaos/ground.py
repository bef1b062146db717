"""What all rounds and all cells share: a RabbitMQ to be hurt, and a provider."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fake_openrouter.client import FakeClient, running
from tests.chaos.node import ChaosNode
from tests.chaos.round import KEYS, PER_WINDOW, WINDOW_S

#: How many servers are tried: a port that was free a moment ago can be somebody else's when RabbitMQ comes to it.
TRIES = 3


@contextmanager
def ground(folder: Path) -> Iterator[tuple[ChaosNode, FakeClient]]:
    """A server and a provider of the harness's own, which end with it."""
    with ExitStack() as cleanup:
        fake = cleanup.enter_context(running(keys=KEYS, per_minute=PER_WINDOW, window=WINDOW_S))
        node = _server(folder)
        cleanup.callback(node.stop, keep=False)
        yield node, fake


def _server(folder: Path) -> ChaosNode:
    for number in range(1, TRIES + 1):
        with ExitStack() as undo:
            node = ChaosNode(folder / f"rabbitmq-{number}")
            undo.callback(node.stop, keep=False)
            try:
                node.start_server()
            except Exception:
                if number == TRIES:
                    raise
                continue
            undo.pop_all()
            return node
    raise AssertionError("the last try returns or raises")
