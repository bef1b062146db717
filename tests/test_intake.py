"""How the intake uses its room, on a channel that counts as RabbitMQ does; with RabbitMQ itself: test_consumers.py."""

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.delivery import Delivery
from bridge.intake import MOST_IN_A_ROW, MOST_SUBSCRIPTIONS, Intake
from bridge.turns import Turns
from gateway.lanes import Lane
from gateway.rabbitmq.topology import BATCH, WORK
from tests.clock import Clock

REQUESTS, FAIR = "gemini.requests", "gemini.fair"


class Channel:
    """Pushes to each subscription as many as its prefetch leaves unsettled. `unsettled` of all are those that came."""

    def __init__(self, **queues: int) -> None:
        self.queues = {name: deque(b"x" for _ in range(count)) for name, count in queues.items()}
        self.subscriptions: dict[str, SimpleNamespace] = {}
        self.came: dict[int, str | None] = {}
        self.looks: list[str] = []
        self._prefetch = self._count = 0

    def add_on_cancel_callback(self, _call: Any) -> None:
        pass

    def basic_qos(self, prefetch_count: int) -> None:
        self._prefetch = prefetch_count

    def basic_consume(self, queue: str, received: Callable[..., None]) -> str:
        tag = f"c-{len(self.came)}-{len(self.subscriptions)}-{self._count}"
        self.subscriptions[tag] = SimpleNamespace(queue=queue, most=self._prefetch, received=received)
        return tag

    def basic_cancel(self, tag: str) -> None:
        del self.subscriptions[tag]

    def basic_get(self, queue: str) -> tuple[Any, Any, Any]:
        self.looks.append(queue)
        if not self.queues.get(queue):
            return None, None, None
        return self._sent(None), None, self.queues[queue].popleft()

    def push(self) -> None:
        for tag, one in [*self.subscriptions.items()]:
            while self.queues.get(one.queue) and [*self.came.values()].count(tag) < one.most:
                one.received(self, self._sent(tag), None, self.queues[one.queue].popleft())

    def settle(self, delivery: Delivery, intake: Intake) -> None:
        del self.came[delivery._tag]
        intake.settled(delivery)

    def _sent(self, subscription: str | None) -> Any:
        self._count += 1
        self.came[self._count] = subscription
        return SimpleNamespace(delivery_tag=self._count, redelivered=False)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("bridge.intake.time", SimpleNamespace(monotonic=made))
    return made


def intake_of(channel: Channel, clock: Clock, *, room: int, fair: bool = False, batch: bool = False) -> Intake:
    queues = {Lane.INTERACTIVE: (FAIR,) if fair else (), Lane.BATCH: (BATCH,) if batch else ()}
    return Intake(
        channel,
        SimpleNamespace(),  # type: ignore[arg-type]
        request_queue=REQUESTS,
        our_queues=[WORK],
        room=room,
        others=set(),
        turns=Turns(queues, share=0.5, clock=clock),
    )


def taken(intake: Intake, channel: Channel) -> list[Delivery]:
    """All that there is room for now."""
    found: list[Delivery] = []
    while True:
        channel.push()
        delivery = intake.next()
        if delivery is None and intake.room <= 0:
            return found
        if delivery is not None:
            found.append(delivery)


def test_all_the_room_is_used_though_calls_end_two_by_two(clock: Clock):
    """Each time a subscription is added, and they have an end; one look is enough, for there may be no other soon."""
    channel = Channel(**{REQUESTS: 1000, WORK: 0})
    intake = intake_of(channel, clock, room=50)
    intake.pause()
    running = [intake.get(channel, REQUESTS) for _ in range(50)]  # as while keys are short
    intake.resume()
    for _ in range(200):
        for _ in range(2):
            channel.settle(running.pop(0), intake)  # type: ignore[arg-type]
        found = [intake.next()]
        channel.push()
        assert intake.room == 0
        running += [*filter(None, found), *taken(intake, channel), *intake.arrived]
        intake.arrived.clear()
        assert len(running) == 50
        assert len(intake._requests) <= MOST_SUBSCRIPTIONS


def test_what_is_parked_and_settled_leaves_no_more_room_than_there_is(clock: Clock):
    """RabbitMQ pushes for each subscription that has one more place."""
    channel = Channel(**{REQUESTS: 1000, WORK: 0})
    intake = intake_of(channel, clock, room=10)
    running, parked = [], []
    for _ in range(9):
        first, *others = taken(intake, channel)
        running.append(first)
        parked += others
        for delivery in others:
            intake.parked(delivery)
    for delivery in parked:
        channel.settle(delivery, intake)
    channel.push()
    assert len(channel.came) <= 10
    assert intake.room >= 0


@pytest.mark.parametrize("busy", [FAIR, WORK])
def test_batch_that_nobody_knows_of_has_its_share(clock: Clock, busy: str):
    """It was there before the process, or another one has filled its queue; and others never have an end."""
    channel = Channel(**{REQUESTS: 0, WORK: 0, FAIR: 0, BATCH: 100} | {busy: 1000})
    intake = intake_of(channel, clock, room=4, fair=True, batch=True)
    served: list[str] = []
    running = taken(intake, channel)
    for _ in range(100):
        delivery = running.pop(0)
        intake.turns.served(Lane.BATCH if delivery.queue == BATCH else Lane.INTERACTIVE)
        served.append(delivery.queue)
        channel.settle(delivery, intake)
        clock.advance(0.1)
        running += taken(intake, channel)
    assert 30 <= served.count(BATCH) <= 60  # two of the work queue are always pushed


def test_who_was_sorted_is_served_before_all_are_sorted(clock: Clock):
    """A restart with a backlog: the first answer does not wait for the last request to be sorted."""
    channel = Channel(**{REQUESTS: 10_000, WORK: 0, FAIR: 0})
    intake = intake_of(channel, clock, room=4, fair=True)
    sorted_out = 0
    while True:
        channel.push()
        delivery = intake.next() or intake.next_request()
        if delivery is not None and delivery.queue == FAIR:
            break
        if delivery is not None:
            sorted_out += 1
            intake.sort_into(delivery, FAIR)
            channel.settle(delivery, intake)
            channel.queues[FAIR].append(b"x")
        assert sorted_out <= 3 * MOST_IN_A_ROW
