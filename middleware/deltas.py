"""Partial answers: what a model says goes to the callback queue while it speaks, as far as that takes it."""

import logging
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from gateway.errors import GatewayError
from gateway.messages import Delta, Job, encode
from gateway.providers.live import Listener
from middleware.attempt import JobAttempt
from middleware.outbox import Outbox, reply_properties
from middleware.stream_cancels import StreamCancels

#: The longest text of one message, in characters: no limit on messages that makes sense is below it.
LONGEST_CHARS = 8192

logger = logging.getLogger(__name__)


class PartialAnswers:
    """Who asks for partial answers gets them, with nothing promised; a cancel of such a request ends its call."""

    def __init__(self, outbox: Outbox, cancels: StreamCancels) -> None:
        self._outbox = outbox
        self._cancels = cancels

    @contextmanager
    def of_call(self, attempt: JobAttempt) -> Iterator[Listener | None]:
        """To be entered around one call: who listens to it, None where nobody does."""
        if not attempt.job.request.stream:
            yield None
            return
        listener = Listener(Deltas(self._outbox, attempt.job, number=attempt.spent.calls + 1).hear)
        with self._cancels.watched(attempt.job.request_id, listener):
            yield listener


class Deltas:
    """Sends the text of one call in pieces, and none after one that was not taken. For one thread; never waits."""

    def __init__(self, outbox: Outbox, job: Job, *, number: int) -> None:
        self._outbox = outbox
        self._job = job
        self._number = number
        self._name = uuid.uuid4().hex
        self._sent = 0
        self._under_way: deque[Future[None]] = deque()
        self._is_cut_off = False

    def hear(self, text: str) -> None:
        """Send a text, unless the callback queue has refused one."""
        for at in range(0, len(text), LONGEST_CHARS):
            if self._takes_more():
                self._under_way.append(self._offer(text[at : at + LONGEST_CHARS]))

    def _takes_more(self) -> bool:
        while not self._is_cut_off and self._under_way and self._under_way[0].done():
            refused = self._under_way.popleft().exception()
            if refused is not None:
                self._is_cut_off = True
                why = refused if isinstance(refused, GatewayError) else type(refused).__name__
                logger.info("The partial answer is cut off after %d pieces at most: %s", self._sent, why)
        return not self._is_cut_off

    def _offer(self, text: str) -> "Future[None]":
        job, seq = self._job, self._sent
        self._sent += 1
        delta = Delta(request_id=job.request_id, attempt=self._number, seq=seq, text=text)
        properties = reply_properties(
            kind="gemini.delta",
            caller=job.caller,
            request_id=job.request_id,
            message_id=f"{self._name}-{seq}",
            delivery_mode=1,
        )
        return self._outbox.offer(job.request.callback_queue, encode(delta), properties)
