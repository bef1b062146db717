"""Policies that would lose messages: judged by what they set and where, on rows as the management API gives them."""

import logging
from typing import Any

import pytest

from dev.rabbitmq import Server, vhost_of
from gateway.rabbitmq.vhost_policies import lossy, warn

QUEUES = ("gemini.generate", "gemini.generate.delay.60s", "gemini.callbacks")


def policy(pattern: str = "^gemini", **definition: object) -> dict[str, Any]:
    return {"name": "p", "pattern": pattern, "apply-to": "queues", "definition": definition}


@pytest.mark.parametrize(
    "definition",
    [
        {"message-ttl": 1000},
        {"expires": 1000},
        {"max-length": 10},
        {"max-length-bytes": 10, "overflow": "drop-head"},
        {"message-ttl": 1000, "max-length": 10, "overflow": "reject-publish"},
    ],
)
def test_what_loses_messages_is_named(definition: dict[str, object]):
    """F26: with the policy, what it sets, and a queue that it hits."""
    (sentence,) = lossy([policy(**definition)], QUEUES)
    assert sentence.startswith(f"The policy p sets {next(iter(definition))}")
    assert "gemini.generate (3 queues)" in sentence


@pytest.mark.parametrize(
    "row",
    [
        policy("^other", **{"message-ttl": 1000}),
        policy(**{"max-length": 10, "overflow": "reject-publish"}),
        policy(**{"queue-leader-locator": "balanced"}),
        {**policy(**{"message-ttl": 1000}), "apply-to": "exchanges"},
        {"name": "odd"},
        {"name": "odd", "pattern": 7, "definition": []},
    ],
)
def test_what_loses_nothing_is_not(row: dict[str, Any]):
    """Another's queues, a limit that refuses, settings of other kinds; and rows of no form."""
    assert lossy([row], QUEUES) == []


def test_a_pattern_that_python_cannot_read_is_compared_as_a_text():
    assert lossy([policy("gemini.generate(", expires=1)], ["gemini.generate(", "other"]) != []


def test_a_name_cannot_forge_a_line():
    (sentence,) = lossy([{**policy(expires=1), "name": "a\nb"}], QUEUES)
    assert "\n" not in sentence


@pytest.mark.rabbitmq
def test_a_bridge_names_what_it_finds(rabbitmq_server: Server, vhost_url: str, caplog: pytest.LogCaptureFixture):
    """F26, on a real management API: ordinary and operator policies, by name."""
    caplog.set_level(logging.INFO)
    vhost = vhost_of(vhost_url)
    for kind, name in (("policies", "short"), ("operator-policies", "shorter")):
        body = {"pattern": "^gemini[.]generate", "definition": {"message-ttl": 1000}, "apply-to": "queues"}
        rabbitmq_server.api("PUT", f"{kind}/{vhost}/{name}", body)
    warn(vhost_url, f"{rabbitmq_server.management_url}/", QUEUES)
    assert [record.getMessage().split()[2] for record in caplog.records] == ["short", "shorter"]


@pytest.mark.rabbitmq
def test_an_api_that_refuses_or_is_away_is_said_and_harms_nothing(
    rabbitmq_server: Server, vhost_url: str, caplog: pytest.LogCaptureFixture
):
    """Without the password."""
    caplog.set_level(logging.INFO)
    wrong = vhost_url.replace("guest:guest", "guest:canary-password")
    warn(wrong, rabbitmq_server.management_url, QUEUES)
    warn(vhost_url, "http://127.0.0.1:1", QUEUES)
    texts = [record.getMessage() for record in caplog.records]
    assert "answered 401" in texts[0]
    assert "gives no answer" in texts[-1]
    assert "canary-password" not in caplog.text
