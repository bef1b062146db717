"""Whose turn it is: the interactive lane before the batch lane, and within a lane one queue after the other."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from gateway.lanes import Lane

#: How long a queue that was found empty is not looked into again, in seconds, unless this process has filled it: others
#: fill it, too. A look is a round trip.
LOOK_EVERY_S = 1.0

#: So many requests that were sorted out count as one that was served: the share holds while there is no end of them.
SORTED_AS_ONE = 50


class Ring:
    """The queues of one lane, in turn. Nothing of theirs is pushed, so what is known of them is remembered here."""

    def __init__(self, queues: Sequence[str], clock: Callable[[], float]) -> None:
        self._queues = list(queues)
        self._clock = clock
        self._look_at = dict.fromkeys(queues, 0.0)
        self._filled: set[str] = set()
        self.rests_until = 0.0

    @property
    def now(self) -> float:
        return self._clock()

    @property
    def somebody_waits(self) -> bool:
        """As far as this process knows, and could have a key."""
        return bool(self._filled) and self._clock() >= self.rests_until

    @property
    def next_look_at(self) -> float:
        """On the clock of the process; infinity where there is no queue."""
        return max(self.rests_until, min(self._look_at.values(), default=math.inf))

    def due(self) -> list[str]:
        """Where there may be something now: the one that was served last comes last."""
        now = self._clock()
        if now < self.rests_until:
            return []
        return [queue for queue in self._queues if queue in self._filled or self._look_at[queue] <= now]

    def filled(self, queue: str) -> None:
        """There is something in it. On any thread."""
        if queue in self._look_at:
            self._filled.add(queue)

    def found(self, queue: str) -> None:
        """One of it was taken: the others have their turn."""
        self._filled.add(queue)
        self._queues.remove(queue)
        self._queues.append(queue)

    def empty(self, queue: str) -> None:
        self._filled.discard(queue)
        self._look_at[queue] = self._clock() + LOOK_EVERY_S


class Turns:
    """Interactive requests go first, but for a share of what is served: that is batch while there is any.

    Which queues there are is told by `queues`: those of a lane that nothing pushes. For the thread of the consumer.
    """

    def __init__(
        self, queues: Mapping[Lane, Sequence[str]], *, share: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rings = {lane: Ring(queues.get(lane, ()), clock) for lane in Lane}
        self._lane_of = {queue: lane for lane, names in queues.items() for queue in names}
        self._share = share
        self._owed = 0.0

    def __contains__(self, queue: str) -> bool:
        return queue in self._lane_of

    @property
    def has_share(self) -> bool:
        """Whether batch is served, too, while interactive requests take all the room."""
        return self._share > 0

    @property
    def batch_is_due(self) -> bool:
        """Whether batch has had less than its share since somebody of it waits."""
        return (self._owed >= 1.0 or self._share >= 1.0) and self._rings[Lane.BATCH].somebody_waits

    @property
    def order(self) -> tuple[Lane, Lane]:
        """Who is to be looked for first."""
        first, then = Lane.INTERACTIVE, Lane.BATCH
        return (then, first) if self.batch_is_due else (first, then)

    @property
    def order_of_looks(self) -> tuple[Lane, Lane]:
        """The same; but batch first, once in LOOK_EVERY_S, where nobody here knows whether it waits.

        It may have been there before this process, or others have filled it.
        """
        batch = self._rings[Lane.BATCH]
        is_unknown = self.has_share and not batch.somebody_waits and batch.due()
        return (Lane.BATCH, Lane.INTERACTIVE) if is_unknown else self.order

    @property
    def somebody_waits(self) -> bool:
        """In a queue of either lane, as far as this process knows."""
        return any(ring.somebody_waits for ring in self._rings.values())

    @property
    def next_look_at(self) -> float:
        return min(ring.next_look_at for ring in self._rings.values())

    def due(self, lane: Lane) -> list[str]:
        """The queues of a lane to look into, in turn."""
        return self._rings[lane].due()

    def filled(self, queue: str) -> None:
        if queue in self._lane_of:
            self._rings[self._lane_of[queue]].filled(queue)

    def found(self, queue: str) -> None:
        if queue in self._lane_of:
            self._rings[self._lane_of[queue]].found(queue)

    def empty(self, queue: str) -> None:
        if queue in self._lane_of:
            self._rings[self._lane_of[queue]].empty(queue)

    def rest(self, lane: Lane, for_s: float) -> None:
        """There is no key for this lane before that: its queues are left alone."""
        ring = self._rings[lane]
        ring.rests_until = ring.now + for_s

    def rests(self, lane: Lane) -> bool:
        ring = self._rings[lane]
        return ring.now < ring.rests_until

    def served(self, lane: Lane) -> None:
        """One of a lane was handed out. A debt is not saved up: who comes late has no more than the share."""
        if lane is Lane.BATCH:
            self._owed = max(0.0, self._owed - 1.0)
        else:
            self._add(1.0)

    def sorted_out(self) -> None:
        """A request was moved to one of these queues."""
        self._add(1 / SORTED_AS_ONE)

    def _add(self, count: float) -> None:
        """With a share of one fifth, four interactive requests make one turn of batch."""
        if not self._rings[Lane.BATCH].somebody_waits:
            self._owed = 0.0
        elif self._share < 1:
            each = self._share / (1 - self._share)
            self._owed = min(1.0 + each, self._owed + count * each)
