"""Whether the client behind a direct reply-to is there: RabbitMQ confirms a message to it either way."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from pika.exceptions import ChannelWrongStateError, ConnectionWrongStateError

from gateway.rabbitmq.in_flight import Outgoing

#: How long RabbitMQ has for an answer, in seconds. It asks the client's channel, and one that hangs never answers.
ANSWER_S = 2.0

#: After so many questions without an answer nobody is asked any more over this connection: each keeps a channel.
MOST_UNANSWERED = 20

_NOT_FOUND = 404


class Presence:
    """Asks about one message after the other, on a channel that is opened for it. For the loop's thread.

    `answered(message, there)` is called for each, or `lost(messages)` when the connection ends first; who does not
    answer in time is not there. RabbitMQ says it to who declares the address, which makes nothing, and closes the
    channel where nobody is there. A mandatory publish would not do: it comes back even when the client has got it.
    """

    def __init__(
        self,
        answered: Callable[[Outgoing, bool], None],
        lost: Callable[[list[Outgoing]], None],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._answered = answered
        self._lost = lost
        self._call_later = call_later
        self._asked: deque[Outgoing] = deque()
        self._channel: Any = None
        self._unanswered = 0

    def messages(self) -> list[Outgoing]:
        """Those without an answer."""
        return list(self._asked)

    def ask(self, connection: Any, outgoing: Outgoing) -> None:
        """Find out about the address of a message."""
        self._asked.append(outgoing)
        if len(self._asked) == 1:
            self._ask_next(connection)

    def give_up(self) -> None:
        """The connection has gone: what was asked is lost. Idempotent."""
        self._channel, self._unanswered = None, 0
        asked, self._asked = list(self._asked), deque()
        if asked:
            self._lost(asked)

    def _ask_next(self, connection: Any) -> None:
        while self._asked and self._asked[0].done:  # its caller has given up
            self._asked.popleft()
        if not self._asked:
            return
        if self._unanswered >= MOST_UNANSWERED:
            asked, self._asked = list(self._asked), deque()
            for outgoing in asked:
                self._answered(outgoing, True)  # nobody knows
        elif self._channel is None:
            connection.channel(on_open_callback=self._on_open)
        else:
            self._declare(connection, self._channel, self._asked[0])

    def _declare(self, connection: Any, channel: Any, outgoing: Outgoing) -> None:
        try:
            channel.queue_declare(outgoing.queue, passive=True, callback=partial(self._on_there, channel))
        except (ChannelWrongStateError, ConnectionWrongStateError):
            return  # the end of the channel is about to be reported
        except Exception:  # noqa: BLE001 - no address at all: whoever sends it says so
            self._on_answer(connection, there=True)
        else:
            self._call_later(ANSWER_S, partial(self._on_silence, channel, outgoing))

    def _on_open(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_closed)
        self._channel = channel
        self._ask_next(channel.connection)

    def _on_there(self, channel: Any, _ok: Any) -> None:
        if channel is self._channel:
            self._on_answer(channel.connection, there=True)

    def _on_silence(self, channel: Any, outgoing: Outgoing) -> None:
        if channel is not self._channel or not self._asked or self._asked[0] is not outgoing:
            return
        self._channel = None
        self._unanswered += 1
        self._on_answer(channel.connection, there=False)

    def _on_answer(self, connection: Any, *, there: bool) -> None:
        outgoing = self._asked.popleft()
        self._ask_next(connection)
        self._answered(outgoing, there)

    def _on_closed(self, channel: Any, reason: Any) -> None:
        if channel is not self._channel:
            return
        self._channel = None
        if not channel.connection.is_open or not self._asked:
            self.give_up()
        else:
            # Any other word than "not found" is one about us: then nobody knows, and it is sent.
            self._on_answer(channel.connection, there=reason.reply_code != _NOT_FOUND)
