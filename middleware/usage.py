"""Counts what comes in, what comes out and what it costs, and has the process report it."""

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Self

from dramatiq import Broker, Worker

from gateway.errors import ErrorCode, GatewayError
from gateway.keys.pool import Lease
from gateway.messages import Completion, Reply
from gateway.rabbitmq.publisher import Publisher
from gateway.usage import store
from gateway.usage.meter import Meter
from gateway.usage.reporter import Reporter
from gateway.usage.store import UsageStore, bucket
from middleware import process
from middleware.attempt import Attempt, JobAttempt, Outcome, ReplyAttempt
from middleware.costs import Costs
from middleware.hook import Around, Hook

#: How long the last report may take, in seconds.
LAST_REPORT_S = 3.0

#: How long the first report waits for RabbitMQ, in seconds: a process that connects has no trouble yet.
STARTS_WITHIN_S = 5.0

#: The outcome of a request that was refused as it came in: its envelope is published like one that was held.
REJECTED = "rejected"

logger = logging.getLogger(__name__)


class Call:
    """A call to the provider; one without a completion has failed. Counted when it has ended."""

    def __init__(self, meter: Meter, lease: Lease, paid: Callable[[Completion | BaseException | None], None]) -> None:
        self.completion: Completion | None = None
        self._paid = paid
        self._meter = meter
        self._lease = lease
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            self._paid(self.completion or error)
            self._count(error)
        except Exception:  # must not take the place of the completion, which is paid for
            logger.exception("A call is not counted")

    def _count(self, error: BaseException | None) -> None:
        facts = _facts(self.completion)
        self._meter.add(store.KEY, self._lease.key.digest, facts)
        self._meter.add(store.MODEL, self._lease.model, facts | _took(time.monotonic() - self._began))
        if self.completion is None:
            code = error.code if isinstance(error, GatewayError) else ErrorCode.INTERNAL
            self._meter.add(store.ERROR, code, {store.CALLS: 1})


class Usage(Hook[Attempt]):
    """Adds in memory only; a thread of its own carries it to the store. `of_call` is told of each call.

    An attempt that is parked has come to nothing yet, and is counted when it has.
    """

    def __init__(
        self,
        usage: Callable[[], UsageStore],
        life: process.Process,
        publisher: Callable[[], Publisher],
        costs: Costs,
    ) -> None:
        self.costs = costs
        self.usage = usage
        self.life = life
        self.publisher = publisher
        self.meter = Meter()
        self._reporter: Reporter | None = None
        self._has_started = False

    def around(self, attempt: Attempt) -> Around:
        self.meter.begun()
        if isinstance(attempt, JobAttempt) and attempt.job.hop:
            self.meter.waits_no_more(attempt.delivery_id)
        yield
        self.meter.ended()
        if attempt.parking is not None or attempt.outcome is None:
            return
        if isinstance(attempt, JobAttempt):
            self._came_out(attempt)
        elif isinstance(attempt, ReplyAttempt) and not attempt.reply.attempts:
            self._count_request(REJECTED, attempt.reply, attempt.elapsed_ms / 1000)

    def of_call(self, attempt: JobAttempt, lease: Lease) -> Call:
        """To be entered around one call with a lease, and told of its completion."""
        return Call(self.meter, lease, partial(self.costs.of_call, attempt, lease))

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        itself = store.Process(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=_version(),
            started_at=time.time(),
            threads=worker.worker_threads,
            in_flight=0,
            unsettled=0,
            not_ready=None,
        )
        self._reporter = Reporter(self.usage(), self.meter, lambda: self._now(itself))
        self._reporter.start()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        if self._reporter is not None:
            self._reporter.stop(LAST_REPORT_S)

    def _now(self, itself: store.Process) -> store.Process:
        if not self._has_started:
            self.publisher().wait_ready(STARTS_WITHIN_S)
            self._has_started = True
        unsettled = self.life.progress.unsettled
        return replace(itself, in_flight=self.meter.in_flight, unsettled=unsettled, not_ready=self._not_ready())

    def _not_ready(self) -> str | None:
        if self.life.lost is not None:
            return f"{self.life.lost} has ended by itself: the process drains and ends"
        if self.life.stopping.is_set():
            return "it drains: it was asked to stop"
        if self.life.stands_still:
            return "it has deliveries and settles none: see its log, and restart it"
        return None if self.publisher().ready else "RabbitMQ takes no publishes: connection lost, or an alarm"

    def _came_out(self, attempt: JobAttempt) -> None:
        if attempt.waiting is not None:
            self.meter.waits(attempt.waiting)
        if attempt.outcome is Outcome.HELD and attempt.reply is not None:
            # The queue of a client that waits is another one each time: all of them are one row.
            queue = store.OF_A_CLIENT if attempt.reply.caller.waits else attempt.reply.queue
            self.meter.add(store.REFUSED, queue, {store.REQUESTS: 1})
        self._count_request(attempt.outcome or "", attempt.reply, attempt.job.age_ms / 1000)

    def _count_request(self, outcome: str, reply: Reply | None, seconds: float) -> None:
        self.meter.add(store.OUTCOME, outcome, {store.REQUESTS: 1, **_took(seconds)})
        if reply is not None and not reply.success:
            self.meter.add(store.ERROR, str(json.loads(reply.body).get("error_code")), {store.REQUESTS: 1})


def _facts(completion: Completion | None) -> dict[str, int]:
    if completion is None:
        return {store.CALLS: 1, store.FAILED: 1}
    usage = completion.usage
    return {
        store.CALLS: 1,
        store.PROMPT_TOKENS: usage.prompt_tokens,
        store.COMPLETION_TOKENS: usage.completion_tokens,
        store.COST_NANO: round((usage.cost or 0.0) * store.NANO),
    }


def _took(seconds: float) -> dict[str, int]:
    return {bucket(seconds): 1, store.SPENT_MS: round(seconds * 1000)}


def _version() -> str:
    try:
        return version("gemini-openrouter-worker")
    except PackageNotFoundError:
        return "of a checkout"
