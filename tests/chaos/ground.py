"""What all rounds and all cells share: a RabbitMQ to be hurt, and a provider."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fake_openrouter.client import FakeClient, running
from tests.chaos.node import ChaosNode
from tests.chaos.round import KEYS, PER_WINDOW, WINDOW_S


@contextmanager
def ground(folder: Path) -> Iterator[tuple[ChaosNode, FakeClient]]:
    """A server and a provider of the harness's own, which end with it."""
    with (
        running(keys=KEYS, per_minute=PER_WINDOW, window=WINDOW_S) as fake,
        ChaosNode(folder / "rabbitmq").started() as node,
    ):
        yield node, fake
