"""The queues: what they are called, how they are declared, and where no answer may go."""

import re
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from dev.rabbitmq import Server
from gateway.errors import TopologyError
from gateway.lanes import Lane
from gateway.rabbitmq import amqp
from gateway.rabbitmq.topology import BATCH, CALLBACKS, DEAD_WORK, FAIR_QUEUES, HOMES, WORK, Topology


@dataclass(frozen=True)
class Names:
    """The settings that name queues."""

    request_queue: str = "gemini.requests"
    response_queue: str = "gemini.responses"
    queue_retry_delays: tuple[float, ...] = (60.0, 0.5, 86400.0)
    upstream_retry_delays: tuple[float, ...] = (0.2, 60.0)
    callback_queue_pattern: str | None = None
    callback_queue_create: bool = False
    fairness_field: str | None = None


TOPOLOGY = Topology(Names())

#: One that makes the callback queues of others.
MAKER = Topology(Names(callback_queue_create=True))

#: One with queues for turns.
FAIR = Topology(Names(fairness_field="tenant"))


def connect(url: str) -> pika.BlockingConnection:
    return amqp.connect(amqp.parameters(url, name="test"), deadline_s=60)


def test_a_wait_is_in_its_queue_name():
    """A changed schedule makes new queues instead of colliding with the old ones (F25)."""
    assert TOPOLOGY.key_waits[Lane.INTERACTIVE] == (
        "gemini.generate.delay.0.5s",
        "gemini.generate.delay.60s",
        "gemini.generate.delay.86400s",
    )
    assert TOPOLOGY.key_waits[Lane.BATCH][0] == "gemini.batch.delay.0.5s"
    assert TOPOLOGY.upstream_wait(60.0) == "gemini.generate.backoff.60s"
    assert TOPOLOGY.upstream_wait(60.0, Lane.BATCH) == "gemini.batch.backoff.60s"


def test_each_lane_waits_on_its_own_side():
    """What comes back from a wait of the batch lane does not come back among the interactive ones."""
    for name, queue in FAIR.ours.items():
        if re.search(r"\.(delay|backoff|fair)\.", name) and not name.startswith(CALLBACKS):
            home = BATCH if name.startswith(BATCH) else WORK
            assert queue.arguments["x-dead-letter-routing-key"] == home, name


def test_without_a_field_of_fairness_only_batch_is_sorted():
    """And there are no queues for it."""
    assert TOPOLOGY.entry(Lane.INTERACTIVE, "acme") is None
    assert TOPOLOGY.entry(Lane.BATCH, "acme") == BATCH
    assert not [name for name in TOPOLOGY.ours if ".fair." in name]


@pytest.mark.parametrize("lane", list(Lane))
def test_with_it_a_tag_has_one_queue_in_every_process(lane: Lane):
    """By its text, and not by a hash that each process has its own of; who has none is one tag."""
    assert FAIR.entry(lane, "acme") == f"{HOMES[lane]}.fair.6"
    assert FAIR.entry(lane, None) == FAIR.entry(lane, "")
    assert {FAIR.entry(lane, str(number)) for number in range(100)} == set(FAIR.fair_queues[lane])
    assert len(FAIR.fair_queues[lane]) == FAIR_QUEUES
    assert set(FAIR.fair_queues[lane]) <= set(FAIR.ours)


@pytest.mark.parametrize("name", list(FAIR.ours))
def test_every_queue_of_ours_has_an_explicit_type_and_a_positive_limit(name: str):
    """F54: the defaults of both differ between RabbitMQ 3.10 and 4.x."""
    arguments = FAIR.ours[name].arguments
    assert arguments["x-queue-type"] == "quorum"
    assert arguments["x-delivery-limit"] > 0


@pytest.mark.parametrize("name", [n for n in FAIR.ours if not n.endswith(".dead")])
def test_what_is_dead_lettered_is_confirmed_first(name: str):
    """At-least-once, which RabbitMQ grants only together with reject-publish."""
    arguments = FAIR.ours[name].arguments
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
    assert arguments["x-overflow"] == "reject-publish"
    assert arguments["x-dead-letter-routing-key"] in FAIR.ours


@pytest.mark.parametrize("name", [n for n in TOPOLOGY.ours if n.endswith(".dead")])
def test_nothing_vanishes_from_a_dead_queue(name: str):
    """No time to live, no length limit."""
    assert set(TOPOLOGY.ours[name].arguments) == {"x-queue-type", "x-delivery-limit"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gemini.requests",
        "gemini.requests.dead",
        WORK,
        f"{WORK}.delay.60s",
        f"{WORK}.backoff.2s",
        DEAD_WORK,
        CALLBACKS,
        f"{CALLBACKS}.delay.5s",
        "amq.direct",
        "amq.rabbitmq.trace",
        "amq.rabbitmq.reply-to",
        "é" * 128,
        "a\nb",
        "a\x1b[31m",
        "a\u2028b",
        "\ud800",
    ],
)
def test_no_answer_goes_into_a_queue_that_is_ours_or_reserved(name: str):
    """S1, S6: no loop, no forged log line."""
    assert TOPOLOGY.refusal(name) is not None


@pytest.mark.parametrize(
    "name",
    ["gemini.responses", "my.answers", "gemini.generated", "é" * 127, "amq.gen-x", "amq.rabbitmq.reply-to.g1h2/A=="],
)
def test_any_other_queue_may_be_answered(name: str):
    """A prefix counts only up to a dot."""
    assert TOPOLOGY.refusal(name) is None


def test_a_pattern_narrows_where_answers_may_go():
    """CALLBACK_QUEUE_PATTERN has to fit the whole name."""
    topology = Topology(Names(callback_queue_pattern=r"answers\.\w+"))
    assert topology.refusal("answers.a") is None
    assert topology.refusal("answers.a.b") is not None
    assert topology.refusal("amq.gen-x") is not None


@pytest.mark.rabbitmq
def test_declaring_twice_changes_nothing(vhost_url: str):
    """Every worker does it at boot."""
    with closing(connect(vhost_url)) as connection:
        TOPOLOGY.declare(connection)
        TOPOLOGY.declare(connection)
        channel = connection.channel()
        for name in [*TOPOLOGY.ours, "gemini.requests", "gemini.responses"]:
            channel.queue_declare(name, passive=True)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("name", ["gemini.requests", "gemini.responses"])
@pytest.mark.parametrize(
    "form",
    [
        {"arguments": {"x-queue-type": "quorum"}},
        {"arguments": {"x-queue-type": "quorum", "x-delivery-limit": 3, "x-max-length": 7}},
        {"arguments": {"x-queue-type": "stream"}},
        {"arguments": {"x-max-length": 7, "x-overflow": "reject-publish", "x-message-ttl": 60_000}},
        {"arguments": {"x-max-priority": 5, "x-single-active-consumer": True}},
        {"durable": False},
        {"durable": False, "auto_delete": True},
    ],
    ids=str,
)
def test_a_shared_queue_that_exists_is_used_as_it_is(vhost_url: str, name: str, form: dict[str, Any]):
    """Its owner decided on its form, and can declare it again in the same."""
    with closing(connect(vhost_url)) as connection:
        owner = connection.channel()
        owner.queue_declare(name, **{"durable": True, **form})
        TOPOLOGY.declare(connection)
        assert TOPOLOGY.declare_one(connection, name)
        owner.queue_declare(name, **{"durable": True, **form})


@pytest.mark.rabbitmq
def test_a_backend_that_comes_second_can_have_its_own_form_of_queue(vhost_url: str):
    """As docs/operating.md has it: deleted while it is empty, declared anew, and used as it is from then on.

    Until then a backend that asks for a quorum queue gets a 406, for the worker has made a plain one.
    """
    quorum = {"x-queue-type": "quorum"}
    with closing(connect(vhost_url)) as worker, closing(connect(vhost_url)) as backend:
        TOPOLOGY.declare(worker)
        with pytest.raises(ChannelClosedByBroker, match="406"):
            backend.channel().queue_declare("gemini.responses", durable=True, arguments=quorum)
        channel = backend.channel()
        channel.queue_delete("gemini.responses", if_empty=True, if_unused=True)
        channel.queue_declare("gemini.responses", durable=True, arguments=quorum)
        TOPOLOGY.declare(worker)
        channel.queue_declare("gemini.responses", durable=True, arguments=quorum)


@pytest.mark.rabbitmq
def test_the_queue_that_a_request_names_is_never_made(vhost_url: str):
    """A backend that declares it itself has it in its own form, whoever comes first."""
    with closing(connect(vhost_url)) as connection:
        TOPOLOGY.declare(connection)
        assert not TOPOLOGY.declare_one(connection, "backend.answers")
        arguments = {"x-queue-type": "quorum"}
        connection.channel().queue_declare("backend.answers", durable=True, arguments=arguments)


@pytest.mark.rabbitmq
def test_a_queue_with_other_arguments_is_one_line_for_an_operator(vhost_url: str):
    """F11: which queue, what differs, what to do."""
    with closing(connect(vhost_url)) as connection:
        connection.channel().queue_declare(WORK, durable=True)
        with pytest.raises(TopologyError) as caught:
            TOPOLOGY.declare(connection)
    text = str(caught.value)
    assert WORK in text
    assert "inequivalent arg" in text
    assert "\n" not in text


@pytest.mark.rabbitmq
def test_a_missing_permission_is_one_line_for_an_operator(vhost_url: str, rabbitmq_server: Server):
    """It names the queue and what to grant."""
    rabbitmq_server.permit(vhost_url, configure="^$")
    with closing(connect(vhost_url)) as connection, pytest.raises(TopologyError, match=r"gemini.*grant configure"):
        TOPOLOGY.declare(connection)


@pytest.mark.rabbitmq
def test_a_wait_ends_in_the_work_queue(vhost_url: str):
    """The message comes back with its body and its id."""
    with closing(connect(vhost_url)) as connection:
        TOPOLOGY.declare(connection)
        channel = connection.channel()
        channel.confirm_delivery()
        sent = str(uuid.uuid4())
        channel.basic_publish(
            "", "gemini.generate.delay.0.5s", b"body", pika.BasicProperties(message_id=sent, delivery_mode=2)
        )
        for method, properties, body in channel.consume(WORK, inactivity_timeout=60):
            assert method is not None
            assert (properties.message_id, body) == (sent, b"body")
            break
        channel.cancel()


@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda url: url.replace("guest:guest", "guest:canary"), "refuses the user guest"),
        (lambda url: url.rpartition("/")[0] + "/no-such-vhost", "refuses guest the virtual host no-such-vhost"),
    ],
    ids=["wrong password", "wrong virtual host"],
)
def test_a_refused_connection_says_why_at_once(vhost_url: str, change: Callable[[str], str], says: str):
    """F10: waiting would not help, and the password is in no text."""
    with pytest.raises(TopologyError) as caught:
        connect(change(vhost_url))
    assert says in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_server_that_is_away_is_waited_for_then_named():
    """F10: bounded, and one line that says what to check."""
    away = amqp.parameters("amqp://guest:canary@127.0.0.1:1/", name="test")
    with pytest.raises(TopologyError, match=r"127\.0\.0\.1:1 cannot be reached") as caught:
        amqp.connect(away, deadline_s=0.0)
    assert "canary" not in str(caught.value)


def test_heartbeats_notice_a_frozen_peer_within_twenty_seconds():
    """F9: whatever the URL says."""
    assert amqp.parameters("amqp://h/?heartbeat=600", name="test").heartbeat <= 10


@pytest.mark.rabbitmq
def test_an_exclusive_callback_queue_exists(vhost_url: str):
    """A producer's private reply queue answers 405 to others, and takes messages all the same."""
    with closing(connect(vhost_url)) as producer, closing(connect(vhost_url)) as worker:
        producer.channel().queue_declare("replies", exclusive=True)
        assert MAKER.declare_one(worker, "replies")


@pytest.mark.rabbitmq
def test_a_missing_callback_queue_is_made_where_that_is_set(vhost_url: str):
    """F40: durable and without arguments, so that whoever declares it plainly finds no difference."""
    with closing(connect(vhost_url)) as connection:
        assert not TOPOLOGY.declare_one(connection, "my.answers")
        assert MAKER.declare_one(connection, "my.answers")
        connection.channel().queue_declare("my.answers", durable=True)


@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    "name", ["gemini.generate.delay.30s", "gemini.callbacks.x", "amq.gen-x", "amq.rabbitmq.reply-to.x", "a\nb"]
)
def test_a_queue_that_may_not_be_made_is_not_made(vhost_url: str, name: str):
    """A wait of a former schedule, made like a callback queue, would keep for ever what comes in."""
    with closing(connect(vhost_url)) as connection:
        assert not MAKER.declare_one(connection, name)
        with pytest.raises(ChannelClosedByBroker):
            connection.channel().queue_declare(name, passive=True)


@pytest.mark.rabbitmq
def test_a_connection_that_ends_is_one_line_for_an_operator(vhost_url: str):
    """No exception of pika's gets out."""
    connection = connect(vhost_url)
    connection.close()
    with pytest.raises(TopologyError, match=r"ended while the queue gemini\."):
        TOPOLOGY.declare(connection)


@pytest.mark.parametrize("name", [*FAIR.ours, "gemini.generate.delay.30s", "gemini.requests.dead"])
def test_our_queues_are_known_by_name(name: str):
    """Those of a former schedule too: they drain, and are still ours."""
    assert TOPOLOGY.is_ours(name)


@pytest.mark.parametrize("name", ["gemini.requests", "gemini.responses", "gemini.generated"])
def test_shared_queues_are_not_ours(name: str):
    """Others declare and delete them."""
    assert not TOPOLOGY.is_ours(name)
