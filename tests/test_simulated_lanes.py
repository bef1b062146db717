"""An hour of overload in two lanes, with the real line, keys, ledger and schedule; RabbitMQ and clocks are played."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from actors.broker import requests_wait, resources
from bridge.delivery import Delivered, Delivery
from bridge.turns import Turns
from bridge.waiting import WaitingDoor
from gateway.lanes import Lane
from gateway.messages import Job
from gateway.rabbitmq.topology import BATCH, WORK
from gateway.tags import tag_of
from tests.clock import Clock
from tests.test_simulated_day import REQUESTS, Day, Rabbitmq, number_of
from tests.test_simulated_day import clock as clock  # noqa: PLC0414 - a fixture
from tests.world import World, job, world

HOUR_S = 3600

#: Calls that the one key may make in a minute, and the time that one of them takes its place for.
PER_MINUTE = 10
WINDOW_S = 61


class SortingRabbitmq(Rabbitmq):
    """Has new requests sorted as the request door does."""

    def __init__(self, here: World, clock: Clock) -> None:
        super().__init__(clock)
        self.here = here
        fair = here.topology.fair_queues
        queues = {Lane.INTERACTIVE: fair[Lane.INTERACTIVE], Lane.BATCH: (BATCH, *fair[Lane.BATCH])}
        self.turns = Turns(queues, share=here.settings.batch_share, clock=clock)

    def open(self, delivery: Delivery) -> Delivered | None:  # type: ignore[override]
        message = super().open(delivery)
        (one,) = message.args
        entry = self.here.topology.entry(one.lane, tag_of(one.request, self.here.settings.fairness_field))
        if delivery.queue != REQUESTS or entry is None:
            return message
        self.put(entry, delivery.body)
        self.turns.filled(entry)
        delivery.settle(confirmed=True)
        return None

    def pushed(self) -> Delivered | None:
        queues = {lane: self.turns.due(lane) for lane in Lane}
        queues[Lane.INTERACTIVE] = [WORK, REQUESTS, *queues[Lane.INTERACTIVE]]
        for queue in [queue for lane in self.turns.order for queue in queues[lane]]:
            while (delivery := self.get(queue)) is not None:
                if (message := self.open(delivery)) is not None:
                    return message
            self.turns.empty(queue)
        return None


class Hour(Day):
    """Requests of each lane arrive at their own pace."""

    def __init__(self, here: World, clock: Clock) -> None:
        super().__init__(here, clock)
        self.rabbitmq: SortingRabbitmq = SortingRabbitmq(here, clock)
        self.door = WaitingDoor(
            resources.settings,
            resources.pool,
            resources.provider,
            resources.topology,
            resources.publisher,
            books=resources.books,
            requests_wait=requests_wait,
        )
        self.numbers = count()
        self.arrived: dict[int, tuple[Lane, float]] = {}
        self.waited_s: dict[Lane, list[float]] = defaultdict(list)
        self.order: dict[Lane, list[int]] = defaultdict(list)

    def arrive(self, lane: Lane, **metadata: str) -> int:
        number = next(self.numbers)
        one: Job = job(number, received_at=self.clock(), lane=lane)
        one = one.model_copy(update={"request": one.request.model_copy(update={"metadata": metadata})})
        self.arrived[number] = lane, self.clock()
        self.rabbitmq.put(REQUESTS, self.here.message(one).encode())
        return number

    def seconds(self, many: int, arrivals: Callable[[int], object]) -> None:
        for second in range(many):
            arrivals(second)
            self.rabbitmq.end_waits()
            while self.work():
                self.sort_what_was_published()
            self.clock.advance(1.0)
        for number in self.answered:
            lane, _at = self.arrived[number]
            self.order[lane].append(number)

    def work(self) -> bool:
        found = self.rabbitmq.process.take_due() or self.door.next(self.rabbitmq)
        if found is None and not self.door.keys_are_short:
            found = self.rabbitmq.pushed()
        if found is None:
            return False
        self.rabbitmq.turns.served(found.args[0].lane)
        self.here.run(found)
        return True

    def sort_what_was_published(self) -> None:
        for queue, _body, properties in self.here.publisher.sent:
            if queue == "gemini.responses":
                lane, at = self.arrived[number_of(properties)]
                self.waited_s[lane].append(self.clock() - at)
        super().sort_what_was_published()


@pytest.fixture
def hour(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Hour]]:
    opened = []

    def made(**settings: str) -> Hour:
        key = {"OPENROUTER_API_KEYS": "sk-or-v1-key-one-1111", "KEYS_MAX_PER_MINUTE": str(PER_MINUTE)}
        context = world(tmp_path, clock, **key, **settings)
        opened.append(context)
        return Hour(context.__enter__(), clock)

    yield made
    for context in opened:
        context.__exit__(None, None, None)


def paced(hour: Hour, lane: Lane, of_the_keys: float) -> Callable[[int], None]:
    """Arrivals of a lane, as a part of what the keys can do."""
    arrived = count()
    last = next(arrived)

    def arrive(second: int) -> None:
        nonlocal last
        while last < second * of_the_keys * PER_MINUTE / 60:
            hour.arrive(lane)
            last = next(arrived)

    return arrive


def both(*arrivals: Callable[[int], object]) -> Callable[[int], None]:
    return lambda second: [arrive(second) for arrive in arrivals] and None


def is_in_order(numbers: list[int]) -> bool:
    """Nobody is passed by more than those of one window."""
    ranked = sorted(numbers)
    return max(abs(ranked.index(number) - place) for place, number in enumerate(numbers)) <= PER_MINUTE


def test_under_overload_of_the_batch_lane_no_request_starves(hour: Callable[..., Hour]):
    """Interactive ones have a key when the next one is free; batch ones all that is left, in order; nobody climbs."""
    seen = hour()
    seen.seconds(HOUR_S, both(paced(seen, Lane.BATCH, 1.3), paced(seen, Lane.INTERACTIVE, 0.5)))
    interactive, batch = seen.order[Lane.INTERACTIVE], seen.order[Lane.BATCH]
    assert len(interactive) >= 0.5 * PER_MINUTE * 60 - 2
    assert max(seen.waited_s[Lane.INTERACTIVE]) <= WINDOW_S
    assert is_in_order(interactive)
    assert is_in_order(batch)
    assert len(interactive) + len(batch) >= (HOUR_S / WINDOW_S - 1) * PER_MINUTE
    assert seen.waited_in <= {"gemini.batch.delay.60s", "gemini.generate.delay.60s"}


def test_under_overload_of_the_interactive_lane_batch_has_its_share(hour: Callable[..., Hour]):
    """And no more: those who wait for their answer are served in order."""
    seen = hour(BATCH_SHARE="0.2")
    seen.seconds(HOUR_S, both(paced(seen, Lane.BATCH, 0.5), paced(seen, Lane.INTERACTIVE, 1.3)))
    served, batch = len(seen.answered), len(seen.order[Lane.BATCH])
    assert served >= (HOUR_S / WINDOW_S - 1) * PER_MINUTE
    assert 0.2 * served - 2 <= batch <= 0.2 * served + PER_MINUTE
    for lane in Lane:
        assert is_in_order(seen.order[lane]), lane


def test_a_reserve_is_free_in_the_middle_of_a_batch(hour: Callable[..., Hour]):
    """An interactive request waits for no window; without the reserve one of a few does."""
    seen = hour(INTERACTIVE_RESERVE="0.2")
    now_and_then = 97
    seen.seconds(
        HOUR_S,
        both(paced(seen, Lane.BATCH, 1.3), lambda second: second % now_and_then or seen.arrive(Lane.INTERACTIVE)),
    )
    assert len(seen.waited_s[Lane.INTERACTIVE]) == len(range(0, HOUR_S, now_and_then))
    assert max(seen.waited_s[Lane.INTERACTIVE]) <= 1.0
    assert len(seen.order[Lane.BATCH]) >= 0.8 * (HOUR_S / WINDOW_S - 1) * PER_MINUTE
    assert is_in_order(seen.order[Lane.BATCH])


@pytest.mark.parametrize("lane", list(Lane))
def test_sixty_batch_requests_take_no_longer_for_being_batch(hour: Callable[..., Hour], lane: Lane):
    """The keys' budget is used as ever; and one that comes behind them, and is waited for, has the next key."""
    seen = hour()
    sixty = {seen.arrive(lane) for _ in range(60)}
    late: list[int] = []
    seen.seconds(7 * WINDOW_S, lambda second: second == 5 and late.append(seen.arrive(Lane.INTERACTIVE)))
    assert set(seen.answered) == sixty | {*late}
    # Sixty-one, ten in a window: that is what there is.
    assert max(seen.waited_s[lane]) == pytest.approx(6 * WINDOW_S, rel=0.05)
    if lane is Lane.BATCH:
        assert seen.waited_s[Lane.INTERACTIVE] == [WINDOW_S - 5]


@pytest.mark.parametrize("lane", list(Lane))
def test_tags_take_turns(hour: Callable[..., Hour], lane: Lane):
    """One has three hundred in front: of another one's ten each is served after one of those."""
    seen = hour(FAIRNESS_FIELD="tenant")
    many, few = "many", "few"
    assert seen.here.topology.entry(lane, many) != seen.here.topology.entry(lane, few)
    late: list[int] = []

    def arrive(second: int) -> None:
        if second == 0:
            for _ in range(300):
                seen.arrive(lane, tenant=many)
        if second == WINDOW_S:
            late.extend(seen.arrive(lane, tenant=few) for _ in range(10))

    seen.seconds(6 * WINDOW_S, arrive)
    places = [seen.answered.index(number) for number in late]
    between = places[-1] - places[0]
    assert between <= 2 * len(late)
    assert places[0] <= 2 * PER_MINUTE + 2
    assert seen.answered[:PER_MINUTE] == list(range(PER_MINUTE))


def test_without_a_field_of_fairness_requests_are_served_as_they_came(hour: Callable[..., Hour]):
    """That is the default."""
    seen = hour()
    tags = [{"tenant": tag} for tag in ("many", "many", "few") * 10]
    seen.seconds(4 * WINDOW_S, lambda second: second or [seen.arrive(Lane.INTERACTIVE, **tag) for tag in tags])
    assert is_in_order(seen.answered)
    assert sum(seen.waited_s[Lane.INTERACTIVE]) > 0
