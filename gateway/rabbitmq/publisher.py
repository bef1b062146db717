"""Confirmed publishing: one connection for the process, pipelined, each message with a deadline of its own.

A thread of its own runs the connection, so heartbeats are served whatever the other threads do. `submit` hands a
message over and returns a future; its result is RabbitMQ's confirm, its exception one of the four PublishErrors.

    submit ──▶ waiting ──▶ in flight ──▶ confirmed | refused
                 ▲  ▲          │  │
                 │  └──────────┘  │ the channel was lost: sent again, with the same message_id, until the deadline,
                 │                │ and one at a time if RabbitMQ has closed it over one of them
                 └─── missing ◀───┘ returned: once per message its queue is declared, then it is sent again

Other threads touch the window, the answers, and the end of what waits; the rest belongs to the publisher's thread.
"""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import chain
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop

from gateway.errors import ConfirmTimeout, ConnectionLost, Nacked, TooLarge, Unroutable
from gateway.rabbitmq import amqp
from gateway.rabbitmq.confirm_channel import CLOSE_TIMEOUT_S, ConfirmChannel, Settled
from gateway.rabbitmq.in_flight import Outgoing
from gateway.rabbitmq.redeclare import Redeclarer
from gateway.rabbitmq.window import Quota, Window

#: How often deadlines are looked at, in seconds.
TICK_S = 0.25

#: Deadline of a publish that names none, in seconds.
TIMEOUT_S = 30.0

#: How long after its deadline a publish waits for a publisher that does not answer at all, in seconds.
GRACE_S = 5.0

#: What may wait for its outcome at a time; the rest waits in `submit`. Bytes count the bodies.
MAX_MESSAGES, MAX_BYTES = 10_000, 64 * 1024 * 1024

#: The same for messages that are dispensable, to one queue, and to how many such: they take no place from the others. A
#: queue that takes nothing makes RabbitMQ stop reading the channel when it has 400 messages.
MAX_OFFERED, MAX_OFFERED_BYTES, OFFERED_TO = 200, 1024 * 1024, 20

#: How long a dispensable message may wait to be sent, in seconds.
OFFERED_S = 5.0

#: How RabbitMQ 3.8 to 4.x says that a message is over `max_message_size`, or over what no setting allows.
TOO_LARGE = re.compile(r"message size \d+ (?:is )?larger than")

logger = logging.getLogger(__name__)


class Publisher:
    """Publishes to queues by name and reports only what RabbitMQ has confirmed. Thread-safe.

    For a queue that is missing `redeclare(queue)`, on a thread of its own, makes it or says that it could not. A
    message waits for that where `waits_for(queue)` is true; any other one is Unroutable at once.
    """

    def __init__(  # noqa: PLR0913 - what it takes from others, all by name
        self,
        url: str,
        *,
        name: str,
        redeclare: Callable[[str], bool] | None = None,
        waits_for: Callable[[str], bool] = lambda _queue: True,
        clock: Callable[[], float] = time.monotonic,
        window: Window | None = None,
    ) -> None:
        self._clock = clock
        self._window = window or Window(messages=MAX_MESSAGES, size=MAX_BYTES)
        self._offered = Quota(messages=MAX_OFFERED, size=MAX_OFFERED_BYTES, queues=OFFERED_TO)
        self._waits_for = waits_for
        self._redeclarer = Redeclarer(redeclare, self._on_answer) if redeclare is not None else None
        self._stopping = threading.Event()
        self._channel = ConfirmChannel(amqp.parameters(url, name=name), self, stopping=self._stopping)
        self._waiting: deque[Outgoing] = deque()
        self._suspects = 0  # so many of the first that wait: RabbitMQ has closed a channel over one of them
        self._missing: dict[str, list[Outgoing]] = {}
        self._answers: deque[tuple[str, bool]] = deque()
        self._woken = False
        self._drained = True
        self._loop: Any = None
        self._thread: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        """Whether RabbitMQ takes publishes now: connected, in confirm mode, no memory or disk alarm.

        RabbitMQ tells a connection of an alarm only when it publishes: an idle one hears of it with its next message.
        """
        return self._channel.ready.is_set()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until RabbitMQ takes publishes, at most `timeout_s` seconds; whether it does."""
        return self._channel.ready.wait(timeout_s)

    def start(self) -> None:
        """Start the thread. Not in the constructor: a process may be forked between the two. Idempotent."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for what is on its way, then close. Idempotent; whether nothing was left."""
        if not self._stopping.is_set():
            self._drained = self._window.wait_empty(timeout_s)
            self._stopping.set()
            self._window.close()
        if self._thread is None:
            self._fail_all()
        else:
            self._wake()
            self._thread.join(2 * CLOSE_TIMEOUT_S)
        return self._drained

    def submit(
        self,
        queue: str,
        body: bytes,
        properties: pika.BasicProperties,
        *,
        timeout_s: float = TIMEOUT_S,
        makes_queue: bool = True,
    ) -> "Future[None]":
        """Hand a message over; the future is done when it is confirmed, refused, or `timeout_s` seconds have passed.

        Returns at once, unless so much is on its way that the message has to wait for its place, within its deadline.
        `properties` need a `message_id`: RabbitMQ returns an unroutable message without saying which one it was.
        Callbacks of the future run on the publisher's thread: they must not wait. With `makes_queue` False nobody is
        asked to make a queue that is missing.
        """
        if not properties.message_id:
            raise ValueError("a published message needs a message_id")
        outgoing = Outgoing(queue, body, properties, self._clock() + timeout_s, redeclared=not makes_queue)
        # The publisher's own thread, in a callback, cannot wait for what only it can do.
        patience_s = 0.0 if threading.current_thread() is self._thread else timeout_s
        if not self._window.enter(len(body), patience_s):
            self._give_up(outgoing)
            return outgoing.confirmed
        outgoing.confirmed.add_done_callback(lambda _done: self._window.leave(len(body)))
        self._hand_over(outgoing)
        return outgoing.confirmed

    def offer(self, queue: str, body: bytes, properties: pika.BasicProperties) -> "Future[None]":
        """Hand over a message that is dispensable; never waits, and delays no other message.

        It is sent once, behind all that was handed over before it, or not at all: not while RabbitMQ takes no publishes
        or confirms none to its queue, nor while the cause of a closed channel is looked for. No queue is made for it,
        and no client asked for. The future is done when it is confirmed, refused or lost, or cannot be sent.
        """
        if not properties.message_id:
            raise ValueError("a published message needs a message_id")
        deadline = self._clock() + OFFERED_S
        outgoing = Outgoing(queue, body, properties, deadline, redeclared=True, dispensable=True)
        if self.ready and self._offered.enter(queue, len(body)):
            outgoing.confirmed.add_done_callback(lambda _done: self._offered.leave(queue, len(body)))
            self._hand_over(outgoing)
        else:
            self._give_up(outgoing)
        return outgoing.confirmed

    def _hand_over(self, outgoing: Outgoing) -> None:
        self._waiting.append(outgoing)
        if self._stopping.is_set():
            self._give_up(outgoing)
        elif not self._woken:
            # One wake-up for a burst. The flag is cleared before anything is sent, so no message is left behind.
            self._wake()

    def publish(
        self,
        queue: str,
        body: bytes,
        properties: pika.BasicProperties,
        *,
        timeout_s: float = TIMEOUT_S,
        makes_queue: bool = True,
    ) -> None:
        """Publish and wait for the confirm. Raises Unroutable, Nacked, ConfirmTimeout or ConnectionLost."""
        confirmed = self.submit(queue, body, properties, timeout_s=timeout_s, makes_queue=makes_queue)
        try:
            confirmed.result(timeout_s + GRACE_S)
        except TimeoutError:
            confirmed.cancel()
            raise ConfirmTimeout(f"The publisher does not answer for a message to {queue}", queue=queue) from None

    def _wake(self) -> None:
        self._woken = True
        loop = self._loop
        if loop is not None:  # else the thread is about to start, and sends what waits
            loop.add_callback_threadsafe(self._on_wake)

    def _on_answer(self, queue: str, made: bool) -> None:
        self._answers.append((queue, made))
        self._wake()

    # -- from here on: the publisher's thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._serve()
        finally:
            self._stopping.set()
            self._window.close()
            self._fail_all()

    def _serve(self) -> None:
        """Publish until asked to stop, over as many connections as it takes."""
        self._loop = IOLoop()
        try:
            self._channel.open(self._loop)
            self._tick()
            self._loop.start()
        except Exception:
            # A mistake of ours or of pika's. A publisher that is dead for good would hold the worker for ever.
            logger.exception("The publisher has failed: it starts again")
        finally:
            self._channel.abandon()
            self._loop.close()
        self._stopping.wait(self._channel.next_pause_s())

    def _tick(self) -> None:
        now = self._clock()
        for outgoing in self._outstanding():
            if outgoing.deadline <= now and not outgoing.done and not outgoing.is_on_its_way:
                self._expire(outgoing)
        # Nothing that is done keeps its place, and its body, for as long as RabbitMQ stays away.
        for outgoing in list(self._waiting):
            if outgoing.done:
                self._waiting.remove(outgoing)
        self._on_wake()
        self._loop.call_later(TICK_S, self._tick)

    def _on_wake(self) -> None:
        self._woken = False
        while self._answers:
            self._on_redeclared(*self._answers.popleft())
        if self._stopping.is_set():
            self._channel.close()
        else:
            self._send()

    def _send(self) -> None:
        """Send what waits; while there are suspects, one message at a time: the one that closes a channel is known."""
        while self._waiting and self._channel.ready.is_set() and not (self._suspects and self._channel.in_flight):
            outgoing = self._waiting.popleft()
            if self._suspects and outgoing.dispensable:
                self._give_up(outgoing)
            elif not outgoing.done and not self._channel.send(outgoing):
                self._waiting.appendleft(outgoing)
        self._channel.flush()

    def on_ready(self) -> None:
        self._send()

    def on_settled(self, outgoing: Outgoing, settled: Settled) -> None:
        if settled is Settled.STORED:
            outgoing.succeed()
        elif settled is Settled.REFUSED:
            outgoing.fail(Nacked(f"The queue {outgoing.queue} refused the message", queue=outgoing.queue))
        else:
            self._on_missing(outgoing)
        if self._suspects:
            self._suspects -= 1
            self._send()

    def on_lost(self, lost: list[Outgoing], blame: str | None) -> None:
        """Send again what was in flight, unless it is the one that was the cause, or dispensable."""
        kept = [outgoing for outgoing in lost if not outgoing.dispensable]
        for outgoing in lost:
            if outgoing.dispensable:
                self._give_up(outgoing)
        if blame is not None and kept and len(lost) == 1:
            text = f"RabbitMQ refused a message to {lost[0].queue}: {blame}"
            refusal = TooLarge if TOO_LARGE.search(blame) else Nacked
            lost[0].fail(refusal(text, queue=lost[0].queue))
            self._suspects = max(0, self._suspects - 1)
            return
        if blame is not None:
            self._suspects = sum(not outgoing.done for outgoing in kept)
        self._waiting.extendleft(reversed(kept))

    def _on_missing(self, outgoing: Outgoing) -> None:
        asks = self._redeclarer is not None and not outgoing.redeclared
        if asks and self._redeclarer is not None:
            self._redeclarer.ask(outgoing.queue, first=self._waits_for(outgoing.queue))
        if asks and self._waits_for(outgoing.queue):
            outgoing.redeclared = True
            self._missing.setdefault(outgoing.queue, []).append(outgoing)
        else:
            outgoing.fail(Unroutable(f"The queue {outgoing.queue} does not exist", queue=outgoing.queue))

    def _on_redeclared(self, queue: str, made: bool) -> None:
        for outgoing in self._missing.pop(queue, ()):
            if made:
                self._waiting.append(outgoing)
            else:
                outgoing.fail(Unroutable(f"The queue {queue} does not exist, and cannot be made", queue=queue))

    def _outstanding(self) -> list[Outgoing]:
        return [*self._waiting, *self._channel.unanswered, *chain(*self._missing.values())]

    def _expire(self, outgoing: Outgoing) -> None:
        if outgoing.sent:
            text = f"RabbitMQ has not confirmed a message to {outgoing.queue} in time"
            outgoing.fail(ConfirmTimeout(text, queue=outgoing.queue))
            self._suspects = 0  # it may never be settled, and the others do not wait for it
        else:
            self._give_up(outgoing)

    def _give_up(self, outgoing: Outgoing) -> None:
        late = f"No connection that takes a message to {outgoing.queue} in time"
        text = "The publisher has stopped" if self._stopping.is_set() else late
        outgoing.fail(ConnectionLost(text, queue=outgoing.queue))

    def _fail_all(self) -> None:
        for outgoing in self._outstanding():
            self._give_up(outgoing)
        if self._redeclarer is not None:
            self._redeclarer.stop()
