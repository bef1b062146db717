"""A stack of its own for each system test: RabbitMQ's virtual host, a provider, a folder."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from dev.rabbitmq import Server
from dev.stack import Stack
from fake_openrouter.client import FakeClient, running

#: How much shorter the provider's window is than ours, in seconds. On a crowded machine a call can reach it so much
#: later than it was granted, and the next one for the same place in the window can be on time.
LATE_S = 1.0

MakeStack = Callable[..., tuple[Stack, FakeClient]]

KEYS = ("sk-or-v1-key-one-1111", "sk-or-v1-key-two-2222", "sk-or-v1-key-three-3333")


@pytest.fixture
def stack_at(tmp_path: Path) -> Iterator[MakeStack]:
    """Makes a stack on a RabbitMQ URL; everything that it started ends with the test."""
    with ExitStack() as cleanup:
        yield partial(new_stack, cleanup, tmp_path)


@pytest.fixture
def make_stack(vhost_url: str, stack_at: MakeStack) -> MakeStack:
    """Makes a stack on a fresh virtual host of the shared test server, which outlives it."""
    return partial(stack_at, vhost_url)


@pytest.fixture(scope="module")
def running_stack(
    rabbitmq_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stack, FakeClient]]:
    """A stack that runs with its defaults, shared by tests of one file that tell their requests apart."""
    with ExitStack() as cleanup:
        url = cleanup.enter_context(rabbitmq_server.fresh_vhost())
        stack, fake = new_stack(
            cleanup,
            tmp_path_factory.mktemp("stack"),
            url,
            OPENROUTER_SITE_URL="https://example.org",
            OPENROUTER_SITE_NAME="Example",
            UPSTREAM_RETRY_DELAYS="0.1,0.2",
        )
        stack.start_worker()
        yield stack, fake


def new_stack(
    cleanup: ExitStack,
    folder: Path,
    url: str,
    *,
    keys: int = 1,
    per_minute: int = 1000,
    window: float = 60.0,
    late: float = LATE_S,
    **settings: object,
) -> tuple[Stack, FakeClient]:
    fake = cleanup.enter_context(running(keys=KEYS[:keys], per_minute=per_minute, window=window - late))
    stack = Stack.apart(
        url,
        fake.base_url,
        folder,
        OPENROUTER_API_KEYS=",".join(KEYS[:keys]),
        KEYS_MAX_PER_MINUTE=per_minute,
        KEYS_WINDOW_SECONDS=window,
        **settings,
    )
    cleanup.callback(stack.close)
    return stack, fake
