"""RabbitMQ as the worker needs it: reachable, new enough, with our rights, with queues as they should be."""

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from shlex import quote
from typing import Any

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionBlockedTimeout, NackError, UnroutableError

from console.depths import depth
from console.doctor import policies
from console.doctor.finding import Finding, of_error, ok
from console.opened import Opened, rabbitmq
from console.screen import several
from console.state import look
from gateway.errors import GatewayError, StoreUnavailable, TopologyError
from gateway.rabbitmq import amqp
from gateway.rabbitmq.topology import Topology
from gateway.reporting.redaction import redact
from gateway.settings import Settings
from gateway.usage.store import OF_A_CLIENT, REFUSED, REQUESTS, SPANS

AREA, QUEUES, CALLBACKS = "RabbitMQ", "queues", "callback queues"

#: The oldest version that has what the queues need, and the first one that is maintained by its makers.
OLDEST, MAINTAINED = (3, 10), (4, 0)

#: On the default exchange it writes; callback queues may have names of their own.
GRANT = (
    "grant the user of RABBITMQ_URL configure, write and read on gemini.* and on callback queues, and write on"
    " amq.default: rabbitmqctl set_permissions -p {vhost} {user} '^gemini' '^(gemini|amq.default)' '^gemini'"
)

DAY_S = 86400.0


def check(here: Opened) -> Iterator[Finding]:
    """Each finding as it comes; nothing is changed, and no message is taken."""
    grant, was_refused = grant_to(here.settings), False
    try:
        with rabbitmq(here.settings, name="doctor") as connection:
            yield judge_version(amqp.server_version(connection))
            yield from _rights(connection, grant)
            yield from _queues(connection, here.settings, grant)
            with suppress(StoreUnavailable):  # it is said of the store
                yield from _callback_queues(connection, here)
    except ConnectionBlockedTimeout:
        yield Finding(AREA, "failed", "it takes no messages: a memory or disk alarm", "free memory or disk there")
    except TopologyError as error:
        was_refused = True
        yield of_error(AREA, error)
    except AMQPError as error:
        yield Finding(AREA, "failed", f"the connection ended ({type(error).__name__})", "see the log of RabbitMQ")
    yield from policies.check(here.settings, was_refused=was_refused)


def judge_version(version: str) -> Finding:
    """Whether a worker can run on it."""
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if not numbers:
        return Finding(AREA, "unknown", "it does not say which version it is", "3.10 to 4.x are known to do")
    if numbers < OLDEST:
        return Finding(AREA, "failed", f"version {version} is too old: waits could get lost", "upgrade it to 4.x")
    if numbers < MAINTAINED:
        return Finding(
            AREA, "warning", f"version {version} will do, and its makers no longer mend it", "upgrade to 4.x"
        )
    return ok(AREA, f"version {version}")


def _rights(connection: pika.BlockingConnection, grant: str) -> Iterator[Finding]:
    """Tried on a queue that ends with its connection."""
    name = f"gemini.generate.doctor-{uuid.uuid4().hex[:8]}"
    steps: list[tuple[str, Callable[[Any], object]]] = [
        ("configure", lambda channel: channel.queue_declare(name, exclusive=True, auto_delete=True)),
        ("write", lambda channel: _publish(channel, name)),
        ("read", lambda channel: channel.basic_get(name, auto_ack=True)),
    ]
    for right, step in steps:
        channel = connection.channel()
        try:
            step(channel)
        except ChannelClosedByBroker as error:
            yield Finding(AREA, "failed", f"the right to {right} is missing: {error.reply_text}", grant)
            return
        except (UnroutableError, NackError):
            yield Finding(AREA, "failed", "a message to a queue of ours was refused", "see the log of RabbitMQ")
            return
    yield ok(AREA, "the user may configure, write and read")


def _publish(channel: Any, queue: str) -> None:
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"", mandatory=True)


def _queues(connection: pika.BlockingConnection, settings: Settings, grant: str) -> Iterator[Finding]:
    """Those that are there are as they should be; those that are missing a worker declares."""
    topology = Topology(settings)
    missing = []
    for name in [*topology.ours, settings.request_queue, settings.response_queue]:
        try:
            if depth(connection, name) is None:
                missing.append(name)
            else:
                topology.declare_one(connection, name)
        except GatewayError as error:
            yield of_error(QUEUES, error, remedy=_advice(error, grant))
            return
    if missing:
        what = f"{len(missing)} are missing, such as {missing[0]}"
        yield Finding(QUEUES, "warning", what, "start a worker: it declares them")
    else:
        yield ok(QUEUES, "all are there, as they should be")
    yield from _dead(connection, settings)


def grant_to(settings: Settings) -> str:
    """What to do about a right that is missing, with the command."""
    parameters = pika.URLParameters(settings.amqp_address)
    user, vhost = redact(str(parameters.credentials.username)), redact(parameters.virtual_host)
    return GRANT.format(user=quote(user), vhost=quote(vhost))


def _advice(error: GatewayError, grant: str) -> str:
    """Where the error itself does not say what to do."""
    return grant if "refused" in str(error).lower() and ": " not in str(error) else ""


def _dead(connection: pika.BlockingConnection, settings: Settings) -> Iterator[Finding]:
    for queue in look(connection, settings):
        if queue.role == "dead" and queue.messages:
            yield Finding(
                QUEUES, "warning", f"{several(queue.messages, 'dead letter')} in {queue.name}", "gemini failed"
            )


def _callback_queues(connection: pika.BlockingConnection, here: Opened) -> Iterator[Finding]:
    """Those that have refused answers in the last day."""
    refused: dict[str, int] = {}
    for cell in here.stores.usage.cells(SPANS[1], REFUSED, DAY_S):
        if cell.fact == REQUESTS:
            refused[cell.name] = refused.get(cell.name, 0) + cell.value
    held_now = sum(queue.messages or 0 for queue in look(connection, here.settings) if queue.role == "callbacks")
    found = [one for name, count in refused.items() if (one := _held(connection, name, count, held_now)) is not None]
    yield from found or [ok(CALLBACKS, "none refuses answers")]


def _held(connection: pika.BlockingConnection, name: str, count: int, held_now: int) -> Finding | None:
    """What is wrong with a queue that has refused so many; None when that is over."""
    what = f"{several(count, 'answer')} for {name} had to be held in the last day"
    if name == OF_A_CLIENT:
        advice = "let clients wait longer, or name a callback_queue that outlives them"
        return Finding(CALLBACKS, "warning", f"{what}: its client had left, or was full", advice)
    if not _exists(connection, name):
        advice = f"declare the queue {name}, or set CALLBACK_QUEUE_CREATE=true; held answers come by themselves then"
        return Finding(CALLBACKS, "failed", f"{what}: it does not exist", advice)
    if held_now:
        advice = "have its consumer read it, raise its limit, or grant write; held answers come by themselves then"
        return Finding(CALLBACKS, "failed", f"{what}: it is full, or may not be written", advice)
    return None


def _exists(connection: pika.BlockingConnection, name: str) -> bool:
    try:
        return depth(connection, name) is not None
    except TopologyError:
        return True
