"""Keys and passwords in memory: what a debugger, a crash report or a careless log line would show of them."""

import pickle
import pprint
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import Topology
from gateway.resources import Resources
from gateway.secrets import ApiKey, mask
from gateway.settings import load_settings
from gateway.stores.redis_server import RedisServer

OURS = ("actors", "bridge", "gateway", "middleware")


@pytest.fixture
def resources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Resources]:
    """Everything that a worker opens and that needs nobody else, with "canary" in each secret."""
    monkeypatch.chdir(tmp_path)  # where there is no .env
    for name, value in {
        "OPENROUTER_API_KEYS": "main=canary-key-one-1111,canary-key-two-2222",
        "RABBITMQ_URL": "amqp://user:canary%2Fpassword@rabbitmq.invalid/",
        "HTTP_PROXY": "http://user:canary-proxy@proxy.invalid:3128",
        "SENTRY_DSN": "https://canary@sentry.invalid/1",
        "STATE_PATH": str(tmp_path / "state.sqlite3"),
    }.items():
        monkeypatch.setenv(name, value)
    opened = Resources()
    settings = opened.settings.open(load_settings())
    opened.topology.open(Topology(settings))
    opened.publisher.open(Publisher(settings.rabbitmq_url.get_secret_value(), name="test"))
    opened.open_provider()
    yield opened
    opened.close(1)


def test_nothing_that_a_worker_holds_shows_a_secret(resources: Resources):
    """S3, S7: repr, str and vars of the resources and of every object of ours that can be reached from there."""
    seen = list(reachable(resources))
    assert {"Resources", "Settings", "ApiKey", "KeyPool", "OpenRouter", "Publisher"} <= {
        type(one).__name__ for one in seen
    }
    assert [type(one).__name__ for one in seen if "canary" in shown(one)] == []


def test_a_redis_url_is_not_shown():
    """S7: the password is needed as long as there are connections to make."""
    server = RedisServer("redis://:canary@redis.invalid/0")
    assert [type(one).__name__ for one in reachable(server) if "canary" in shown(one)] == []


def test_a_leased_key_is_not_shown(resources: Resources):
    """S3: it is what travels through the middleware."""
    lease = resources.pool().acquire("vendor/model")
    assert "****1111" in shown(lease)
    assert "canary" not in shown(lease)


def test_a_key_is_its_last_four_characters_and_nothing_more():
    """S3: in every form of text, in a collection, in an f-string; a short one not even that."""
    key = ApiKey("canary-key-one-1111", label="main")
    assert (str(key), repr(key), f"{key}", "%s" % key) == ("****1111", "ApiKey(****1111)", "****1111", "****1111")  # noqa: UP031
    assert repr([key]) == "[ApiKey(****1111)]"
    assert mask("canary") == "****"
    assert key.reveal() == "canary-key-one-1111"


def test_a_key_is_not_serialised():
    """S3: no pickle, and so no copy of it in another process, has the value."""
    with pytest.raises(TypeError, match="not serialised"):
        pickle.dumps(ApiKey("canary-key-one-1111"))


def reachable(root: object) -> Iterator[Any]:
    """`root` and what can be reached from it through attributes and collections, as long as it is of our packages."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, list | tuple | set | frozenset):
            waiting += thing
        elif type(thing).__module__.partition(".")[0] in OURS:
            yield thing
            waiting += attributes(thing).values()


def attributes(thing: object) -> dict[str, Any]:
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return {**getattr(thing, "__dict__", {}), **{name: getattr(thing, name) for name in slots if hasattr(thing, name)}}


def shown(thing: object) -> str:
    """What a person could be shown of it."""
    return f"{thing!r} {thing} {attributes(thing)} {pprint.pformat(attributes(thing))}"
