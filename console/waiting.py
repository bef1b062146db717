"""Requests in delay queues that an operator names: looked for, and sent to work before their time."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, cast

from dramatiq import Message
from dramatiq.errors import DecodeError
from pika.exceptions import NackError, UnroutableError

from bridge.wire import StrictEncoder
from console.depths import depth
from console.opened import CONNECT_DEADLINE_S
from gateway.errors import Nacked, Unroutable
from gateway.messages import Job
from gateway.rabbitmq import amqp
from gateway.rabbitmq.topology import HOMES, WORK
from gateway.reporting.redaction import escape_controls
from gateway.settings import Settings
from middleware.outbox import message_properties

#: How the names of the queues begin in which requests wait for a key, of either lane.
KEY_WAITS = tuple(f"{home}.delay." for home in HOMES.values())


@dataclass(frozen=True)
class WaitingRequest:
    """A request in our hands: RabbitMQ keeps it, and gives it to nobody else meanwhile."""

    queue: str
    message: "Message[Any]" = field(repr=False)
    tag: int

    @property
    def job(self) -> Job:
        return cast("Job", self.message.args[0])

    @property
    def request_id(self) -> str:
        """As it may be shown."""
        return escape_controls(self.job.request_id, 80)

    @property
    def names(self) -> set[str]:
        """By what it may be called."""
        return {self.job.request_id, self.request_id, self.message.message_id}

    def now(self, *, dropped: bool) -> Job:
        """The job without the wait that it is taken out of: that counts no retry."""
        job, for_key = self.job, self.queue.startswith(KEY_WAITS)
        counted = {"retry_count": job.retry_count} if for_key else {"upstream_retries": job.upstream_retries}
        uncounted = {name: max(0, count - job.wait_counts) for name, count in counted.items()}
        return job.model_copy(update={**uncounted, "dropped": dropped})


class WaitingQueues:
    """One connection, on which requests stay unacked while they are looked at; what is left goes back at the end.

    A crash at any moment loses none of them; one that was just sent to work may be there twice, and is answered once.
    For one thread.
    """

    def __init__(self, settings: Settings) -> None:
        parameters = amqp.parameters(settings.amqp_address, name="waits")
        parameters.blocked_connection_timeout = CONNECT_DEADLINE_S
        self._connection = amqp.connect(parameters, deadline_s=CONNECT_DEADLINE_S)
        self._channel: Any = self._connection.channel()
        self._channel.confirm_delivery()
        self._encoder = StrictEncoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.is_open:
            self._connection.close()

    def find(self, names: Sequence[str], queues: Sequence[str], limit: int) -> Iterator[WaitingRequest]:
        """The requests of these names, among the first `limit` of each queue; ends when each was found."""
        missing = set(names)
        for queue in queues:
            found = depth(self._connection, queue)
            for _ in range(min(limit, found.messages if found is not None else 0)):
                if not missing or (one := self._take(queue)) is None:
                    break
                if not missing.isdisjoint(one.names):
                    missing -= one.names
                    yield one

    def send(self, waiting: WaitingRequest, *, dropped: bool) -> None:
        """Have it worked on now, or answered as dropped; it leaves its queue when RabbitMQ has confirmed its copy.

        Raises Unroutable or Nacked when the work queue does not take it, and it waits on.
        """
        copy = waiting.message.copy(args=(waiting.now(dropped=dropped),), options={})
        body, properties = self._encoder.encode(copy.asdict()), message_properties(copy.message_id)
        try:
            self._channel.basic_publish("", WORK, body, properties, mandatory=True)
        except UnroutableError:
            text = f"The queue {WORK} does not exist: start a worker, which declares it"
            raise Unroutable(text, queue=WORK) from None
        except NackError:
            raise Nacked(f"The queue {WORK} refused the message", queue=WORK) from None
        self._channel.basic_ack(waiting.tag)

    def _take(self, queue: str) -> WaitingRequest | None:
        """The next one; what is no request of ours is passed over. None at the end of the queue."""
        while True:
            method, _properties, body = self._channel.basic_get(queue)
            if method is None:
                return None
            with suppress(DecodeError):
                message = self._encoder.read(body, queue=WORK)
                if isinstance(message.args[0], Job):
                    return WaitingRequest(queue, message, method.delivery_tag)
