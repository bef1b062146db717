"""The early door: while keys are short, who has waited longest for one is taken first, wherever it lies."""

import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from dramatiq.errors import DecodeError

from bridge.delivery import RETRY_S, Delivered, Delivery
from bridge.leases import Leases, NoFreeKey
from bridge.queues import Queues
from bridge.wire import StrictEncoder
from gateway.costs.books import Books
from gateway.errors import StoreUnavailable
from gateway.keys.pool import KeyPool
from gateway.lanes import Lane
from gateway.messages import Job
from gateway.providers import Provider
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import WORK, Topology
from gateway.schedule import LONGEST_STAY_S, in_line_s
from gateway.settings import Settings
from middleware.attempt import Parking

#: How often a worker looks for waiting requests, in seconds: where it knows of some, and where it does not, for another
#: process may have sent them to wait. A look is a round trip for each queue; deliveries wait for it.
LOOK_EVERY_S, LOOK_IDLE_S = 1.0, 5.0

#: How soon the publisher is asked again whether it is ready, in seconds.
NOT_READY_S = 0.05

#: How many messages of a consumed queue are opened in one look: those that are refused, relayed or sorted out are not
#: handed out. A look goes on where it has stopped, a moment later.
MOST_OPENED = 50

#: How many requests are read ahead of their keys at most, so that their deadlines are kept.
MOST_AHEAD = 100

#: After how many new requests in a row with a key at once requests are pushed again: to take one by one is slow.
ENOUGH = 100

#: How many requests at the head of a queue are passed over in one look because their model rests.
LONGEST_PASS = 100

logger = logging.getLogger(__name__)


class _MoreToSort(Exception):
    """The look has ended before the queue has: an interactive request may lie behind."""


class WaitingDoor:
    """Hands out requests each with the key that it was taken for, first come, first served, roughly.

    Keys are short from when somebody has to wait for one until nobody waits any more, or has had to for long. Meanwhile
    nothing is pushed: what has come back from its wait goes before what still waits, and that before what is new and
    stays, in order and at no cost, in the request queue. A request that still waits stays unacked in its delay queue
    until it is settled: after a crash it is back at its place. One whose model rests holds up nobody behind it. One
    whose deadline is near waits in this process, and has its turn before what lies behind it in its queue. All that is
    said for each of two lanes: the interactive one goes first, but for the share of the other (`bridge/turns.py`).

    When no key comes back within the shortest wait, or the budget of the day is spent, everything is fetched as it
    comes, for the retry schedule to decide.
    """

    def __init__(  # noqa: PLR0913 - resources of the process
        self,
        settings: Callable[[], Settings],
        pool: Callable[[], KeyPool],
        provider: Callable[[], Provider],
        topology: Callable[[], Topology],
        publisher: Callable[[], Publisher],
        *,
        books: Callable[[], Books],
        requests_wait: threading.Event,
    ) -> None:
        self.settings = settings
        self.pool = pool
        self.topology = topology
        self.publisher = publisher
        self.books = books
        self.requests_wait = requests_wait
        self._encoder = StrictEncoder()
        self._leases = Leases(pool, provider)
        self._not_before = 0.0
        self._found_nobody_at = -math.inf
        self._pass_until: dict[str, float] = {}  # queues in which all rest that were looked at
        self._drought = False
        self._batch_not_before = 0.0
        self._only_batch_waits = False  # and what keys have left is kept for the others
        self._served_at_once = 0
        self._next_up: Delivered | None = None  # taken from its queue while the last free key went elsewhere

    @property
    def keys_are_short(self) -> bool:
        """Whether nothing is to be fetched but through this door."""
        return self.requests_wait.is_set() and not self._drought and not self._only_batch_waits

    def patience_s(self, longest_s: float) -> float:
        """How long the consumer may sleep before the next look, in seconds."""
        return min(longest_s, max(0.0, self._next_look_at() - time.monotonic()))

    def next(self, queues: Queues) -> Delivered | None:
        """The next request with its lease, or None when no key is free or nobody waits."""
        if time.monotonic() < self._next_look_at():
            return None
        if not self.publisher().ready:
            self._pause(NOT_READY_S)
            return None
        try:
            pause_s = max(self.pool().ready_in_s(), self.books().budget.closed_for_s)
            self._drought = pause_s > in_line_s(self.settings())
            if pause_s > 0:
                self._served_at_once = 0
                self._pause(pause_s)
                if self._drought:
                    return self._take_next_up()
                if self.keys_are_short:
                    self._read_all_ahead(queues)
                return None
            return self._first_in_line(queues)
        except StoreUnavailable as error:
            logger.warning("No early release now: %s", error)
            self.rest()
            return None

    @property
    def holds_one(self) -> bool:
        """Whether somebody was taken from its queue and has no key yet."""
        return self._next_up is not None

    def stop(self) -> None:
        """Give back who is held here. Idempotent."""
        if (held := self._take_next_up()) is not None:
            held.delivery.settle(confirmed=False)

    def rest(self) -> None:
        """Look for nobody for a while."""
        self._pause(LOOK_EVERY_S)

    def _next_look_at(self) -> float:
        every_s = LOOK_EVERY_S if self.requests_wait.is_set() else LOOK_IDLE_S
        return max(self._not_before, self._found_nobody_at + every_s)

    def _pause(self, seconds: float) -> None:
        self._not_before = time.monotonic() + min(seconds, LOOK_EVERY_S)

    def _first_in_line(self, queues: Queues) -> Delivered | None:
        self._only_batch_waits = False
        everything = self.keys_are_short
        self.requests_wait.clear()  # before the look: who comes during it sets it again
        try:
            with closing(self._line(queues, everything=everything)) as line:
                found = next(line, None)
        except NoFreeKey:
            self.requests_wait.set()  # another worker was faster, and somebody waits
            return None
        except _MoreToSort:
            self.requests_wait.set()  # perhaps
            self._pause(0.0 if queues.may_sort else NOT_READY_S)
            return None
        except BaseException:
            self.requests_wait.set()  # perhaps
            raise
        nobody_else = found is None or self._there_are_enough_keys(queues, found)
        self._only_batch_waits = nobody_else and queues.turns.rests(Lane.BATCH)
        if nobody_else:
            self._found_nobody_at = time.monotonic()
        if not nobody_else or self._only_batch_waits:
            self.requests_wait.set()
        return found

    def _there_are_enough_keys(self, queues: Queues, found: Delivered) -> bool:
        """Whether so many new requests in a row have had a key at once that nobody seems to wait for one."""
        queue = found.delivery.queue
        is_new = queue == self.settings().request_queue or queue in queues.turns
        self._served_at_once = self._served_at_once + 1 if is_new else 0
        return self._served_at_once >= ENOUGH

    def _line(self, queues: Queues, *, everything: bool) -> Generator[Delivered]:
        """Requests with their leases, lane by lane; what is pushed otherwise only where `everything` is."""
        if self._next_up is not None and _lane(self._next_up) is Lane.BATCH:
            self._stay(self._next_up)  # in its own lane: the other one may have keys
            self._next_up = None
        if queues.room <= 0:
            yield from self._held()  # it has its room
            return
        for lane in queues.turns.order:
            if lane is Lane.INTERACTIVE:
                yield from self._interactive(queues, everything=everything)
            elif time.monotonic() >= self._batch_not_before:
                yield from self._batch(queues, everything=everything)

    def _interactive(self, queues: Queues, *, everything: bool) -> Iterator[Delivered]:
        """The longest wait first."""
        yield from self._held()
        yield from self._staying(queues, Lane.INTERACTIVE, new=False)
        if everything:
            yield from self._consumed(queues, WORK)
        for queue in reversed(self.topology().key_waits[Lane.INTERACTIVE]):
            yield from self._released(queues, queue)
        yield from self._staying(queues, Lane.INTERACTIVE, new=True)
        if everything:
            yield from self._consumed(queues, self.settings().request_queue)
            for queue in queues.turns.due(Lane.INTERACTIVE):
                yield from self._consumed(queues, queue)

    def _batch(self, queues: Queues, *, everything: bool) -> Iterator[Delivered]:
        """The same for the batch lane. Where only it has no key it rests, and others are pushed meanwhile."""
        lane = Lane.BATCH
        queues.turns.rest(lane, 0.0)
        try:
            yield from self._staying(queues, lane, new=False)
            for queue in reversed(self.topology().key_waits[lane]):
                yield from self._released(queues, queue)
            for queue in queues.turns.due(lane) if everything else ():
                yield from self._consumed(queues, queue)
        except NoFreeKey as none:
            if (held := self._take_next_up()) is not None:
                self._stay(held)
            if self.pool().ready_in_s() > 0:
                raise
            pause_s = min(none.retry_in_s, LOOK_EVERY_S)
            self._batch_not_before = time.monotonic() + pause_s
            queues.turns.rest(lane, pause_s + LOOK_EVERY_S)  # this door is to look first

    def _consumed(self, queues: Queues, queue: str) -> Iterator[Delivered]:
        for _ in range(MOST_OPENED):
            if not queues.may_sort:
                raise _MoreToSort
            if (delivery := queues.get(queue)) is None:
                queues.turns.empty(queue)
                return
            queues.turns.found(queue)
            self._next_up = queues.open(delivery)
            yield from self._held()
        if not queues.turns.batch_is_due:
            raise _MoreToSort

    def _held(self) -> Iterator[Delivered]:
        """Who was taken from its queue while the last free key went elsewhere; it stays at the head of the line."""
        held = self._take_next_up()
        if held is None:
            return
        try:
            if not held.is_gone:
                # Without a lease it is handed out as well: its model rests, and the schedule decides.
                self._leases.give(held, held.args[0])
        except (NoFreeKey, StoreUnavailable):
            self._next_up = held
            raise
        except BaseException:
            held.delivery.settle(confirmed=False, after_s=RETRY_S)
            raise
        yield held

    def _read_all_ahead(self, queues: Queues) -> None:
        turns = queues.turns
        heads = dict.fromkeys((WORK, self.settings().request_queue), Lane.INTERACTIVE)
        heads |= {queue: lane for lane in Lane for queue in turns.due(lane)}
        if [queue for queue, lane in heads.items() if self._read_ahead(queues, queue, lane)]:
            self._pause(0.0 if queues.may_sort else NOT_READY_S)

    def _read_ahead(self, queues: Queues, queue: str, lane: Lane) -> bool:
        """Read who comes next while no key is free: a cancel needs none, and a deadline does not wait for one.

        That ends at the first request that has time: those behind it wait in their queue, in order and at no cost. And
        where this process has no more room: another one may have. Who belongs into another queue is sorted out, however
        many they are: whether there are more of them.
        """
        for _ in range(MOST_OPENED):
            staying = [one for one in queues.parked_for_key() if _lane(one) is lane]
            if len(staying) >= min(MOST_AHEAD, queues.room) or any(
                _has_time(one) for one in staying if one.delivery.queue == queue
            ):
                return False
            if not queues.may_sort:
                return True
            if (delivery := queues.get(queue)) is None:
                queues.turns.empty(queue)
                return False
            queues.turns.found(queue)
            if (message := queues.open(delivery)) is not None:
                self._stay(message)
        return True

    @staticmethod
    def _stay(message: Delivered) -> None:
        """Have it wait for a key in this process, or go back where there is no place."""
        stay_s = min(LONGEST_STAY_S, max(0.0, message.args[0].time_left_s))
        if not message.delivery.park(message, Parking(stay_s, keeps_room=False, for_key=True)):
            message.delivery.settle(confirmed=False, after_s=RETRY_S)

    def _staying(self, queues: Queues, lane: Lane, *, new: bool) -> Iterator[Delivered]:
        """Who waits in this process: too little time is left for a delay queue, or it was read ahead.

        Each has its turn where the queue that it lies in has it: those that are `new`, or those that have waited.
        """
        resting: set[str] = set()
        for message in queues.parked_for_key():
            (job,) = message.args
            is_its_turn = _lane(message) is lane and self._is_new(queues, message) == new
            if not is_its_turn or self._leases.model_of(job) in resting:
                continue
            if self._leases.give(message, job):
                queues.unpark(message)
                yield message
            else:
                resting.add(self._leases.model_of(job))

    def _is_new(self, queues: Queues, message: Delivered) -> bool:
        """Not those of the batch lane: its queue has both kinds."""
        queue = message.delivery.queue
        return _lane(message) is Lane.INTERACTIVE and (queue == self.settings().request_queue or queue in queues.turns)

    def _take_next_up(self) -> Delivered | None:
        held, self._next_up = self._next_up, None
        return held

    def _released(self, queues: Queues, queue: str) -> Iterator[Delivered]:
        if time.monotonic() < self._pass_until.get(queue, 0.0):
            return
        passed: list[Delivery] = []
        resting: set[str] = set()
        try:
            while len(passed) < LONGEST_PASS and (delivery := queues.get(queue)) is not None:
                passed.append(delivery)
                if (released := self._release(delivery, resting)) is not None:
                    passed.remove(delivery)
                    yield released
            if passed:
                self._pass_until[queue] = time.monotonic() + LOOK_EVERY_S
        finally:
            for delivery in passed:
                delivery.settle(confirmed=False)

    def _release(self, delivery: Delivery, resting: set[str]) -> Delivered | None:
        """The request with its lease; None for one that is not ours to judge here, or whose model rests."""
        try:
            message = self._encoder.read(delivery.body, queue=WORK)
        except DecodeError:
            return None
        (job,) = message.args
        if not isinstance(job, Job) or self._leases.model_of(job) in resting:
            return None
        uncounted = job.model_copy(update={"retry_count": max(0, job.retry_count - job.wait_counts)})
        released = Delivered(message.copy(args=(uncounted,)), delivery)
        if not self._leases.give(released, job):
            resting.add(self._leases.model_of(job))
            return None
        logger.info("[%s] Released early from %s", job.request_id, delivery.queue)
        return released


def _lane(message: Delivered) -> Lane:
    (job,) = message.args
    return job.lane if isinstance(job, Job) else Lane.INTERACTIVE


def _has_time(message: Delivered) -> bool:
    """Whether its deadline, if it has one, may be looked at when its turn has come."""
    (job,) = message.args
    return isinstance(job, Job) and job.time_left_s > LONGEST_STAY_S
