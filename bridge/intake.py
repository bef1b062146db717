"""What arrives over the channel of a process, and no more of it than the process has room for."""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import pika

from bridge.delivery import Delivery, Source
from bridge.turns import Turns
from gateway.lanes import Lane
from gateway.rabbitmq.settling import Settling
from gateway.rabbitmq.topology import WORK

#: How many messages of ours are received at a time whether there is room or not, so that they always get their turn.
ALWAYS_ROOM = 2

#: How many requests are on their way to another queue at a time, and how many bytes: in memory, and unsettled.
MOST_SORTED, MOST_BYTES_SORTED = 256, 32 * 1024 * 1024

#: So many are sorted before somebody is served of those that were.
MOST_IN_A_ROW = 50

#: How many subscriptions of the request queue a process has at the most. Each that is added covers what room there is.
MOST_SUBSCRIPTIONS = 20


class Intake:
    """Holds no more unsettled deliveries than `room`, and two of each of our own queues. For the connection's thread.

    So no request waits here behind a busy thread while another worker is idle. RabbitMQ counts for each queue alone:
    where there is more work of ours than these two, requests are no longer pushed by RabbitMQ but pulled one by one,
    after that work, until there is none of it. So they are while somebody waits in one of the queues that are never
    pushed, those of `turns`; what is sorted into one of these takes no room. What has run meanwhile takes room of which
    RabbitMQ does not know; as it ends, further subscriptions have that pushed, too. `others` is what earlier intakes of
    the process have handed out, and what this one has, once it leaves. Methods raise pika's AMQPError.
    """

    def __init__(  # noqa: PLR0913 - what it takes from others, all by name
        self,
        channel: Any,
        source: Source,
        *,
        request_queue: str,
        our_queues: Collection[str],
        room: int,
        others: set[Delivery],
        turns: Turns,
        paused: bool = False,
    ) -> None:
        self.turns = turns
        self.arrived: deque[Delivery] = deque()
        self.cancelled: str | None = None  # the queue whose consumer RabbitMQ has taken away
        self._channel = channel
        self._source = source
        self._request_queue = request_queue
        self._pulled_queues = [queue for queue in our_queues if queue == WORK] + [request_queue]
        self._room = room
        self._unsettled: set[Delivery] = set()
        self._others = others
        self._sorted: dict[Delivery, str] = {}  # where they go
        self._sorted_in_a_row = 0
        self._more_work = False  # of ours, perhaps, than is pushed
        channel.add_on_cancel_callback(self._on_cancel)
        self._paused = paused
        self._ours = [self._subscription(queue) for queue in our_queues if not (paused and queue == WORK)]
        self._requests: list[_Subscription] = []
        if self.room > 0 and not paused:
            self._push(self.room)

    @property
    def room(self) -> int:
        """For how many more there is room."""
        return self._room - len(self._unsettled) - len(self._others)

    @property
    def is_idle(self) -> bool:
        """Everything that has come is settled."""
        return not self._unsettled and not self._sorted

    @property
    def may_pull(self) -> bool:
        """There is room for a message that RabbitMQ does not push."""
        return not self._requests and self.room > 0 and not self._paused and self.may_sort

    @property
    def may_sort(self) -> bool:
        """Not too many are on their way to another queue."""
        return len(self._sorted) < MOST_SORTED and sum(len(one.body) for one in [*self._sorted]) < MOST_BYTES_SORTED

    @property
    def next_look_at(self) -> float:
        """When to look into the queues that are never pushed; never while all are pulled, or none."""
        return self.turns.next_look_at if self._requests and self._may_look else math.inf

    def pause(self) -> None:
        """Have no requests pushed, be they new or ours; what has arrived has arrived. Idempotent."""
        if not self._paused:
            self._paused = True
            for subscription in self._pulled_subscriptions():
                subscription.cancel()
            self._ours = [one for one in self._ours if one.queue != WORK]
            self._requests = []

    def resume(self) -> None:
        """Have them pushed again. Idempotent."""
        if self._paused:
            self._paused = False
            self._ours += [self._subscription(queue) for queue in self._pulled_queues if queue == WORK]

    def next(self) -> Delivery | None:
        """What has arrived, or is pulled now; in order."""
        if self._requests:
            self._keep_pushed()
        elif self.may_pull and not self.arrived and not self._pulled():
            self._push(self.room)
        return self.arrived.popleft() if self.arrived else None

    def next_request(self) -> Delivery | None:
        """The request behind one that was sorted out, None where it is not its turn."""
        if not self.may_pull or self.arrived or self.turns.batch_is_due or self._has_sorted_enough:
            return None
        return self.get(self._channel, self._request_queue)

    def get(self, channel: Any, queue: str) -> Delivery | None:
        """One message of a queue, None when it has none now."""
        method, properties, body = channel.basic_get(queue)
        return self._arrival(channel, method, properties, body, queue=queue) if method is not None else None

    def settled(self, delivery: Delivery) -> None:
        """There is room for another one. On any thread."""
        self._unsettled.discard(delivery)
        self._others.discard(delivery)
        if (queue := self._sorted.pop(delivery, None)) is not None:
            self.turns.filled(queue)
        for subscription in (*self._ours, *self._requests):
            subscription.unsettled.discard(delivery)

    def parked(self, delivery: Delivery) -> None:
        """A delivery stays unsettled but takes no room. On any thread."""
        self._unsettled.discard(delivery)
        self._others.discard(delivery)

    def sort_into(self, delivery: Delivery, queue: str) -> None:
        """A delivery is on its way to a queue; to one from which this process takes its turn, and it takes no room."""
        if queue in self.turns:
            self._sorted[delivery] = queue
            self._sorted_in_a_row += 1
            self.turns.sorted_out()
            self.parked(delivery)

    def hand_out_again(self, delivery: Delivery) -> None:
        """A parked delivery, of this intake or an earlier one, takes room again."""
        if delivery not in self._unsettled:
            self._others.add(delivery)

    def renew(self) -> None:
        """Have more of ours pushed, where RabbitMQ counts only parked ones as unsettled."""
        for index, subscription in enumerate(self._ours):
            if subscription.is_full and not self._takes_room(subscription):
                subscription.cancel()
                self._ours[index] = self._subscription(subscription.queue)

    def leave(self) -> None:
        """The channel has ended: what was handed out still runs, and takes the room of the next intake."""
        arrived = set(self.arrived)
        self._others |= {one for one in [*self._unsettled] if not one.is_settled and one not in arrived}

    def stop(self) -> None:
        """Receive no more, and give back what has arrived and was not handed out. Idempotent."""
        subscriptions = [*self._ours, *self._requests]
        self._ours, self._requests = [], []
        for subscription in subscriptions:
            subscription.cancel()
        while self.arrived:
            self.arrived.popleft().settle(confirmed=False)

    def _pulled_subscriptions(self) -> "list[_Subscription]":
        return [*(one for one in self._ours if one.queue == WORK), *self._requests]

    def _subscription(self, queue: str) -> "_Subscription":
        return _Subscription(self._channel, queue, ALWAYS_ROOM, self._on_message)

    def _push(self, prefetch: int) -> None:
        self._more_work = False
        self._requests.append(_Subscription(self._channel, self._request_queue, prefetch, self._on_message))

    def _keep_pushed(self) -> None:
        """Have pushed what there is room for, unless somebody waits elsewhere who may go first."""
        is_idle = not self._unsettled and len(self._requests) > 1
        if self._more_work or self.turns.somebody_waits or is_idle:  # one subscription does for all of the room
            self._cancel_requests(self._requests)
        elif self.room > 0 and self.may_sort and all(one.is_full for one in self._requests):
            # Of one that is full nothing is on its way here, which a cancel would give back.
            self._cancel_requests([one for one in self._requests if self._has_parked(one)])
            if len(self._requests) == MOST_SUBSCRIPTIONS:
                self._cancel_requests([min(self._requests, key=lambda one: one.prefetch)])
            self._push(self.room)
        elif self.turns.next_look_at <= time.monotonic() and self._may_look:
            self._first_of(queue for lane in Lane for queue in self.turns.due(lane))

    def _cancel_requests(self, subscriptions: "list[_Subscription]") -> None:
        self._requests = [one for one in self._requests if one not in subscriptions]
        for subscription in subscriptions:
            subscription.cancel()

    def _takes_room(self, subscription: "_Subscription") -> bool:
        """Whether it has more than parked deliveries."""
        return bool(subscription.unsettled & (self._unsettled | self._others))

    def _has_parked(self, subscription: "_Subscription") -> bool:
        """Whether RabbitMQ would push more for it, once those are settled, than there was room for."""
        return bool(subscription.unsettled - self._unsettled - self._others)

    @property
    def _may_look(self) -> bool:
        """There is room, or none runs of those that have a share of it."""
        return self.room > 0 or (
            self.turns.has_share and not any(one.queue in self.turns for one in [*self._unsettled])
        )

    def _pulled(self) -> bool:
        """Whether there was one more message: of the lane whose turn it is, what has waited longer first."""
        work = [queue for queue in self._pulled_queues if queue == WORK]
        requests = [self._request_queue] if self._must_pull_requests else []
        turns = self.turns.due(Lane.INTERACTIVE)
        interactive = [*work, *turns, *requests] if self._has_sorted_enough else [*work, *requests, *turns]
        self._sorted_in_a_row = 0 if self._has_sorted_enough else self._sorted_in_a_row
        queues = {Lane.INTERACTIVE: interactive, Lane.BATCH: self.turns.due(Lane.BATCH)}
        return self._first_of(queue for lane in self.turns.order_of_looks for queue in queues[lane])

    @property
    def _has_sorted_enough(self) -> bool:
        """Those who have been sorted before have their turn, however many are to be sorted."""
        return self._sorted_in_a_row >= MOST_IN_A_ROW

    @property
    def _must_pull_requests(self) -> bool:
        """Somebody may come who goes first and is not pushed."""
        return self.turns.somebody_waits or any(one.is_full for one in self._ours if one.queue == WORK)

    def _first_of(self, queues: Iterable[str]) -> bool:
        for queue in queues:
            delivery = self.get(self._channel, queue)
            if delivery is not None:
                self.turns.found(queue)
                self.arrived.append(delivery)
                return True
            self.turns.empty(queue)
        return False

    def _on_message(
        self, subscription: "_Subscription", channel: Any, method: Any, properties: Any, body: bytes
    ) -> None:
        delivery = self._arrival(channel, method, properties, body, queue=subscription.queue)
        subscription.unsettled.add(delivery)
        self.arrived.append(delivery)
        self._more_work = self._more_work or (subscription.queue == WORK and subscription.is_full)

    def _arrival(
        self, channel: Any, method: Any, properties: pika.BasicProperties, body: bytes, *, queue: str
    ) -> Delivery:
        delivery = Delivery(
            source=self._source,
            channel=Settling(channel),
            queue=queue,
            tag=method.delivery_tag,
            body=body,
            properties=properties,
            redelivered=bool(method.redelivered),
        )
        self._unsettled.add(delivery)
        return delivery

    def _on_cancel(self, frame: Any) -> None:
        tag = frame.method.consumer_tag
        self.cancelled = next((one.queue for one in (*self._ours, *self._requests) if one.tag == tag), tag)


class _Subscription:
    """A consumer of one queue, as RabbitMQ counts it: at most `prefetch` of its deliveries are unsettled."""

    def __init__(self, channel: Any, queue: str, prefetch: int, received: Callable[..., None]) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.unsettled: set[Delivery] = set()
        self._channel = channel
        channel.basic_qos(prefetch_count=prefetch)
        self.tag: str = channel.basic_consume(queue, partial(received, self))

    @property
    def is_full(self) -> bool:
        return len(self.unsettled) >= self.prefetch

    def cancel(self) -> None:
        self._channel.basic_cancel(self.tag)
