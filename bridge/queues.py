"""What a consumer does for the door of those who wait."""

from collections.abc import Sequence
from typing import Protocol

from bridge.delivery import Delivered, Delivery
from bridge.turns import Turns


class Queues(Protocol):
    """What the consumer does for this door."""

    @property
    def room(self) -> int:
        """For how many more there is room in this process."""

    def get(self, queue: str) -> Delivery | None:
        """Take one message, None when there is none now."""

    def parked_for_key(self) -> Sequence[Delivered]:
        """Who waits for a key in this process, until its deadline; the next one first."""

    def unpark(self, message: Delivered) -> None:
        """Have one of them out again before its time."""

    def open(self, delivery: Delivery) -> Delivered | None:
        """Read a message of one of the consumed queues; None when its door takes care of it."""

    @property
    def turns(self) -> Turns:
        """Which lane is to be looked at first, and what is known of the queues of the lanes."""

    @property
    def may_sort(self) -> bool:
        """Whether more requests may be on their way to the queues of their lanes."""
