"""Early release: who waits is handed out in order, with the key it was released for, and only then."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors import broker as the_broker
from actors.broker import requests_wait, resources
from bridge.delivery import Delivered, Delivery
from bridge.turns import Turns
from bridge.waiting import ENOUGH, MOST_AHEAD, MOST_OPENED, WaitingDoor
from gateway.costs.budget import Budget
from gateway.costs.call import NANO
from gateway.errors import RateLimited, Scope, StoreUnavailable
from gateway.keys.pool import KeyPool, Lease, Unavailable
from gateway.lanes import Lane
from gateway.rabbitmq.topology import BATCH
from middleware.attempt import Parking, attempt_of
from tests.clock import Clock
from tests.world import Channel, Source, World, delivery, job, world

SHORT, LONG = "gemini.generate.delay.60s", "gemini.generate.delay.600s"


class ParkingSource(Source):
    """Parks beside those that wait already."""

    def __init__(self, waiting: list[Delivered]) -> None:
        super().__init__()
        self.waiting = waiting

    def park(self, message: Delivered, parking: Parking) -> bool:
        self.waiting.append(message)
        return super().park(message, parking)


class DelayQueues:
    """The delay queues, as the consumer gets from them."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[bytes]] = {}
        self.got: list[tuple[str, bytes]] = []
        self.channel = Channel()
        self.parked: list[Delivered] = []
        self.source = ParkingSource(self.parked)
        self.turns = Turns({Lane.BATCH: (BATCH,)}, share=0.2, clock=Clock())

    def get(self, queue: str) -> Delivery | None:
        if not self.waiting.get(queue):
            return None
        body = self.waiting[queue].pop(0)
        self.got.append((queue, body))
        return delivery(self.channel, queue=queue, body=body, source=self.source)

    room = 1000
    may_sort = True

    def parked_for_key(self) -> list[Delivered]:
        return list(self.parked)

    def unpark(self, message: Delivered) -> None:
        self.parked.remove(message)

    def open(self, delivery: Delivery) -> Delivered | None:
        if delivery.body == b"refused":
            delivery.settle(confirmed=True)
            return None
        return Delivered(the_broker.encoder.read(delivery.body, queue="gemini.generate"), delivery)

    @property
    def settled(self) -> list[str]:
        return self.channel.sent


class Room:
    """A waiting door with its queues."""

    def __init__(self, queues: DelayQueues) -> None:
        self.queues = queues
        self.door = WaitingDoor(
            resources.settings,
            resources.pool,
            resources.provider,
            resources.topology,
            resources.publisher,
            books=resources.books,
            requests_wait=requests_wait,
        )

    def next(self) -> Delivered | None:
        return self.door.next(self.queues)

    def patience_s(self, longest_s: float) -> float:
        return self.door.patience_s(longest_s)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, OPENROUTER_API_KEYS="sk-or-v1-key-one-1111", KEYS_MAX_PER_MINUTE="2") as made:
        yield made


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """It stands, so that two looks are no further apart than a test says."""
    made = Clock()
    monkeypatch.setattr("bridge.waiting.time", SimpleNamespace(monotonic=made))
    return made


@pytest.fixture
def queues(here: World) -> DelayQueues:
    made = DelayQueues()
    for queue, number in ((LONG, 1), (SHORT, 2), (SHORT, 3)):
        body = here.message(job(number, retry_count=1)).encode()
        made.waiting.setdefault(queue, []).append(body)
    return made


def room(queues: DelayQueues) -> Room:
    return Room(queues)


def test_who_has_waited_longest_comes_first_and_in_order(here: World, queues: DelayQueues):
    """No more are handed out than the keys have places: two of three."""
    waiting = room(queues)
    found = [waiting.next() for _ in range(3)]
    assert [delivery.args[0].request_id for delivery in found if delivery] == ["r-1", "r-2"]
    assert found[2] is None


def test_an_early_release_counts_no_retry_and_brings_its_key(here: World, queues: DelayQueues):
    """The wait was a ceiling, and it was not used up."""
    delivery = room(queues).next()
    assert delivery is not None
    assert delivery.args[0].retry_count == 0
    assert attempt_of(delivery).lease is not None


def test_a_key_that_was_not_used_is_given_back_with_its_delivery(here: World, queues: DelayQueues):
    """A hook above key selection has ended it, or the worker stops: the key's place in its window is free again."""
    waiting = room(queues)
    for _ in range(3):
        delivery = waiting.next()
        assert delivery is not None
        delivery.settle()
    assert [status.used for status in here.pool.status()] == [0]


def test_what_is_released_is_acked_in_its_delay_queue_when_it_is_settled(here: World, queues: DelayQueues):
    """Until then it keeps its place there: a crash loses nothing."""
    delivery = room(queues).next()
    assert delivery is not None
    assert queues.settled == []
    delivery.settle()
    assert queues.settled == ["requeue"]


def test_nothing_is_fetched_while_no_key_is_free(here: World, queues: DelayQueues):
    """No message goes to and fro."""
    for _ in range(2):
        here.pool.acquire("any")
    assert room(queues).next() is None
    assert queues.got == []


def test_nothing_is_fetched_while_answers_cannot_be_published(here: World, queues: DelayQueues):
    """F42: a lease would grow old while its call is held back."""
    here.publisher.ready = False
    assert room(queues).next() is None
    assert queues.got == []


def test_a_store_that_fails_after_the_fetch_gives_the_request_back(
    here: World, queues: DelayQueues, monkeypatch: pytest.MonkeyPatch
):
    """It must not stay fetched by a consumer that has forgotten it."""

    def fail(_pool: KeyPool, _model: str, **_: object) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(KeyPool, "acquire", fail)
    assert room(queues).next() is None
    assert queues.settled == ["requeue"]


def test_what_cannot_be_read_goes_back_and_holds_up_nobody(queues: DelayQueues):
    """The dead queue is the work queue's business, when its wait is over."""
    queues.waiting[LONG].insert(0, b"garbage")
    delivery = room(queues).next()
    assert delivery is not None
    assert delivery.args[0].request_id == "r-1"
    assert queues.settled == ["requeue"]


def test_one_whose_model_rests_holds_up_nobody_behind_it(here: World, queues: DelayQueues):
    """F66: it goes back to its place; its model is asked about once for all that want it."""
    lease = here.pool.acquire("resting")
    assert isinstance(lease, Lease)
    here.pool.cool(lease, RateLimited("HTTP 429", reason="busy", scope=Scope.MODEL, retry_after_s=3000.0))
    here.pool.cancel(lease)
    resting = job(9).model_copy(update={"request": job(9).request.model_copy(update={"model": "resting"})})
    queues.waiting[SHORT] = [here.message(resting).encode()] * 3 + queues.waiting[SHORT]
    queues.waiting[LONG] = []
    waiting = room(queues)
    delivery = waiting.next()
    assert delivery is not None
    assert delivery.args[0].request_id == "r-2"
    assert queues.settled == ["requeue"] * 3


def test_while_keys_are_short_new_requests_come_last_and_with_a_key(here: World, queues: DelayQueues):
    """F67: what has come back from its wait first, then those who wait, then who is new."""
    queues.waiting["gemini.requests"] = [here.message(job(number)).encode() for number in (5, 7)]
    queues.waiting["gemini.generate"] = [b"refused", here.message(job(6)).encode()]
    queues.waiting[SHORT] = []
    requests_wait.set()
    waiting = room(queues)
    first, second, third = (waiting.next() for _ in range(3))
    assert [one.args[0].request_id for one in (first, second) if one] == ["r-6", "r-1"]
    assert third is None
    assert [one.args[0].request_id for one in queues.parked] == ["r-5"]  # the first of them, read ahead
    assert len(queues.waiting["gemini.requests"]) == 1
    assert waiting.door.keys_are_short


def test_when_many_new_requests_have_had_a_key_at_once_they_are_pushed_again(tmp_path: Path):
    """A worker that starts, or has caught up, with a backlog: to take it one by one is slow. A wait begins anew."""
    with world(tmp_path, KEYS_MAX_PER_MINUTE="1000") as here:
        queues = DelayQueues()
        new = here.message(job(1)).encode()
        queues.waiting = {"gemini.requests": [new] * (2 * ENOUGH)}
        requests_wait.set()
        waiting = room(queues)
        for _ in range(ENOUGH - 1):
            assert waiting.next() is not None
        queues.waiting[SHORT] = [here.message(job(2, retry_count=1)).encode()]
        for _ in range(ENOUGH):
            assert waiting.next() is not None
            assert waiting.door.keys_are_short
        assert waiting.next() is not None
        assert not waiting.door.keys_are_short


def test_one_that_was_taken_from_its_queue_in_vain_is_the_next(
    here: World, queues: DelayQueues, monkeypatch: pytest.MonkeyPatch
):
    """F67: another worker was faster. It makes no way through a step of the schedule, and nobody passes it."""
    queues.waiting = {"gemini.requests": [here.message(job(n)).encode() for n in (7, 8)]}
    requests_wait.set()
    waiting = room(queues)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(here.pool, "acquire", lambda _model, **_: Unavailable(1.0, refused=False))
        ready = iter([0.0, 1.0])
        meanwhile.setattr(here.pool, "ready_in_s", lambda **_: next(ready))
        assert waiting.next() is None
    assert waiting.door.keys_are_short
    found = [waiting.next(), waiting.next()]
    assert [one.args[0].request_id for one in found if one] == ["r-7", "r-8"]
    assert queues.settled == []


def test_a_look_opens_only_a_few_that_are_not_handed_out(here: World, queues: DelayQueues):
    """The thread has acks and heartbeats to serve."""
    queues.waiting = {"gemini.requests": [b"refused"] * 1000}
    requests_wait.set()
    assert room(queues).next() is None
    assert len(queues.got) == MOST_OPENED


def test_a_look_that_fails_is_none_that_found_nobody(here: World, queues: DelayQueues):
    """Whoever waits still waits, and is not passed by what is new."""
    requests_wait.set()
    waiting = room(queues)
    queues.get = lambda _queue: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(ZeroDivisionError):
        waiting.next()
    assert waiting.door.keys_are_short


def test_an_uncounted_wait_takes_nothing_from_the_count(here: World, queues: DelayQueues):
    """It was in line."""
    queues.waiting = {SHORT: [here.message(job(4, retry_count=3, wait_counts=False)).encode()]}
    delivery = room(queues).next()
    assert delivery is not None
    assert delivery.args[0].retry_count == 3


def test_a_key_does_not_wait_with_its_request(here: World, queues: DelayQueues):
    """The same work runs elsewhere: the request is parked, and its place in the window is free for another."""
    delivery = room(queues).next()
    assert delivery is not None
    attempt_of(delivery).park("it runs elsewhere", after_s=1.0)
    delivery.settle()
    assert queues.settled == []
    assert [status.used for status in here.pool.status()] == [0]


def test_one_that_is_held_goes_back_when_the_worker_stops(
    here: World, queues: DelayQueues, monkeypatch: pytest.MonkeyPatch
):
    """Another worker has it sooner than this process ends."""
    queues.waiting = {"gemini.requests": [here.message(job(7)).encode()]}
    requests_wait.set()
    waiting = room(queues)
    monkeypatch.setattr(here.pool, "acquire", lambda _model, **_: Unavailable(1.0, refused=False))
    ready = iter([0.0, 1.0])
    monkeypatch.setattr(here.pool, "ready_in_s", lambda **_: next(ready))
    assert waiting.next() is None
    waiting.door.stop()
    waiting.door.stop()
    assert queues.settled == ["requeue"]


def test_one_that_is_held_goes_on_the_schedule_when_no_key_comes_back_soon(
    here: World, queues: DelayQueues, monkeypatch: pytest.MonkeyPatch
):
    """As every request does then."""
    queues.waiting = {"gemini.requests": [here.message(job(7)).encode()]}
    requests_wait.set()
    waiting = room(queues)
    monkeypatch.setattr(here.pool, "acquire", lambda _model, **_: Unavailable(1.0, refused=False))
    ready = iter([0.0, 1.0, 3600.0])
    monkeypatch.setattr(here.pool, "ready_in_s", lambda **_: next(ready))
    assert waiting.next() is None
    delivery = waiting.next()
    assert delivery is not None
    assert attempt_of(delivery).lease is None


def test_keys_are_short_no_longer_when_nobody_waits_and_nothing_is_new(here: World):
    """From then on RabbitMQ pushes what arrives."""
    requests_wait.set()
    waiting = room(DelayQueues())
    assert waiting.next() is None
    assert not waiting.door.keys_are_short


def test_when_no_key_comes_back_within_the_shortest_wait_all_is_fetched(here: World, clock: Clock):
    """Every request goes on the schedule then, as documented, and ends with its error."""
    requests_wait.set()
    lease = here.pool.acquire("any")
    assert isinstance(lease, Lease)
    waiting = room(DelayQueues())
    here.pool.cool(lease, RateLimited("HTTP 429", reason="daily", scope=Scope.KEY, retry_after_s=50.0))
    assert waiting.next() is None
    assert waiting.door.keys_are_short
    here.pool.cool(lease, RateLimited("HTTP 429", reason="daily", scope=Scope.KEY, retry_after_s=3000.0))
    clock.advance(1.0)
    assert waiting.next() is None
    assert not waiting.door.keys_are_short


def test_a_look_that_found_nobody_is_not_repeated_at_once(here: World, clock: Clock):
    """A busy consumer would spend its time asking, and deliveries would wait behind it."""
    queues = DelayQueues()
    waiting = room(queues)
    assert waiting.next() is None
    queues.waiting[SHORT] = [here.message(job()).encode()]
    assert waiting.next() is None
    assert waiting.patience_s(60.0) == 5.0
    clock.advance(5.0)
    assert waiting.next() is not None


def test_who_is_sent_to_wait_here_is_looked_for_soon(here: World):
    """This process knows of it; of those that other processes have sent it does not."""
    waiting = room(DelayQueues())
    assert waiting.next() is None
    here.provider.script = [RateLimited("HTTP 429", reason="http_429", status=429, retry_after_s=30.0)]
    here.deliver(here.message(job()))
    assert here.copies(SHORT)
    assert waiting.patience_s(60.0) == 1.0


def test_while_there_are_more_the_looks_are_frequent(here: World, queues: DelayQueues):
    """One was found, so there may be another, whoever has sent it."""
    waiting = room(queues)
    assert waiting.next() is not None
    assert waiting.patience_s(60.0) == 0.0
    queues.waiting.clear()
    assert waiting.next() is None
    assert waiting.patience_s(60.0) == 5.0


def staying(here: World, queues: DelayQueues, number: int, *, of: str = "gemini.requests", **request: str) -> Delivered:
    """A request of that queue that waits in this process until its deadline."""
    waiting = job(number, expires_at=time.time() + 30.0)
    waiting = waiting.model_copy(update={"request": waiting.request.model_copy(update=request)})
    message = Delivered(here.message(waiting), delivery(queues.channel, queue=of, source=queues.source))
    queues.parked.append(message)
    return message


def test_who_waits_here_for_its_deadline_has_its_turn_before_those_that_are_new(here: World, queues: DelayQueues):
    """And after those in the delay queues, which have waited longer."""
    staying(here, queues, 5)
    queues.waiting = {SHORT: [here.message(job(4)).encode()], "gemini.requests": [here.message(job(6)).encode()]}
    requests_wait.set()
    waiting = room(queues)
    first, second, third = (waiting.next() for _ in range(3))
    assert [one.args[0].request_id for one in (first, second) if one] == ["r-4", "r-5"]
    assert third is None
    assert [one.args[0].request_id for one in queues.parked] == ["r-6"]
    assert second is not None
    assert attempt_of(second).lease is not None
    assert second.args[0].retry_count == 0


def test_who_waits_here_and_has_waited_before_is_the_first(here: World, queues: DelayQueues):
    """As one that has come back from its wait is, in whose queue it lies."""
    staying(here, queues, 5, of="gemini.generate")
    delivery = room(queues).next()
    assert delivery is not None
    assert delivery.args[0].request_id == "r-5"


def test_what_has_come_back_from_its_wait_is_read_ahead_too(here: World, queues: DelayQueues):
    """Each queue up to the first request that has time."""
    soon, later = here.message(job(4, expires_at=time.time() + 5.0)).encode(), here.message(job(5)).encode()
    queues.waiting = {queue: [soon, later, later] for queue in ("gemini.generate", "gemini.requests")}
    use_up_the_keys(here)
    assert room(queues).next() is None
    assert [(one.delivery.queue, one.args[0].request_id) for one in queues.parked] == [
        ("gemini.generate", "r-4"),
        ("gemini.generate", "r-5"),
        ("gemini.requests", "r-4"),
        ("gemini.requests", "r-5"),
    ]


def test_one_that_is_released_early_and_not_wanted_leaves_its_key_to_others(here: World, queues: DelayQueues):
    """Its sender has cancelled it while it lay there: the place in the key's window is free again."""
    here.stores.ledger.cancel("r-1")
    delivery = room(queues).next()
    assert delivery is not None
    here.run(delivery)
    (envelope,) = here.publisher.to("gemini.responses")
    assert (envelope["request_id"], envelope["error_code"]) == ("r-1", "cancelled")
    assert [status.used for status in here.pool.status()] == [0]
    assert queues.settled == ["ack"]


def test_who_waits_here_for_a_model_that_rests_holds_up_nobody(here: World, queues: DelayQueues):
    """F66: it goes on waiting here."""
    lease = here.pool.acquire("resting")
    assert isinstance(lease, Lease)
    here.pool.cool(lease, RateLimited("HTTP 429", reason="busy", scope=Scope.MODEL, retry_after_s=3000.0))
    here.pool.cancel(lease)
    queues.waiting = {}
    resting = [staying(here, queues, number, model="resting") for number in (4, 5)]
    staying(here, queues, 6)
    delivery = room(queues).next()
    assert delivery is not None
    assert delivery.args[0].request_id == "r-6"
    assert queues.parked == resting


def test_whose_deadline_has_passed_is_handed_out_without_a_key(here: World, queues: DelayQueues):
    """It needs none to be told so, and others do."""
    late = job(4, expires_at=time.time() - 1.0)
    queues.waiting = {SHORT: [here.message(late).encode()]}
    delivery = room(queues).next()
    assert delivery is not None
    assert attempt_of(delivery).lease is None
    assert [status.used for status in here.pool.status()] == [0]


def use_up_the_keys(here: World) -> None:
    for _ in range(2):
        here.pool.acquire("any")
    requests_wait.set()


def test_while_no_key_is_free_new_requests_are_read_up_to_the_first_that_has_time(here: World, queues: DelayQueues):
    """Their deadlines are kept, and cancels among them read; those behind it wait in their queue."""
    soon, later = (job(number, expires_at=time.time() + left_s) for number, left_s in ((4, 5.0), (5, 600.0)))
    behind = here.message(job(6)).encode()
    queues.waiting = {
        "gemini.requests": [here.message(soon).encode(), b"refused", here.message(later).encode(), behind]
    }
    use_up_the_keys(here)
    waiting = room(queues)
    assert waiting.next() is None
    (first, for_soon), (second, for_later) = queues.source.parked
    assert [message.args[0].request_id for message in (first, second)] == ["r-4", "r-5"]
    assert 0 < for_soon.after_s <= 5.0
    assert (for_soon.for_key, for_soon.keeps_room, for_later.after_s) == (True, False, 60.0)
    assert queues.waiting["gemini.requests"] == [behind]


def test_no_more_is_read_ahead_than_a_process_may_keep(here: World, queues: DelayQueues):
    """However many deadlines there are."""
    for number in range(MOST_AHEAD - 1):
        staying(here, queues, number)
    soon = here.message(job(4, expires_at=time.time() + 5.0)).encode()
    queues.waiting = {"gemini.requests": [soon, soon]}
    use_up_the_keys(here)
    assert room(queues).next() is None
    assert queues.waiting["gemini.requests"] == [soon]


def test_no_more_is_read_ahead_than_there_is_room_for(here: World, queues: DelayQueues):
    """Else it would wait for a busy thread of this process, while another process has a key and a thread."""
    soon = here.message(job(4, expires_at=time.time() + 5.0)).encode()
    queues.waiting = {"gemini.requests": [soon, soon, soon]}
    queues.room = 2
    use_up_the_keys(here)
    assert room(queues).next() is None
    assert queues.waiting["gemini.requests"] == [soon]


def test_what_finds_no_place_here_goes_back_to_its_queue(here: World, queues: DelayQueues):
    """Its connection has ended, or others wait for something of their own."""
    queues.waiting = {"gemini.requests": [here.message(job(4)).encode()]}
    queues.source.park = lambda _message, _parking: False  # type: ignore[method-assign]
    use_up_the_keys(here)
    assert room(queues).next() is None
    assert (queues.settled, queues.source.later) == (["requeue"], [1.0])


def test_nothing_is_read_ahead_where_everything_is_fetched(here: World, queues: DelayQueues):
    """Nobody waits, so requests are pushed."""
    use_up_the_keys(here)
    requests_wait.clear()
    queues.waiting = {"gemini.requests": [here.message(job(4)).encode()]}
    assert room(queues).next() is None
    assert queues.source.parked == []


def test_nobody_is_released_while_the_budget_is_spent(here: World, queues: DelayQueues, clock: Clock):
    """Keys are free, and they would only be sent to wait again; when there is something to spend it is their turn."""
    budget = here.books.budget = Budget(here.stores.costs, 1.0, clock=clock)
    budget._ends_at = clock() + 1000.0
    budget.spend(2 * NANO)
    waiting = room(queues)
    assert waiting.next() is None
    assert not waiting.door.keys_are_short
    assert queues.got == []
    clock.advance(1001.0)
    found = waiting.next()
    assert found is not None
    assert found.args[0].request_id == "r-1"
