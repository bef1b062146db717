"""The queues as data: their names and arguments, which are ours, and where an answer may go.

    queue                          holds                                      when its time is up, or after the limit
    gemini.generate                work                                       gemini.generate.dead
    gemini.generate.delay.<N>s     requests that wait for a key               gemini.generate
    gemini.generate.backoff.<N>s   requests that wait for the provider        gemini.generate
    gemini.batch                   work of the batch lane                     gemini.generate.dead
    gemini.batch.delay.<N>s, …     its waits, as above                        gemini.batch
    gemini.generate.fair.<n>       new requests, with FAIRNESS_FIELD only     gemini.generate
    gemini.batch.fair.<n>          as above, of the batch lane                gemini.batch
    gemini.callbacks               replies to publish                         gemini.generate.dead
    gemini.callbacks.delay.<N>s    replies that their queue has refused       gemini.callbacks
    gemini.cancels                 ids of requests to be cancelled            gemini.generate.dead
    *.dead                         what an operator must look at              stays

The wait is in the name: a changed schedule makes new queues, and what lies in the old ones still comes back in time.
An old one stays when it is empty; an operator may delete it then.
Only a wait for a key may be released early, so the two kinds have queues of their own even where the time is equal.
Valid on RabbitMQ 3.10 to 4.x: every type and limit is explicit, since their defaults have changed.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from gateway.errors import TopologyError
from gateway.lanes import Lane
from gateway.rabbitmq.request_reply import DIRECT_REPLY_TO, is_of_a_client
from gateway.reporting.redaction import escape_controls
from gateway.schedule import CALLBACK_RETRY_DELAYS_S

WORK = "gemini.generate"
BATCH = "gemini.batch"
CALLBACKS = "gemini.callbacks"
CANCELS = "gemini.cancels"
DEAD_REQUESTS = "gemini.requests.dead"
DEAD_WORK = "gemini.generate.dead"

#: Where requests of a lane come back to from their waits.
HOMES: Final = {Lane.INTERACTIVE: WORK, Lane.BATCH: BATCH}

#: How many queues the new requests of a lane are spread over where they take turns by their tags: a look at all of
#: them takes some milliseconds, and of nine tags two share one.
FAIR_QUEUES = 8

#: How long one lies there at most before it goes home and before all that are new, in seconds: nobody looks there any
#: more when FAIRNESS_FIELD is taken away.
FAIR_TTL_S = 86_400.0

#: Deliveries of one message before it counts as one that kills workers, and is moved to the dead queue.
WORK_DELIVERY_LIMIT = 20

#: For queues where a redelivery costs nothing. RabbitMQ 4 takes a missing limit for 20, RabbitMQ 3 takes -1 for 0.
HIGH_DELIVERY_LIMIT = 1_000_000

#: The longest name of a queue, in bytes.
LONGEST_NAME = 255

_NOT_FOUND, _ACCESS_REFUSED, _RESOURCE_LOCKED, _PRECONDITION_FAILED = 404, 403, 405, 406

#: What RabbitMQ says of a queue that is there: another connection has it to itself, or it was declared otherwise.
_EXISTS = frozenset({_RESOURCE_LOCKED, _PRECONDITION_FAILED})


class Names(Protocol):
    """The part of the settings that names queues; delays in seconds."""

    @property
    def request_queue(self) -> str: ...
    @property
    def response_queue(self) -> str: ...
    @property
    def queue_retry_delays(self) -> tuple[float, ...]: ...
    @property
    def upstream_retry_delays(self) -> tuple[float, ...]: ...
    @property
    def callback_queue_pattern(self) -> str | None: ...
    @property
    def callback_queue_create(self) -> bool: ...
    @property
    def fairness_field(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of ours, as it is declared."""

    name: str
    arguments: Mapping[str, Any]


class Topology:
    """Declares our queues, and judges the names of callback queues."""

    def __init__(self, names: Names) -> None:
        self.names = names
        pattern = names.callback_queue_pattern
        self._pattern = re.compile(pattern) if pattern is not None else None
        delays = sorted(set(names.queue_retry_delays))
        #: The queues that requests of a lane wait in for a key, shortest wait first.
        self.key_waits = {lane: tuple(self.key_wait(delay, lane) for delay in delays) for lane in Lane}
        #: Those that its new requests are spread over; none without FAIRNESS_FIELD.
        self.fair_queues = {lane: self._fair_queues(lane) for lane in Lane}
        self.ours = {queue.name: queue for queue in self._queues()}
        self._shared = (names.request_queue, names.response_queue)

    @staticmethod
    def key_wait(delay_s: float, lane: Lane = Lane.INTERACTIVE) -> str:
        return f"{HOMES[lane]}.delay.{_seconds(delay_s)}"

    @staticmethod
    def upstream_wait(delay_s: float, lane: Lane = Lane.INTERACTIVE) -> str:
        return f"{HOMES[lane]}.backoff.{_seconds(delay_s)}"

    @staticmethod
    def callback_wait(delay_s: float) -> str:
        return f"{CALLBACKS}.delay.{_seconds(delay_s)}"

    def entry(self, lane: Lane, tag: str | None) -> str | None:
        """Where a new request lies until it is its turn; None where that is the request queue itself.

        Requests without a tag are those of one. Two tags may have one queue, and take their turns together.
        """
        if fair := self.fair_queues[lane]:
            return fair[zlib.crc32((tag or "").encode(errors="replace")) % len(fair)]
        return BATCH if lane is Lane.BATCH else None

    def declare(self, connection: pika.BlockingConnection) -> None:
        """Assert every queue that the worker needs. Raises TopologyError, one line that names queue and difference."""
        for name in [*self.ours, *self._shared]:
            self.declare_one(connection, name)

    def declare_one(self, connection: pika.BlockingConnection, name: str) -> bool:
        """Assert one queue: ours with our arguments, another only if it is missing. False when we may not make it.

        Raises TopologyError.
        """
        if name in self.ours:
            self._assert(connection, self.ours[name])
            return True
        if not self.may_declare(name):
            return False
        if not self._exists(connection, name):
            self._assert(connection, Queue(name, {}))
        return True

    def needs(self, name: str) -> bool:
        """Whether the worker cannot do without a queue: it is declared at boot, and again when it is gone."""
        return name in self.ours or name in self._shared

    def may_declare(self, name: str) -> bool:
        """Whether we may make a queue that is missing: one that we need, and, where it is set, one for answers."""
        if self.needs(name):
            return True
        return self.names.callback_queue_create and not is_of_a_client(name) and self.refusal(name) is None

    def is_ours(self, name: str) -> bool:
        """Whether a queue belongs to the worker, be it of a schedule that is no longer set."""
        prefixes = (WORK, BATCH, CALLBACKS, CANCELS, DEAD_REQUESTS)
        return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)

    def refusal(self, callback: str) -> str | None:
        """Why no answer may go to a queue of this name, None when it may: no loops, nothing reserved."""
        if callback == self.names.request_queue or self.is_ours(callback):
            return "is one of the worker's own queues"
        if callback == DIRECT_REPLY_TO:
            return "amq.rabbitmq.reply-to is an address only as the property reply_to, where RabbitMQ completes it"
        if callback.startswith("amq.") and not is_of_a_client(callback):
            return "names that begin with amq. are reserved by RabbitMQ"
        if escape_controls(callback, limit=None) != callback or not 1 <= len(callback.encode()) <= LONGEST_NAME:
            return "is not the name of a queue: 1 to 255 bytes, no control characters"
        if self._pattern is not None and not self._pattern.fullmatch(callback):
            return "is not allowed by CALLBACK_QUEUE_PATTERN"
        return None

    def _queues(self) -> Iterator[Queue]:
        # What others dead-letter into comes first, so that no wait ends before its target exists.
        for name in (DEAD_REQUESTS, DEAD_WORK):
            yield Queue(name, _quorum(HIGH_DELIVERY_LIMIT))
        for lane, home in HOMES.items():
            yield Queue(home, _quorum(WORK_DELIVERY_LIMIT) | _dead_letters_to(DEAD_WORK))
            yield from self._waits(lane, home)
        for name in (CALLBACKS, CANCELS):
            yield Queue(name, _quorum(HIGH_DELIVERY_LIMIT) | _dead_letters_to(DEAD_WORK))
        for delay in CALLBACK_RETRY_DELAYS_S:
            yield _wait(self.callback_wait(delay), delay, CALLBACKS)

    def _waits(self, lane: Lane, home: str) -> Iterator[Queue]:
        for delay in self.names.queue_retry_delays:
            yield _wait(self.key_wait(delay, lane), delay, home)
        for delay in self.names.upstream_retry_delays:
            yield _wait(self.upstream_wait(delay, lane), delay, home)
        for name in self.fair_queues[lane]:
            yield _wait(name, FAIR_TTL_S, home, delivery_limit=WORK_DELIVERY_LIMIT)

    def _fair_queues(self, lane: Lane) -> tuple[str, ...]:
        count = FAIR_QUEUES if self.names.fairness_field is not None else 0
        return tuple(f"{HOMES[lane]}.fair.{number}" for number in range(count))

    def _assert(self, connection: pika.BlockingConnection, queue: Queue) -> None:
        try:
            channel = connection.channel()
            channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
            channel.close()
        except ChannelClosedByBroker as error:
            if queue.name not in self.ours and error.reply_code in _EXISTS:
                return  # somebody else was quicker, and it is theirs
            raise TopologyError(_explain(queue.name, error)) from None
        except AMQPError as error:
            raise TopologyError(_gone(queue.name, error)) from None

    @staticmethod
    def _exists(connection: pika.BlockingConnection, name: str) -> bool:
        """Whether a queue exists in any form. A queue that we may not even look at exists."""
        try:
            channel = connection.channel()
            channel.queue_declare(name, passive=True)
            channel.close()
        except ChannelClosedByBroker as error:
            if error.reply_code == _NOT_FOUND:
                return False
            if error.reply_code in {_ACCESS_REFUSED, *_EXISTS}:
                return True
            raise TopologyError(_explain(name, error)) from None
        except AMQPError as error:
            raise TopologyError(_gone(name, error)) from None
        return True


def _quorum(delivery_limit: int) -> dict[str, Any]:
    return {"x-queue-type": "quorum", "x-delivery-limit": delivery_limit}


def _dead_letters_to(target: str) -> dict[str, Any]:
    # At least once: the message leaves when its target has confirmed it. It asks for reject-publish.
    return {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": target,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def _wait(name: str, delay_s: float, target: str, *, delivery_limit: int = HIGH_DELIVERY_LIMIT) -> Queue:
    arguments = _quorum(delivery_limit) | _dead_letters_to(target)
    return Queue(name, arguments | {"x-message-ttl": max(1, round(delay_s * 1000))})


def _seconds(delay_s: float) -> str:
    return f"{round(delay_s, 3):.3f}".rstrip("0").rstrip(".") + "s"


def _explain(name: str, error: ChannelClosedByBroker) -> str:
    if error.reply_code == _PRECONDITION_FAILED:
        return (
            f"The queue {name} exists with other arguments ({error.reply_text}): move its messages and delete it, or "
            "use another virtual host"
        )
    if error.reply_code == _ACCESS_REFUSED:
        return (
            f"RabbitMQ does not let us declare the queue {name}: grant configure, read and write on gemini.* and "
            "on the request and callback queues"
        )
    return f"RabbitMQ refused the queue {name}: {error.reply_text}"


def _gone(name: str, error: AMQPError) -> str:
    return f"The connection to RabbitMQ ended while the queue {name} was declared ({type(error).__name__})"
