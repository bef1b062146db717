"""What becomes of a job after an error: a wait or the end. Pure, and a table rather than branches.

error                      schedule             when it is used up
BudgetSpent, batch         the longest of QUEUE_RETRY_DELAYS that ends with the day; none is counted
BudgetSpent                none                 the error itself
KeysUnavailable            QUEUE_RETRY_DELAYS   Rate limit exceeded after all retries
KeysUnavailable, in line   the first of them    as above, when the request is older than all waits together
KeysUnavailable, refused   none                 Authentication error: …
UpstreamFailed             UPSTREAM_RETRY_DELAYS  the error itself
RequestRejected            none                 the error itself
Unwanted                   none                 the error itself
anything else              UPSTREAM_RETRY_DELAYS  Internal error

No wait is begun that would end after the request's deadline: see `_in_time`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import (
    BudgetSpent,
    CallTooLarge,
    ErrorCode,
    GatewayError,
    KeysUnavailable,
    RequestRejected,
    Unwanted,
    UpstreamFailed,
)
from gateway.lanes import Lane
from gateway.messages import Job

#: For how long at most a request may wait in the process that has it, in seconds: unacked, and so not for long.
LONGEST_STAY_S = 60.0

#: With the plain schedule it looks for a key itself, not more often than this, in seconds.
SHORTEST_STAY_S = 0.25


class Schedules(Protocol):
    """The part of the settings that decides about waits; delays in seconds, None when the schedule is used up."""

    def retry_delay_s(self, retry_count: int) -> float | None: ...
    def upstream_delay_s(self, retries: int) -> float | None: ...
    def longest_schedule_s(self) -> float: ...

    @property
    def queue_early_release(self) -> bool: ...
    @property
    def queue_retry_delays(self) -> tuple[float, ...]: ...
    @property
    def upstream_retry_delays(self) -> tuple[float, ...]: ...


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again after `delay_s` seconds with `job`; `for_key` waits may be released early, others may not."""

    delay_s: float
    job: Job
    for_key: bool


@dataclass(frozen=True, slots=True)
class Stay:
    """Wait for a key in this process for `for_s` seconds: until the deadline, which no delay queue would end at."""

    for_s: float


@dataclass(frozen=True, slots=True)
class End:
    """No further attempt: `error` is what the producer reads, `expected` keeps it out of Sentry."""

    error: GatewayError
    expected: bool = False


Step = Wait | Stay | End


def next_step(job: Job, error: BaseException, schedules: Schedules) -> Step:
    """What becomes of `job` after `error`; counts the wait that it decides on."""
    for kind, rule in _RULES:
        if isinstance(error, kind):
            return _in_time(rule(job, error, schedules), job, error, schedules)
    raise AssertionError("the last rule matches every exception")  # pragma: no cover


def _in_time(step: Step, job: Job, error: BaseException, schedules: Schedules) -> Step:
    """The step, or the one that comes instead of it where its wait would end after the request's deadline.

    A wait for a key can end at any time: it becomes as long as there is time. One for the provider cannot.
    """
    left_s = job.time_left_s
    if isinstance(step, Wait) and step.delay_s >= left_s:
        shorter = _shorter_wait(job, left_s, error, schedules) if step.for_key and left_s > 0 else None
        return shorter or _expired(error)
    return _expired(error) if isinstance(error, UpstreamFailed) and left_s <= 0 else step


def _shorter_wait(job: Job, left_s: float, error: BaseException, schedules: Schedules) -> Step | None:
    """To wait for a key until the deadline at most, counting no retry; None where no queue has so short a wait.

    Who stays is handed the next key, or looks for one itself when it is due: with the plain schedule nobody hands it.
    """
    if left_s <= LONGEST_STAY_S:
        assert isinstance(error, KeysUnavailable)  # noqa: S101 - waits for a key
        look_in_s = left_s if schedules.queue_early_release else max(SHORTEST_STAY_S, error.retry_in_s)
        return Stay(min(left_s, look_in_s))
    uncounted = job.model_copy(update={"wait_counts": False})
    for delays, for_key in ((schedules.queue_retry_delays, True), (schedules.upstream_retry_delays, False)):
        if delay_s := max((delay for delay in delays if delay < left_s), default=None):
            return Wait(delay_s, uncounted, for_key=for_key)
    return None


def _expired(error: BaseException) -> End:
    why = f": {error}" if isinstance(error, GatewayError) else ""
    return End(Unwanted(f"The deadline of the request leaves no time for another try{why}"), expected=True)


def _counted(job: Job) -> Job:
    return job.model_copy(update={"retry_count": job.retry_count + 1, "wait_counts": True})


def _is_in_line(job: Job, error: KeysUnavailable, schedules: Schedules) -> bool:
    """Whether a request has found no key because others were before it, and one comes back within the shortest wait.

    One that had a key and was limited has had its turn.
    """
    if error.called or job.age_ms / 1000 > schedules.longest_schedule_s():
        return False
    return error.retry_in_s <= in_line_s(schedules)


def in_line_s(schedules: Schedules) -> float:
    """Within how many seconds a key has to come back for requests to wait for it in line; below 0: they never do.

    That is the shortest wait, and what a window is longer than its setting says.
    """
    shortest_s = min(schedules.queue_retry_delays)
    return shortest_s + window_margin_s(shortest_s) if schedules.queue_early_release else -1.0


def window_margin_s(window_s: float) -> float:
    """What a key's window is lengthened by, in seconds: at the provider two calls can be closer together than here."""
    return max(0.25, window_s / 60)


def _no_key(job: Job, error: BaseException, schedules: Schedules) -> Step:
    assert isinstance(error, KeysUnavailable)  # noqa: S101 - told apart by the table
    if error.refused:
        # Waiting does not make a revoked key or an empty account usable; a person has to act.
        return End(error)
    if job.retry_count and _is_in_line(job, error, schedules):
        # Its turn comes, and to climb a step would let later ones pass.
        return Wait(min(schedules.queue_retry_delays), job.model_copy(update={"wait_counts": False}), for_key=True)
    delay_s = schedules.retry_delay_s(job.retry_count)
    if delay_s is None:
        return End(GatewayError("Rate limit exceeded after all retries", code=ErrorCode.RATE_LIMIT))
    return Wait(delay_s, _counted(job), for_key=True)


def _no_budget(job: Job, error: BaseException, schedules: Schedules) -> Step:
    assert isinstance(error, BudgetSpent)  # noqa: S101 - told apart by the table
    if job.lane is not Lane.BATCH:
        return End(error, expected=True)
    delays = schedules.queue_retry_delays
    delay_s = max((delay for delay in delays if delay <= error.retry_in_s), default=min(delays))
    return Wait(delay_s, job.model_copy(update={"wait_counts": False}), for_key=True)


def _upstream(job: Job, error: BaseException, schedules: Schedules) -> Step:
    assert isinstance(error, UpstreamFailed)  # noqa: S101 - told apart by the table
    return _short_wait(job, schedules, at_least_s=error.retry_after_s or 0.0) or End(error)


def _request(_job: Job, error: BaseException, _schedules: Schedules) -> Step:
    assert isinstance(error, RequestRejected)  # noqa: S101 - told apart by the table
    # Of a call that is too dear an operator has been told.
    expected = error.code in _EXPECTED or error.reason in _REFUSED_BY_US or isinstance(error, CallTooLarge)
    return End(error, expected=expected)


def _unwanted(_job: Job, error: BaseException, _schedules: Schedules) -> Step:
    assert isinstance(error, Unwanted)  # noqa: S101 - told apart by the table
    return End(error, expected=True)


def _unexpected(job: Job, _error: BaseException, schedules: Schedules) -> Step:
    # Its text may hold anything, so the producer reads a fixed one; the log and Sentry have the type.
    return _short_wait(job, schedules) or End(GatewayError("Internal error", code=ErrorCode.INTERNAL))


def _short_wait(job: Job, schedules: Schedules, *, at_least_s: float = 0.0) -> Wait | None:
    delay_s = schedules.upstream_delay_s(job.upstream_retries)
    if delay_s is None:
        return None
    if delay_s < at_least_s:
        # The delays are queues, so a stated wait takes the shortest queue that honours it.
        longer = [d for d in schedules.upstream_retry_delays if d >= at_least_s]
        delay_s = min(longer, default=max(schedules.upstream_retry_delays))
    counted = {"upstream_retries": job.upstream_retries + 1, "wait_counts": True}
    return Wait(delay_s, job.model_copy(update=counted), for_key=False)


#: What an operator can do nothing about: the provider's filter, and what the gate would refuse if it knew the provider.
_EXPECTED = frozenset({ErrorCode.CONTENT_BLOCKED, ErrorCode.OUTPUT_EXHAUSTED})
_REFUSED_BY_US = frozenset({"not_for_gemini", "unusable_schema"})

_Rule = Callable[[Job, BaseException, Schedules], Step]

#: First match wins; the last row matches everything.
_RULES: tuple[tuple[type[BaseException], _Rule], ...] = (
    (BudgetSpent, _no_budget),
    (KeysUnavailable, _no_key),
    (UpstreamFailed, _upstream),
    (RequestRejected, _request),
    (Unwanted, _unwanted),
    (BaseException, _unexpected),
)

#: Waits before a callback queue that refused a reply is tried again, in seconds; the last one repeats.
CALLBACK_RETRY_DELAYS_S = (5.0, 60.0, 600.0, 3600.0)

#: Tries before a reply goes to the dead queue: about a day with the waits above.
CALLBACK_MAX_ATTEMPTS = 28


#: Tries for a client that waits and whose queue is gone, with the shortest wait between them: it connects again within
#: seconds, or it has left, and its answer is for an operator.
CLIENT_MAX_ATTEMPTS = 5


def callback_wait_s(attempts: int, *, client_is_gone: bool = False) -> float | None:
    """Seconds to wait after the refusal number `attempts` (from 1); None when the reply has had its tries."""
    if client_is_gone:
        return CALLBACK_RETRY_DELAYS_S[0] if attempts < CLIENT_MAX_ATTEMPTS else None
    if attempts >= CALLBACK_MAX_ATTEMPTS:
        return None
    return CALLBACK_RETRY_DELAYS_S[min(attempts, len(CALLBACK_RETRY_DELAYS_S)) - 1]
