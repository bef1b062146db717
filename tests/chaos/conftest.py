"""The ground that the chaos tests share: a server to be hurt, and a provider."""

from collections.abc import Iterator

import pytest

from fake_openrouter.client import FakeClient
from tests.chaos.__main__ import ground
from tests.chaos.node import ChaosNode


@pytest.fixture(scope="session")
def chaos_ground(
    rabbitmq_installed: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ChaosNode, FakeClient]]:
    with ground(tmp_path_factory.mktemp("chaos")) as made:
        yield made


@pytest.fixture
def chaos_node(chaos_ground: tuple[ChaosNode, FakeClient]) -> ChaosNode:
    return chaos_ground[0]


@pytest.fixture
def chaos_fake(chaos_ground: tuple[ChaosNode, FakeClient]) -> FakeClient:
    chaos_ground[1].reset()
    return chaos_ground[1]
