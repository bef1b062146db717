"""A stack of its own for each system test: RabbitMQ's virtual host, a provider, a folder."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fake_openrouter.client import FakeClient, running
from tests.system.stack import Stack

KEYS = ("sk-or-v1-key-one-1111", "sk-or-v1-key-two-2222", "sk-or-v1-key-three-3333")


@pytest.fixture
def stack_at(tmp_path: Path) -> Iterator[Callable[..., tuple[Stack, FakeClient]]]:
    """Makes a stack on a RabbitMQ URL; everything that it started ends with the test."""
    with ExitStack() as cleanup:

        def make(
            url: str, *, keys: int = 1, per_minute: int = 1000, window: float = 60.0, **settings: object
        ) -> tuple[Stack, FakeClient]:
            fake = cleanup.enter_context(running(keys=KEYS[:keys], per_minute=per_minute, window=window))
            stack = Stack(
                url,
                fake.base_url,
                tmp_path,
                OPENROUTER_API_KEYS=",".join(KEYS[:keys]),
                KEYS_MAX_PER_MINUTE=per_minute,
                KEYS_WINDOW_SECONDS=window,
                **settings,
            )
            cleanup.callback(stack.close)
            return stack, fake

        yield make


@pytest.fixture
def make_stack(
    stack_at: Callable[..., tuple[Stack, FakeClient]], vhost_url: str
) -> Callable[..., tuple[Stack, FakeClient]]:
    """Makes a stack on a fresh virtual host of the shared test server."""

    def make(**options: object) -> tuple[Stack, FakeClient]:
        return stack_at(vhost_url, **options)

    return make
