"""The retry policy as a table: error in, wait or end out."""

import time
from dataclasses import dataclass

import pytest

from gateway.errors import (
    ErrorCode,
    GatewayError,
    KeysUnavailable,
    RequestRejected,
    Unwanted,
    UpstreamFailed,
)
from gateway.messages import Job, Request
from gateway.schedule import (
    CALLBACK_MAX_ATTEMPTS,
    CLIENT_MAX_ATTEMPTS,
    LONGEST_STAY_S,
    End,
    Stay,
    Wait,
    callback_wait_s,
    next_step,
)


@dataclass(frozen=True)
class Schedules:
    """The documented schedules, without a settings object."""

    queue_retry_delays: tuple[float, ...] = (60, 600, 3600, 86400)
    queue_early_release: bool = True
    upstream_retry_delays: tuple[float, ...] = (2, 10, 60)

    def retry_delay_s(self, retry_count: int) -> float | None:
        return self.queue_retry_delays[retry_count] if retry_count < len(self.queue_retry_delays) else None

    def longest_schedule_s(self) -> float:
        return sum(self.queue_retry_delays)

    def upstream_delay_s(self, retries: int) -> float | None:
        return self.upstream_retry_delays[retries] if retries < len(self.upstream_retry_delays) else None


SCHEDULES = Schedules()
NOW = time.time()
NO_KEY = KeysUnavailable("No key available", retry_in_s=3600.0)
SOON = KeysUnavailable("No key available", retry_in_s=12.0)
BROKEN = UpstreamFailed("HTTP 503", reason="http_503", status=503)


def job(**counts: float) -> Job:
    request = Request(request_id="r-1", prompt="Hello", callback_queue="q")
    return Job(**{"request": request, "received_at": NOW, **counts})


@pytest.mark.parametrize(("retry_count", "delay_s"), [(0, 60), (1, 600), (2, 3600), (3, 86400)])
def test_a_job_without_a_key_climbs_the_long_schedule(retry_count: int, delay_s: float):
    """Each wait counts one retry, and only the key's counter moves."""
    step = next_step(job(retry_count=retry_count, upstream_retries=1), NO_KEY, SCHEDULES)
    assert step == Wait(delay_s, job(retry_count=retry_count + 1, upstream_retries=1), for_key=True)


def test_after_the_last_wait_for_a_key_the_producer_reads_the_documented_sentence():
    """The text is part of the contract."""
    step = next_step(job(retry_count=4), NO_KEY, SCHEDULES)
    assert isinstance(step, End)
    assert (str(step.error), step.error.code) == ("Rate limit exceeded after all retries", ErrorCode.RATE_LIMIT)


@pytest.mark.parametrize("retry_count", [1, 2, 3, 4])
def test_a_job_for_which_a_key_comes_back_soon_climbs_no_step(retry_count: int):
    """F67: it is in line, and later ones would be answered meanwhile; also after its last wait it is no failure."""
    in_line = job(retry_count=retry_count, wait_counts=False)
    assert next_step(job(retry_count=retry_count), SOON, SCHEDULES) == Wait(60, in_line, for_key=True)


def test_a_job_that_had_a_key_and_was_limited_climbs():
    """It has had its turn; a key whose rest is guessed comes back soon for ever."""
    limited = KeysUnavailable("No key available", retry_in_s=12.0)
    limited.called = True
    step = next_step(job(retry_count=1, wait_counts=False), limited, SCHEDULES)
    assert step == Wait(600, job(retry_count=2), for_key=True)


def test_nobody_is_in_line_for_longer_than_the_whole_schedule():
    """Its producer reads an error some day."""
    old = job(received_at=NOW - 100_000, retry_count=4)
    assert isinstance(next_step(old, SOON, SCHEDULES), End)


def test_a_job_whose_first_wait_it_is_waits_it_whenever_a_key_comes_back():
    """From then on it is in line."""
    assert next_step(job(), SOON, SCHEDULES) == Wait(60, job(retry_count=1), for_key=True)


def test_without_early_release_the_plain_schedule_holds():
    """Nobody is released in line, so nobody waits in it."""
    plain = Schedules(queue_early_release=False)
    assert next_step(job(retry_count=1), SOON, plain) == Wait(600, job(retry_count=2), for_key=True)
    assert isinstance(next_step(job(retry_count=4), SOON, plain), End)


def test_refused_keys_end_a_job_at_once():
    """No wait makes a revoked key valid."""
    refused = KeysUnavailable("Authentication error: HTTP 401", retry_in_s=600.0, refused=True)
    step = next_step(job(), refused, SCHEDULES)
    assert isinstance(step, End)
    assert step.error.code is ErrorCode.AUTHENTICATION
    assert not step.expected


@pytest.mark.parametrize(("retries", "delay_s"), [(0, 2), (1, 10), (2, 60)])
def test_a_faulty_provider_is_tried_again_soon(retries: int, delay_s: float):
    """The short schedule has a counter of its own and is never cut short."""
    step = next_step(job(upstream_retries=retries, retry_count=3), BROKEN, SCHEDULES)
    assert step == Wait(delay_s, job(upstream_retries=retries + 1, retry_count=3), for_key=False)


def test_a_provider_that_stays_faulty_ends_the_job_with_its_reason():
    """The producer reads what the provider said."""
    assert next_step(job(upstream_retries=3), BROKEN, SCHEDULES) == End(BROKEN)


@pytest.mark.parametrize(("stated_s", "delay_s"), [(1, 2), (5, 10), (60, 60), (500, 60)])
def test_a_wait_that_the_provider_states_takes_the_shortest_queue_that_honours_it(stated_s: float, delay_s: float):
    """Waits are queues, so there are only as many lengths as queues."""
    step = next_step(job(), UpstreamFailed("HTTP 503", reason="http_503", retry_after_s=stated_s), SCHEDULES)
    assert isinstance(step, Wait)
    assert step.delay_s == delay_s


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ErrorCode.CONTENT_BLOCKED, True),
        (ErrorCode.OUTPUT_EXHAUSTED, True),
        (ErrorCode.MODEL_NOT_FOUND, False),
        (ErrorCode.INVALID_REQUEST, False),
    ],
)
def test_a_request_at_fault_ends_at_once(code: ErrorCode, expected: bool):
    """Sentry hears of it only where an operator can do something."""
    error = RequestRejected("no", reason="x", code=code)
    assert next_step(job(), error, SCHEDULES) == End(error, expected=expected)


@pytest.mark.parametrize("reason", ["not_for_gemini", "unusable_schema"])
def test_what_we_refuse_ourselves_is_the_producers_to_mend(reason: str):
    """As what the gate refuses: Sentry does not hear of it."""
    error = RequestRejected("no", reason=reason)
    assert next_step(job(), error, SCHEDULES) == End(error, expected=True)


def test_an_unexpected_exception_is_tried_again_and_its_text_never_leaves():
    """A bug must not lose a request, and its text may quote the prompt."""
    bug = RuntimeError("canary prompt")
    assert isinstance(next_step(job(), bug, SCHEDULES), Wait)
    step = next_step(job(upstream_retries=3), bug, SCHEDULES)
    assert isinstance(step, End)
    assert (str(step.error), step.error.code) == ("Internal error", ErrorCode.INTERNAL)


@pytest.mark.parametrize("code", [ErrorCode.EXPIRED, ErrorCode.CANCELLED])
def test_what_nobody_waits_for_ends_at_once_and_is_no_news_for_an_operator(code: ErrorCode):
    """Its sender has said so."""
    step = next_step(job(), Unwanted("no", code=code), SCHEDULES)
    assert isinstance(step, End)
    assert (step.error.code, step.expected) == (code, True)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time at which all jobs of a test are looked at."""
    monkeypatch.setattr("gateway.messages.time.time", lambda: NOW)
    return NOW


#: Seconds left, waits so far, and the wait for a key: no longer than the time left, counted where it is the schedule's.
CUT = [
    (61.0, 0, 60, True),
    (100.0, 1, 60, False),
    (700.0, 2, 600, False),
    (3_601.0, 2, 3600, True),
    (80_000.0, 3, 3600, False),
]


@pytest.mark.parametrize(("left_s", "retry_count", "delay_s", "counted"), CUT)
def test_no_wait_for_a_key_ends_after_the_deadline(
    now: float, left_s: float, retry_count: int, delay_s: float, counted: bool
):
    """A shorter one is waited instead, and counts no retry."""
    waiting = job(retry_count=retry_count, expires_at=now + left_s)
    counts = {"retry_count": retry_count + counted, "wait_counts": counted}
    assert next_step(waiting, NO_KEY, SCHEDULES) == Wait(delay_s, waiting.model_copy(update=counts), for_key=True)


@pytest.mark.parametrize("left_s", [0.25, 5.0, LONGEST_STAY_S])
def test_a_deadline_that_is_nearer_than_every_wait_is_waited_for_here(now: float, left_s: float):
    """No delay queue ends at it."""
    step = next_step(job(expires_at=now + left_s), NO_KEY, SCHEDULES)
    assert isinstance(step, Stay)
    assert step.for_s == pytest.approx(left_s)


@pytest.mark.parametrize(("retry_in_s", "for_s"), [(12.0, 12.0), (3600.0, 30.0), (0.0, 0.25)])
def test_with_the_plain_schedule_who_stays_looks_for_a_key_itself(now: float, retry_in_s: float, for_s: float):
    """Nobody hands it one: when the first is back, at the deadline at the latest, and not in a loop."""
    error = KeysUnavailable("No key available", retry_in_s=retry_in_s)
    step = next_step(job(expires_at=now + 30), error, Schedules(queue_early_release=False))
    assert isinstance(step, Stay)
    assert step.for_s == pytest.approx(for_s)


def test_where_the_waits_for_a_key_are_long_those_for_a_provider_are_lent(now: float):
    """It must not be unacked for so long."""
    waiting = job(expires_at=now + 300)
    uncounted = waiting.model_copy(update={"wait_counts": False})
    assert next_step(waiting, NO_KEY, Schedules((3600,))) == Wait(60, uncounted, for_key=False)
    step = next_step(waiting, NO_KEY, Schedules((3600,), upstream_retry_delays=(600,)))
    assert isinstance(step, End)
    assert step.error.code is ErrorCode.EXPIRED


@pytest.mark.parametrize(("left_s", "ends"), [(2.5, False), (2.0, True), (0.5, True), (-1.0, True)])
def test_no_wait_for_the_provider_is_begun_that_ends_after_the_deadline(now: float, left_s: float, ends: bool):
    """Nothing could end it before; the envelope says what was waited for."""
    step = next_step(job(expires_at=now + left_s), BROKEN, SCHEDULES)
    assert isinstance(step, End if ends else Wait)
    if isinstance(step, End):
        assert (step.error.code, step.expected) == (ErrorCode.EXPIRED, True)
        assert str(step.error) == "The deadline of the request leaves no time for another try: HTTP 503"


def test_after_the_last_try_it_is_the_deadline_only_where_that_has_passed(now: float):
    """A call that it has cut is the producer's wish; one that failed before is the provider's fault."""
    for left_s, code in ((1.0, ErrorCode.UPSTREAM), (0.0, ErrorCode.EXPIRED)):
        step = next_step(job(upstream_retries=3, expires_at=now + left_s), BROKEN, SCHEDULES)
        assert isinstance(step, End)
        assert step.error.code is code


def test_the_text_of_a_fault_of_ours_does_not_leave_with_a_deadline(now: float):
    """It may hold anything."""
    step = next_step(job(expires_at=now + 1), ValueError("canary"), SCHEDULES)
    assert isinstance(step, End)
    assert "canary" not in str(step.error)


def test_every_error_of_the_tree_has_a_row():
    """A new leaf is decided on, if only by the last row."""
    assert isinstance(next_step(job(), GatewayError("new"), SCHEDULES), Wait)


def test_a_refused_reply_is_tried_for_about_a_day():
    """The callback queue's owner has a day to repair it before the reply is dead."""
    waits = [callback_wait_s(n) for n in range(1, CALLBACK_MAX_ATTEMPTS)]
    assert 23 * 3600 < sum(w or 0 for w in waits) < 26 * 3600
    assert callback_wait_s(CALLBACK_MAX_ATTEMPTS) is None


def test_a_client_that_has_left_is_waited_for_in_seconds():
    """K5: it connects again soon, or never; what is late counts as tried."""
    waits = [callback_wait_s(n, client_is_gone=True) for n in range(1, CLIENT_MAX_ATTEMPTS)]
    assert sum(w or 0 for w in waits) < 60
    assert callback_wait_s(CLIENT_MAX_ATTEMPTS, client_is_gone=True) is None
    assert callback_wait_s(CALLBACK_MAX_ATTEMPTS - 1, client_is_gone=True) is None
