"""Deliveries that wait without a thread: for a call that runs elsewhere, or for a server that is away."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bridge.delivery import Delivered
from middleware.attempt import Parking

#: How many may wait for something of their own. Those beyond it go back to their queue, and come again after a pause.
LIMIT = 1000

#: How many bytes their bodies may have in all; each is there twice, as it came and as a request.
MOST_BYTES = 64 * 1024 * 1024


@dataclass(eq=False, slots=True)
class _Place:
    message: Delivered
    due_at: float
    keeps_room: bool
    for_key: bool

    @property
    def next_at(self) -> float:
        """When it is to be taken. RabbitMQ delivers one again that is gone: what it holds is for that delivery."""
        return -math.inf if self.for_key and self.message.is_gone else self.due_at


class Parked:
    """The parked deliveries of a process, whichever connection they came over. Thread-safe; times are seconds."""

    def __init__(
        self, *, limit: int = LIMIT, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._most_bytes = most_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._places: list[_Place] = []

    def __len__(self) -> int:
        return len(self._places)

    def put(self, message: Delivered, parking: Parking) -> bool:
        """Keep it until its time has come; False when there is no place."""
        with self._lock:
            if not parking.keeps_room and not self._has_place(len(message.delivery.body)):
                return False
            place = _Place(message, self._clock() + parking.after_s, parking.keeps_room, parking.for_key)
            self._places.append(place)
            return True

    def take(self, *, room: bool) -> Delivered | None:
        """One whose time has come, the earliest first. Without `room` only one that has kept its room."""
        if not self._places:
            return None
        with self._lock:
            place = self._next(room=room)
            if place is None or place.next_at > self._clock():
                return None
            self._places.remove(place)
            return place.message

    def for_key(self) -> list[Delivered]:
        """Those that wait for a key, the next deadline first; they stay here."""
        with self._lock:
            places = [place for place in self._places if place.for_key and not place.message.is_gone]
        return [place.message for place in sorted(places, key=lambda place: place.due_at)]

    def take_out(self, message: Delivered) -> None:
        """Take this one before its time."""
        with self._lock:
            self._places = [place for place in self._places if place.message is not message]

    def take_all(self) -> list[Delivered]:
        """All of them, whether their time has come or not."""
        with self._lock:
            places, self._places = self._places, []
        return [place.message for place in places]

    def next_in_s(self, *, room: bool) -> float:
        """How long until there is one to take, infinity when there is none."""
        with self._lock:
            place = self._next(room=room)
            return float("inf") if place is None else max(0.0, place.next_at - self._clock())

    def _has_place(self, size: int) -> bool:
        sizes = [len(place.message.delivery.body) for place in self._places if not place.keeps_room]
        return len(sizes) < self._limit and sum(sizes) + size <= self._most_bytes

    def _next(self, *, room: bool) -> _Place | None:
        places = (place for place in self._places if room or place.keeps_room)
        return min(places, key=lambda place: place.next_at, default=None)
