"""The one consumer of a process: one connection, served by one thread, that receives through several doors."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import dramatiq
import pika
from dramatiq.errors import ConnectionClosed
from pika.exceptions import AMQPError, ChannelClosedByBroker

from bridge.cancels import CancelDoor
from bridge.delivery import Delivered, Delivery
from bridge.door import Door
from bridge.intake import Intake
from bridge.parked import Parked
from bridge.requests import RequestDoor
from bridge.turns import Turns
from bridge.waiting import WaitingDoor
from bridge.work import WorkDoor
from gateway.errors import TopologyError
from gateway.lanes import Lane
from gateway.messages import Job
from gateway.rabbitmq import amqp
from gateway.rabbitmq.connection_calls import ConnectionCalls
from gateway.rabbitmq.topology import BATCH, CALLBACKS, CANCELS, WORK, Topology
from gateway.reporting import sentry
from middleware.attempt import Parking

#: How many messages are opened before the loop goes round: those that are sorted out are not handed out.
MOST_OPENED = 50

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Doors:
    """Where deliveries come in; without the other doors none but requests do."""

    requests: RequestDoor
    work: WorkDoor | None = None
    waiting: WaitingDoor | None = None
    cancels: CancelDoor | None = None

    def pushed(self) -> dict[str, Door]:
        """Our queues that deliver by themselves."""
        ours: dict[str, Door] = dict.fromkeys((WORK, CALLBACKS), self.work) if self.work is not None else {}
        if self.cancels is not None:
            ours[CANCELS] = self.cancels
        return ours

    def by_queue(self) -> dict[str, Door]:
        """All that is received."""
        in_turn = [queue for queues in self.in_turn().values() for queue in queues]
        taken: dict[str, Door] = dict.fromkeys(in_turn, self.work) if self.work is not None else {}
        return {**self.pushed(), **taken, self.requests.queue: self.requests}

    def in_turn(self) -> dict[Lane, tuple[str, ...]]:
        """The queues of each lane that requests are sorted into, and are taken from one by one."""
        if self.work is None:
            return {}
        fair = self.requests.topology().fair_queues
        return {Lane.INTERACTIVE: fair[Lane.INTERACTIVE], Lane.BATCH: (BATCH, *fair[Lane.BATCH])}


def connect(  # noqa: PLR0913 - what it takes from others, all by name
    url: str,
    topology: Topology,
    doors: Doors,
    *,
    name: str,
    deadline_s: float,
    room: int,
    idle_s: float,
    stopping: threading.Event,
    others: set[Delivery],
    parked: Parked,
) -> "Consumer":
    """A consumer on a new connection, its queues declared. Raises TopologyError, AMQPError or ConnectionClosed."""
    connection = amqp.connect(amqp.parameters(url, name=name), deadline_s=deadline_s, stop=stopping)
    try:
        for queue in doors.by_queue():
            topology.declare_one(connection, queue)
        return Consumer(connection, doors, room=room, idle_s=idle_s, stopping=stopping, others=others, parked=parked)
    except BaseException:
        with suppress(AMQPError):
            connection.close()
        raise


class Consumer(dramatiq.Consumer):
    """Delivers what arrives, and serves heartbeats while it waits. All methods but settling are for its own thread.

    Raises ConnectionClosed, after which it is to be made anew, when the connection, the channel or a queue goes away;
    TopologyError when RabbitMQ does not let it consume. `others`: see Intake. What is `parked` is handed out again.
    """

    def __init__(  # noqa: PLR0913 - what it takes from others, all by name
        self,
        connection: pika.BlockingConnection,
        doors: Doors,
        *,
        room: int,
        idle_s: float,
        stopping: threading.Event,
        others: set[Delivery],
        parked: Parked,
    ) -> None:
        self.connection = connection
        self.idle_s = idle_s
        self.stopping = stopping
        self.waiting = doors.waiting
        self.parked = parked
        self._doors = doors.by_queue()
        self._calls = ConnectionCalls(connection)
        self._channels: dict[str, Any] = {}
        self.turns = Turns(doors.in_turn(), share=doors.requests.settings().batch_share)
        try:
            self.channel = connection.channel()
            self.intake = Intake(
                self.channel,
                self,
                request_queue=doors.requests.queue,
                our_queues=list(doors.pushed()),
                room=room,
                others=others,
                turns=self.turns,
                paused=self._keys_are_short,
            )
        except ChannelClosedByBroker as error:
            raise TopologyError(f"RabbitMQ does not let us consume our queues: {error.reply_text}") from None
        except AMQPError as error:
            raise ConnectionClosed(error) from None

    def __next__(self) -> Delivered | None:
        try:
            if not self.intake.arrived:
                self._calls.serve(self._patience_s(), hurry=self.intake.arrived.__len__)
            self._look_alive()
            if self.stopping.is_set():
                self.intake.stop()
                if self.waiting is not None:
                    self.waiting.stop()
                self._give_back_parked()
                self._calls.serve(self.idle_s)
                return None
            if (parked := self.parked.take(room=self.intake.room > 0)) is not None:
                self.intake.hand_out_again(parked.delivery)
                return parked
            self.intake.pause() if self._keys_are_short else self.intake.resume()
            if self.intake.may_pull and (early := self._early()) is not None:
                return early  # who waits for a key has waited longer than what is pulled
            delivery = self.intake.next()
            return self._first_to_run(delivery) if delivery is not None else self._early()
        except AMQPError as error:
            raise ConnectionClosed(error) from None

    @property
    def room(self) -> int:
        """For how many more there is room in this process."""
        return self.intake.room

    @property
    def may_sort(self) -> bool:
        """Whether more requests may be on their way to the queues of their lanes."""
        return self.intake.may_sort

    def get(self, queue: str) -> Delivery | None:
        """One message of a queue that may be missing, None when it has none now."""
        # A channel of its own: getting from a queue that is gone closes the channel, and with it every unsettled tag.
        channel = self._channels.get(queue)
        if channel is None or not channel.is_open:
            channel = self._channels[queue] = self.connection.channel()
        try:
            return self.intake.get(channel, queue)
        except ChannelClosedByBroker as error:
            logger.warning("Nothing can be taken from %s: %s", queue, error.reply_text)
            return None

    def parked_for_key(self) -> list[Delivered]:
        """Who waits for a key in this process, until its deadline; the next one first."""
        return self.parked.for_key()

    def unpark(self, message: Delivered) -> None:
        """Have one of them out again before its time."""
        self.parked.take_out(message)
        self.intake.hand_out_again(message.delivery)

    def open(self, delivery: Delivery) -> Delivered | None:
        """Read it by the door of its queue; None when that takes care of it, or cannot."""
        door = self._doors[delivery.queue]
        try:
            return door.open(delivery)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the next message is read
            door.give_up(delivery, error)
            return None

    def _first_to_run(self, delivery: Delivery) -> Delivered | None:
        """Open it; where it is sorted out, those behind it, for a while: heartbeats are served in between."""
        message = self.open(delivery)
        for _ in range(MOST_OPENED):
            if message is not None or (behind := self.intake.next_request()) is None:
                break
            message = self.open(behind)
        if message is not None:
            self._count(message)
        return message

    def _count(self, message: Delivered) -> None:
        (argument,) = message.args
        if isinstance(argument, Job):
            self.turns.served(argument.lane)

    def ack(self, message: dramatiq.MessageProxy) -> None:
        self._settle(message)

    def nack(self, message: dramatiq.MessageProxy) -> None:
        self._settle(message)

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        for message in messages:
            self._settle(message)

    def close(self) -> None:
        """Let what has been settled reach RabbitMQ, then close the connection: the rest goes back to its queues."""
        try:
            self._calls.run()
        except AMQPError as error:
            raise ConnectionClosed(error) from None
        finally:
            with suppress(AMQPError, AssertionError):
                self.connection.close()
            self.intake.leave()

    def call_soon(self, call: Callable[[], object], *, after_s: float = 0.0) -> bool:
        """Run `call` on the connection's thread; False when that is gone, and there is nothing left to settle."""
        try:
            self._calls.call_soon(partial(self.connection.call_later, after_s, call) if after_s else call)
        except AMQPError:
            logger.info("The connection ended before a delivery was settled: it will come again")
            return False
        return True

    def settled(self, delivery: Delivery) -> None:
        self.intake.settled(delivery)

    def park(self, message: Delivered, parking: Parking) -> bool:
        """Keep a delivery and hand it out again later; False when there is no place. On any thread."""
        if not parking.keeps_room:
            self.intake.parked(message.delivery)  # first: once it has its place it may be handed out again
        if not self.parked.put(message, parking):
            self.intake.hand_out_again(message.delivery)
            return False
        self.call_soon(self.intake.renew)  # and wake the loop: it looks when the next one is due
        return True

    def sort_into(self, delivery: Delivery, queue: str) -> None:
        """A delivery is on its way to a queue of its lane, and takes no room."""
        self.intake.sort_into(delivery, queue)

    def _give_back_parked(self) -> None:
        """For another worker, while our calls end. On a thread of its own: the ledger may be away."""
        if parked := self.parked.take_all():
            threading.Thread(target=_settle_all, args=(parked,), name="give back", daemon=True).start()

    @staticmethod
    def _settle(message: dramatiq.MessageProxy) -> None:
        if isinstance(message, Delivered):  # it may come from an earlier consumer, and knows so
            message.settle()

    def _patience_s(self) -> float:
        if self.intake.may_pull:
            return 0.0
        look_in_s = max(0.0, self.intake.next_look_at - time.monotonic())
        patience_s = min(self.idle_s, look_in_s, self.parked.next_in_s(room=self.intake.room > 0))
        return self.waiting.patience_s(patience_s) if self.waiting is not None and self._may_look else patience_s

    @property
    def _may_look(self) -> bool:
        """There is room for one more, or one that has its room waits for a key."""
        return self.intake.room > 0 or (self.waiting is not None and self.waiting.holds_one)

    @property
    def _keys_are_short(self) -> bool:
        return self.waiting is not None and self.waiting.keys_are_short

    def _look_alive(self) -> None:
        if self.intake.cancelled is not None:
            raise ConnectionClosed(RuntimeError(f"RabbitMQ cancelled the consumer of {self.intake.cancelled}"))
        if not self.channel.is_open:
            # pika tells only those who use a closed channel, and a consumer would wait on it for ever.
            raise ConnectionClosed(RuntimeError("RabbitMQ closed the consumer's channel: its log says why"))

    def _early(self) -> Delivered | None:
        if self.waiting is None or not self._may_look:
            return None
        try:
            found = self.waiting.next(self)
        except AMQPError:
            raise
        except Exception as error:
            logger.exception("A fault of the worker: no early release for now")
            sentry.capture_fault(error, where=type(self.waiting).__name__)
            self.waiting.rest()
            return None
        if found is not None:
            self._count(found)
        return found


def _settle_all(messages: Iterable[Delivered]) -> None:
    for message in messages:
        message.settle()
