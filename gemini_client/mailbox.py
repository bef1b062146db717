"""Who waits for which answer, and which answers came that nobody waits for. Any thread may call it."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from gemini_client.errors import ClientError, Disconnected, SendUnknown
from gemini_client.messages import Delta, Incoming, Result

Event = Delta | Result | ClientError

#: The queue does not need it any more.
Settle = Callable[[], None]

#: So many `message_id`s are remembered, to drop copies.
REMEMBERED = 10_000

#: So many answers are kept for `collect`. From a named queue no more are fetched, RabbitMQ has the others.
MOST_KEPT = 1_000


@dataclass(slots=True)
class Waiting:
    """One who waits. `confirmed`: RabbitMQ has the request.

    `put` takes what comes, the end of it last, and what is to be called when that is read.
    """

    request_id: str
    put: Callable[[Event, Settle], None]
    confirmed: bool = False
    reached: tuple[int, int] = (-1, -1)

    def is_next(self, delta: Delta) -> bool:
        """Whether it goes on from the piece before it; what is behind that is a copy, or of a void attempt."""
        is_next = (delta.attempt, delta.seq) > self.reached
        self.reached = max(self.reached, (delta.attempt, delta.seq))
        return is_next


@dataclass(slots=True)
class Mailbox:
    """`deliver` hands each answer to one who waits for it, once; what is not waited for is kept until `expect`."""

    collectable: bool
    _waiting: dict[str, Waiting] = field(default_factory=dict)
    _kept: OrderedDict[str, tuple[Incoming, Settle]] = field(default_factory=OrderedDict)
    _seen: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def expect(self, waiting: Waiting) -> None:
        """From now on what comes for this request goes to `waiting`, what has come does so at once.

        Raises ValueError where somebody waits for it already.
        """
        with self._lock:
            if waiting.request_id in self._waiting:
                raise ValueError(f"request {waiting.request_id} is waited for already")
            self._waiting[waiting.request_id] = waiting
            if (kept := self._kept.pop(waiting.request_id, None)) is not None:
                self.deliver(*kept)

    def forget(self, waiting: Waiting) -> None:
        """Nobody waits there any more."""
        with self._lock:
            if self._waiting.get(waiting.request_id) is waiting:
                del self._waiting[waiting.request_id]

    def deliver(self, came: Incoming | None, settle: Settle) -> None:
        """Hand it over, keep it, or drop it; `settle` is called when the queue does not need it any more."""
        with self._lock:
            if came is None or came.message_id in self._seen:
                settle()
            elif isinstance(came.content, Delta):
                self._piece(came.request_id, came.content)
                settle()
            elif (waiting := self._waiting.pop(came.request_id, None)) is None:
                self._keep(came, settle)
            else:
                waiting.put(came.content, partial(self._read, came, settle))

    def lost(self) -> None:
        """The connection has ended: tell all who wait what is known, and drop what the queue still has."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            self._kept.clear()
        for one in waiting.values():
            one.put(self._what_is_known(one), _nothing)

    def _what_is_known(self, waiting: Waiting) -> ClientError:
        if waiting.confirmed:
            return Disconnected(waiting.request_id, collectable=self.collectable)
        text = f"The connection ended before RabbitMQ confirmed request {waiting.request_id}: it may have it"
        return SendUnknown(text, request_id=waiting.request_id)

    def _piece(self, request_id: str, delta: Delta) -> None:
        waiting = self._waiting.get(request_id)
        if waiting is not None and waiting.is_next(delta):
            waiting.put(delta, _nothing)

    def _keep(self, came: Incoming, settle: Settle) -> None:
        self._kept[came.request_id] = (came, settle)
        if not self.collectable and len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    def _read(self, came: Incoming, settle: Settle) -> None:
        """Until now it was RabbitMQ's; it may have come again meanwhile, over another connection."""
        with self._lock:
            settle()
            self._remember(came.message_id)
            if (kept := self._kept.get(came.request_id)) is not None and kept[0].message_id in self._seen:
                del self._kept[came.request_id]
                kept[1]()

    def _remember(self, message_id: str | None) -> None:
        if message_id is not None:
            self._seen[message_id] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)


def _nothing() -> None:
    pass
