"""What was sent over one channel and waits for RabbitMQ's word: delivery tags, returns and confirms, without I/O."""

import itertools
from collections import defaultdict
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pika

from gateway.errors import PublishError


@dataclass(eq=False, slots=True)
class Outgoing:
    """A message and what becomes of it; `deadline` is a time of the publisher's clock."""

    queue: str
    body: bytes = field(repr=False)
    properties: pika.BasicProperties = field(repr=False)
    deadline: float
    confirmed: "Future[None]" = field(default_factory=Future, repr=False)
    sent: bool = False
    redeclared: bool = False

    @property
    def done(self) -> bool:
        return self.confirmed.done()

    def succeed(self) -> None:
        with suppress(InvalidStateError):  # its caller has given up
            self.confirmed.set_result(None)

    def fail(self, error: PublishError) -> None:
        with suppress(InvalidStateError):
            self.confirmed.set_exception(error)


class InFlight:
    """The messages of one channel, each under the tag that RabbitMQ counts for it. For one thread.

    A message that has expired keeps its tag until RabbitMQ settles it: its return must not be taken for another's.
    """

    def __init__(self) -> None:
        self._tags = itertools.count(1)
        self._by_tag: dict[int, Outgoing] = {}
        self._by_name: defaultdict[tuple[str, Any], list[int]] = defaultdict(list)
        self._returned: set[int] = set()

    def __len__(self) -> int:
        return len(self._by_tag)

    def messages(self) -> list[Outgoing]:
        """All of them, in the order they were sent."""
        return list(self._by_tag.values())

    def add(self, outgoing: Outgoing) -> None:
        """Count a message that was just handed to the channel."""
        tag = next(self._tags)
        self._by_tag[tag] = outgoing
        self._by_name[_name(outgoing)].append(tag)

    def mark_returned(self, queue: str, message_id: str | None) -> None:
        """Note that a message came back; its confirm follows.

        A return carries no tag, but returns keep the order of sending: it is the first of its name not yet returned.
        """
        for tag in self._by_name.get((queue, message_id), ()):
            if tag not in self._returned:
                self._returned.add(tag)
                return

    def settle(self, tag: int, *, multiple: bool) -> list[tuple[Outgoing, bool]]:
        """Take out the message of this tag, or all up to it, each with whether it was returned before."""
        tags = itertools.takewhile(lambda one: one <= tag, self._by_tag) if multiple else (tag,)
        return [self._take(one) for one in list(tags) if one in self._by_tag]

    def _take(self, tag: int) -> tuple[Outgoing, bool]:
        outgoing = self._by_tag.pop(tag)
        name = _name(outgoing)
        self._by_name[name].remove(tag)
        if not self._by_name[name]:
            del self._by_name[name]
        returned = tag in self._returned
        self._returned.discard(tag)
        return outgoing, returned


def _name(outgoing: Outgoing) -> tuple[str, Any]:
    return outgoing.queue, outgoing.properties.message_id
