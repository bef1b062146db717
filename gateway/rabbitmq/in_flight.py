"""What was sent over one channel and waits for RabbitMQ's word: delivery tags, returns and confirms, without I/O."""

import itertools
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import pika

from gateway.errors import PublishError


@dataclass(eq=False, slots=True)
class Outgoing:
    """A message and what becomes of it; `deadline` is a time of the publisher's clock.

    One that is `dispensable` is sent once or not at all, and is nobody's concern when it is lost.
    """

    queue: str
    body: bytes = field(repr=False)
    properties: pika.BasicProperties = field(repr=False)
    deadline: float
    confirmed: "Future[None]" = field(default_factory=Future, repr=False)
    sent: bool = False
    returned: bool = False
    redeclared: bool = False
    stored: bool = False
    present: bool = False  # the client behind a direct reply-to is there
    dispensable: bool = False

    @property
    def done(self) -> bool:
        return self.confirmed.done()

    @property
    def is_on_its_way(self) -> bool:
        """Whether it was sent and nobody waits for it: it keeps its place until RabbitMQ says what became of it."""
        return self.dispensable and self.sent

    def succeed(self) -> None:
        self.stored = True
        with suppress(InvalidStateError):  # its caller has given up
            self.confirmed.set_result(None)

    def fail(self, error: PublishError) -> None:
        with suppress(InvalidStateError):
            self.confirmed.set_exception(error)


class InFlight:
    """The messages of one channel, each under the tag that RabbitMQ counts for it. For one thread."""

    def __init__(self) -> None:
        self._tags = itertools.count(1)
        self._by_tag: dict[int, Outgoing] = {}
        self._late: dict[tuple[str, str | None], tuple[int, Outgoing]] = {}

    def __len__(self) -> int:
        return len(self._by_tag)

    def messages(self) -> list[Outgoing]:
        """All of them, in the order they were sent; also those that have expired, until RabbitMQ settles them."""
        return list(self._by_tag.values())

    def add(self, outgoing: Outgoing) -> None:
        """Count a message that was just handed to the channel."""
        outgoing.sent, outgoing.returned, outgoing.present = True, False, False
        self._by_tag[next(self._tags)] = outgoing

    def note_alarm(self) -> None:
        """Note that RabbitMQ reads nothing more for now: what it says of these comes late, and comes."""
        self._late = {(one.queue, one.properties.message_id): (tag, one) for tag, one in self._by_tag.items()}

    def forget_alarm(self) -> None:
        """Long after its end: whoever has given up in it has come again, or never does."""
        self._late = {}

    def take_over(self, outgoing: Outgoing) -> bool:
        """Whether RabbitMQ has this message from before an alarm, and its caller has given it up before a word came.

        Then it is not sent again: what RabbitMQ says of the first is said of this one. Only once, for it may say
        nothing after all.
        """
        tag, first = self._late.pop((outgoing.queue, outgoing.properties.message_id), (0, None))
        if first is None or not first.done or first.body != outgoing.body:
            return False
        if tag in self._by_tag:
            outgoing.sent, outgoing.returned = True, first.returned
            self._by_tag[tag] = outgoing
            return True
        if first.stored:
            outgoing.succeed()
        return first.stored

    def mark_returned(self, queue: str, message_id: str | None) -> None:
        """Note that a message came back; its confirm follows.

        A return carries no tag. All copies of the message count as returned: one too many is sent again, one too few
        would count as stored while it is nowhere.
        """
        for outgoing in self._by_tag.values():
            if outgoing.properties.message_id == message_id and outgoing.queue == queue:
                outgoing.returned = True

    def settle(self, tag: int, *, multiple: bool) -> list[Outgoing]:
        """Take out the message of this tag, or all up to it."""
        tags = itertools.takewhile(lambda one: one <= tag, self._by_tag) if multiple else (tag,)
        settled = [self._by_tag.pop(one) for one in list(tags) if one in self._by_tag]
        for one in settled if self._late else ():
            if not one.done:  # its caller hears of it: the next one is another message
                self._late.pop((one.queue, one.properties.message_id), None)
        return settled
