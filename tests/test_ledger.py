"""The contract of the ledger, over both stores."""

import subprocess
import sys
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev.redis import empty
from gateway.ledger.redis import RedisLedger
from gateway.ledger.sqlite import SWEEP_EVERY, SWEEP_ROWS, SqliteLedger
from gateway.ledger.store import Answered, Claim, Ledger, NullLedger, Running, Started, Superseded, Work
from gateway.messages import Job, Parameters, Request
from gateway.stores.redis_server import RedisServer
from gateway.stores.state_file import StateFile
from tests.clock import Clock

WORK = Work("r-1", "d" * 64)
TTL_S = 1000.0
MAX_BYTES = 100_000_000
ENVELOPE = b'{"content":"An answer. \xc3\xa9"}'


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Any:
    opened = StateFile(tmp_path / "state.sqlite3")
    yield opened
    opened.close()


@pytest.fixture(params=["sqlite", "redis"])
def ledger(request: Any, clock: Clock) -> Any:
    """A fresh ledger of each kind."""
    if request.param == "sqlite":
        yield SqliteLedger(request.getfixturevalue("file"), ttl_s=TTL_S, max_bytes=MAX_BYTES, clock=clock)
        return
    url = request.getfixturevalue("redis_url")
    empty(url)
    server = RedisServer(url)
    yield RedisLedger(server, ttl_s=TTL_S, max_bytes=MAX_BYTES, clock=clock)
    server.close()


@dataclass
class Begun:
    """A claim and what the ledger has said to it."""

    token: str
    entry: Any


def begin(ledger: Ledger, work: Work = WORK, delivery: str = "a", token: str = "", **facts: Any) -> Begun:
    """Claim the work, under a new token where none is named."""
    claim = Claim(work, token or uuid.uuid4().hex, delivery, **{"lease_s": 60.0, **facts})
    return Begun(claim.token, ledger.begin(claim))


def found(ledger: Ledger, *arguments: Any, **facts: Any) -> Any:
    return begin(ledger, *arguments, **facts).entry


def answer(ledger: Ledger, token: str, *, failure: bool = False, envelope: bytes = ENVELOPE, work: Work = WORK) -> bool:
    return ledger.answer(work, token, envelope=envelope, message_id="m-1", failure=failure, delivery="a")


def test_work_is_started_once(ledger: Ledger):
    """F4: the second delivery finds it running, for whom, and for how long at most."""
    first = begin(ledger)
    assert isinstance(first.entry, Started)
    assert found(ledger, delivery="b") == Running(first.token, 60.0)


def test_of_many_that_begin_at_once_one_starts(ledger: Ledger):
    """The decision is one atomic step."""
    with ThreadPoolExecutor(8) as threads:
        kinds = list(threads.map(lambda _: type(found(ledger)), range(64)))
    assert Counter(kinds) == {Started: 1, Running: 63}


def test_a_lease_that_has_ended_is_taken_over(ledger: Ledger, clock: Clock):
    """F6: the worker that held it is gone."""
    first = begin(ledger)
    clock.advance(59)
    assert found(ledger) == Running(first.token, 1.0)
    clock.advance(1)
    assert isinstance(found(ledger), Started)


def test_work_of_a_dead_holder_is_taken_over_at_once(ledger: Ledger):
    """F62: a worker died with every thread in a call; of those who notice one takes over."""
    dead = begin(ledger).token
    successor = begin(ledger, dead=dead)
    assert isinstance(successor.entry, Started)
    assert found(ledger, dead=dead) == Running(successor.token, 60.0)


def test_who_asks_again_has_begun_already(ledger: Ledger):
    """F65: the answer to its first try was lost; it does not wait for itself."""
    first = begin(ledger)
    assert isinstance(found(ledger, token=first.token), Started)
    assert found(ledger) == Running(first.token, 60.0)


def test_an_answer_is_kept_byte_for_byte(ledger: Ledger):
    """A redelivery publishes exactly what was finished, when who has stored it is gone."""
    answer(ledger, token := begin(ledger).token)
    kept = Answered(ENVELOPE, "m-1", published=False, delivery="a", failure=False)
    assert found(ledger, delivery="b", dead=token) == kept


def test_an_answer_is_for_its_holder_to_publish(ledger: Ledger):
    """F70: the redelivery after a cut connection finds it running until it is published. So there is one envelope."""
    answer(ledger, token := begin(ledger).token)
    assert found(ledger) == Running(token, 60.0)
    assert isinstance(found(ledger, token=token), Answered)
    ledger.published(WORK)
    assert found(ledger).published


def test_of_those_who_find_an_answer_unpublished_one_publishes_it(ledger: Ledger):
    """Its holder is dead; whoever is first is the next holder."""
    answer(ledger, dead := begin(ledger).token)
    first = begin(ledger, dead=dead)
    assert isinstance(first.entry, Answered)
    assert found(ledger, dead=dead) == Running(first.token, 60.0)


def test_an_answer_that_its_holder_lets_go_is_the_next_ones_to_publish(ledger: Ledger):
    """It lives, and has failed to publish it."""
    answer(ledger, token := begin(ledger).token)
    ledger.abandon(WORK, token)
    assert isinstance(found(ledger), Answered)


def test_a_published_answer_says_so(ledger: Ledger):
    """A redelivery of it has nothing left to do."""
    answer(ledger, begin(ledger).token)
    ledger.published(WORK)
    assert found(ledger).published
    assert found(ledger).envelope == ENVELOPE


def test_publishing_what_nobody_answered_changes_nothing(ledger: Ledger):
    """The entry may have expired meanwhile."""
    ledger.published(WORK)
    token = begin(ledger).token
    ledger.published(WORK)
    assert found(ledger) == Running(token, 60.0)


def test_abandoned_work_can_be_started_at_once(ledger: Ledger):
    """It waits in a delay queue and comes back; giving it back twice is one time."""
    token = begin(ledger).token
    ledger.abandon(WORK, token)
    ledger.abandon(WORK, token)
    assert isinstance(found(ledger), Started)


def test_of_two_copies_of_a_delivery_the_later_one_counts(ledger: Ledger):
    """F21: a crash between the confirmed copy and the ack leaves both; whichever comes first, one is worked on."""
    ledger.scheduled(WORK, begin(ledger).token, delivery="a", hop=1)
    assert found(ledger) == Superseded()
    copy = begin(ledger, hop=1)
    assert isinstance(copy.entry, Started)
    assert found(ledger) == Running(copy.token, 60.0)
    ledger.scheduled(WORK, copy.token, delivery="a", hop=2)
    assert found(ledger, hop=1) == Superseded()


def test_a_copy_whose_worker_died_still_counts(ledger: Ledger):
    """It is taken over by nobody but itself, when it comes back from RabbitMQ."""
    ledger.scheduled(WORK, begin(ledger).token, delivery="a", hop=1)
    dead = begin(ledger, hop=1).token
    assert found(ledger, dead=dead) == Superseded()
    assert isinstance(found(ledger, hop=1, dead=dead), Started)


def test_the_same_request_sent_again_has_copies_of_its_own(ledger: Ledger):
    """Another delivery is no earlier copy of this one, however far this one has come."""
    ledger.scheduled(WORK, begin(ledger).token, delivery="a", hop=3)
    assert isinstance(found(ledger, delivery="b"), Started)


def begin_again(ledger: Ledger, **facts: Any) -> Begun:
    """As a request that RabbitMQ has delivered before, under a name that nobody knows any more."""
    return begin(ledger, delivery="b", redelivered=True, **facts)


def test_what_is_redelivered_goes_on_as_the_delivery_that_is_known(ledger: Ledger):
    """The worker died with it. So a copy that it has sent to wait is an earlier one of the same delivery."""
    again = begin_again(ledger, dead=begin(ledger).token)
    assert again.entry == Started("a")
    ledger.scheduled(WORK, again.token, delivery="a", hop=1)
    assert found(ledger, hop=1) == Started("a")


def test_what_is_redelivered_is_superseded_by_the_copy_that_waits(ledger: Ledger):
    """F21: its ack was lost, and the copy is confirmed."""
    ledger.scheduled(WORK, begin(ledger).token, delivery="a", hop=1)
    assert begin_again(ledger).entry == Superseded()


def test_what_is_redelivered_and_unknown_is_a_delivery_of_its_own(ledger: Ledger):
    """It was fetched and never started."""
    assert begin_again(ledger).entry.delivery == "b"


def test_what_is_redelivered_waits_for_what_runs_and_finds_what_is_answered(ledger: Ledger):
    """F4: as any other delivery."""
    token = begin(ledger).token
    assert begin_again(ledger).entry == Running(token, 60.0)
    answer(ledger, token)
    ledger.published(WORK)
    assert begin_again(ledger).entry == Answered(ENVELOPE, "m-1", published=True, delivery="a", failure=False)


def test_only_the_holder_can_schedule(ledger: Ledger, clock: Clock):
    """A late one changes nothing: neither the lease of who took over, nor an answer."""
    late = begin(ledger).token
    clock.advance(61)
    token = begin(ledger).token
    ledger.scheduled(WORK, late, delivery="a", hop=1)
    assert found(ledger) == Running(token, 60.0)
    answer(ledger, token)
    ledger.scheduled(WORK, token, delivery="a", hop=1)
    assert isinstance(found(ledger, dead=token), Answered)


def test_what_waits_is_remembered_for_as_long_as_an_answer(ledger: Ledger, clock: Clock):
    """The longest wait is shorter than that."""
    ledger.scheduled(WORK, begin(ledger).token, delivery="a", hop=1)
    clock.advance(TTL_S - 1)
    assert found(ledger) == Superseded()


def test_only_the_holder_can_abandon(ledger: Ledger, clock: Clock):
    """A worker that lost its lease does not end the one of its successor."""
    late = begin(ledger).token
    clock.advance(60)
    begin(ledger)
    ledger.abandon(WORK, late)
    assert isinstance(found(ledger), Running)


def test_an_answer_is_not_abandoned(ledger: Ledger):
    """What is paid for stays."""
    answer(ledger, token := begin(ledger).token)
    ledger.abandon(WORK, token)
    assert found(ledger).envelope == ENVELOPE


def test_an_answer_that_comes_late_is_stored_all_the_same(ledger: Ledger, clock: Clock):
    """It is paid for. The successor's does not replace it, and its delivery is told so: one envelope goes out."""
    late = begin(ledger).token
    clock.advance(60)
    successor = begin(ledger).token
    assert answer(ledger, late, envelope=b"first")
    assert not answer(ledger, successor, envelope=b"second")
    ledger.published(WORK)
    assert found(ledger).envelope == b"first"


def test_who_stores_an_answer_again_has_stored_it(ledger: Ledger):
    """It did not hear that it had."""
    token = begin(ledger).token
    assert answer(ledger, token)
    assert answer(ledger, token)


def test_a_failure_can_be_given_up_for_a_new_start(ledger: Ledger):
    """A producer that asks again gets another try; of two that ask at once one starts."""
    answer(ledger, begin(ledger).token, failure=True)
    ledger.published(WORK)
    assert found(ledger).failure
    assert isinstance(found(ledger, delivery="b", replace_failure=True), Started)
    assert isinstance(found(ledger, delivery="c", replace_failure=True), Running)


def test_a_success_is_never_given_up(ledger: Ledger):
    """It is found as by every other claim."""
    answer(ledger, begin(ledger).token)
    ledger.published(WORK)
    assert isinstance(found(ledger, delivery="b", replace_failure=True), Answered)


def test_an_answer_expires(ledger: Ledger, clock: Clock):
    """After its time to live the same request is a new one."""
    answer(ledger, begin(ledger).token)
    ledger.published(WORK)
    clock.advance(TTL_S - 1)
    assert isinstance(found(ledger), Answered)
    clock.advance(1 + 60)  # its lease counts, too
    assert isinstance(found(ledger), Started)


def test_other_work_is_not_touched(ledger: Ledger):
    """Neither the same id with other content, nor the same content under another id."""
    answer(ledger, begin(ledger).token)
    assert isinstance(found(ledger, Work("r-1", "e" * 64)), Started)
    assert isinstance(found(ledger, Work("r-2", "d" * 64)), Started)


def test_a_clock_that_is_set_back_blocks_no_work(ledger: Ledger, clock: Clock):
    """The lease ends after its length at the latest, counted from when somebody asks."""
    token = begin(ledger).token
    clock.advance(-86_400 * 365)
    assert found(ledger) == Running(token, 60.0)
    clock.advance(60)
    assert isinstance(found(ledger), Started)


def test_any_request_id_can_be_entered(ledger: Ledger):
    """It is a text of somebody else."""
    strange = Work("'; DROP TABLE ledger; {x}: \u2028 \x00" + "é" * 100, "d" * 64)
    answer(ledger, begin(ledger, strange).token, work=strange)
    ledger.published(strange)
    assert isinstance(found(ledger, strange), Answered)


def test_the_null_ledger_starts_everything():
    """LEDGER_TTL_SECONDS=0."""
    ledger = NullLedger()
    token = begin(ledger).token
    assert answer(ledger, token)
    ledger.published(WORK)
    ledger.abandon(WORK, token)
    assert isinstance(found(ledger), Started)


def entries(file: StateFile) -> int:
    with file.snapshot() as db:
        return int(db.execute("SELECT count(*) FROM ledger").fetchone()[0])


def answer_others(ledger: Ledger, number: int) -> None:
    for _ in range(number):
        answer(ledger, "t", work=Work(uuid.uuid4().hex, "d"))


def test_the_ledger_sweeps_itself(file: StateFile, clock: Clock):
    """Nobody has to remember to: what has expired goes, in bounded steps, answers and abandoned leases alike."""
    ledger = SqliteLedger(file, ttl_s=TTL_S, max_bytes=MAX_BYTES, clock=clock)
    for number in range(SWEEP_ROWS):
        begin(ledger, Work(f"old-{number}", "d"))
    answer(ledger, begin(ledger).token)
    clock.advance(TTL_S + 60)
    answer_others(ledger, SWEEP_EVERY - 1)
    assert entries(file) == 1 + SWEEP_EVERY - 1
    answer_others(ledger, SWEEP_EVERY)
    assert entries(file) == 2 * SWEEP_EVERY - 1


def test_an_answer_from_the_future_expires_too(file: StateFile, clock: Clock):
    """It was stored while the clock was a year ahead."""
    ledger = SqliteLedger(file, ttl_s=TTL_S, max_bytes=MAX_BYTES, clock=clock)
    answer(ledger, begin(ledger).token)
    clock.advance(-86_400 * 365)
    ledger.published(WORK)
    answer_others(ledger, SWEEP_EVERY - 1)
    assert isinstance(found(ledger), Answered)
    clock.advance(TTL_S)
    assert isinstance(found(ledger), Started)


def test_beyond_its_bytes_the_oldest_delivered_answers_are_forgotten(file: StateFile, clock: Clock):
    """F64: before a disk is full. What is not delivered stays, and so does what is new."""
    ledger = SqliteLedger(file, ttl_s=TTL_S, max_bytes=1_000_000, clock=clock)
    large = b'{"content":"' + b"x" * 20_000 + b'"}'
    answer(ledger, begin(ledger).token, envelope=large)
    others = [Work(f"r-{number}", "d") for number in range(4 * SWEEP_EVERY)]
    for work in others:
        clock.advance(0.01)
        answer(ledger, begin(ledger, work).token, envelope=large, work=work)
        ledger.published(work)
    assert entries(file) < len(others) - SWEEP_EVERY
    assert isinstance(found(ledger, others[-1]), Answered)
    assert isinstance(found(ledger), Running)


KILLED = """
import os, signal, sys
from pathlib import Path
from gateway.ledger.store import Work
from gateway.ledger.sqlite import SqliteLedger
from gateway.stores.state_file import StateFile
ledger = SqliteLedger(StateFile(Path(sys.argv[1])), ttl_s=1000.0, max_bytes=100_000_000)
ledger.answer(Work("r-1", "d"), "t", envelope=b"paid", message_id="m", failure=False, delivery="a")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_answer_survives_sigkill(file: StateFile):
    """What `answer` has returned from is there for the next process."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(file.path)], check=False)
    assert done.returncode == -9
    assert found(SqliteLedger(file, ttl_s=TTL_S, max_bytes=MAX_BYTES), Work("r-1", "d")).envelope == b"paid"


def job(**fields: Any) -> Job:
    given = {"request_id": "r-1", "prompt": "Hello", "callback_queue": "q", **fields}
    return Job(request=Request(**given), received_at=1.0)


def test_equal_requests_are_the_same_work():
    """The order of metadata, the time, the retries and partial answers do not make it other work."""
    one = job(metadata={"a": 1, "b": [2]}, timestamp="2025-01-01", retry_count=0)
    two = job(metadata={"b": [2], "a": 1}, timestamp="2026-01-01", retry_count=3, stream=True)
    assert Work.of(one) == Work.of(two.model_copy(update={"upstream_retries": 2, "redelivered": True}))


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": "r-2"},
        {"prompt": "Hello!"},
        {"model": "google/gemini-2.5-pro"},
        {"parameters": Parameters(temperature=0.0)},
        {"system_instruction": "Be brief"},
        {"metadata": {"user": 1}},
        {"callback_queue": "other"},
        {"prompt": None, "messages": [{"role": "user", "content": "Hello"}]},
        {"parameters": Parameters(seed=0)},
        {"parameters": Parameters(stop="END")},
        {"user": "u-1"},
        {"session_id": "s-1"},
    ],
)
def test_whatever_decides_the_answer_makes_other_work(fields: dict[str, Any]):
    """S10: never somebody else's answer."""
    assert Work.of(job(**fields)) != Work.of(job())


def test_every_field_of_a_request_is_part_of_its_work_or_known_not_to_be():
    """A field that is added later decides the answer, unless somebody says here that it does not."""
    apart = {"request_id", "timestamp", "retry_count", "expires_at", "expires_in_s", "priority", "stream"}
    given = {"messages": [{"role": "user", "content": "x"}], "parameters": Parameters(top_k=9), "metadata": {"x": 1}}
    for name in Request.model_fields.keys() - apart:
        other = job().request.model_copy(update={name: given.get(name, "x")})
        assert Work.of(job().model_copy(update={"request": other})) != Work.of(job()), name


def test_the_digest_of_a_plain_request_stays_what_it_was():
    """After an upgrade a redelivery still finds the answer that was paid for before."""
    given = {"request_id": "r-1", "prompt": "Hello", "callback_queue": "q", "parameters": {"top_k": 40}}
    digest = Work.of(Job(request=Request(**given), received_at=1.0)).digest
    assert digest == "3bc1b7037ec4bcd5c03cabd3e8f1e959511da7023e35b95ec50f556d6b931e60"


def test_no_answer_is_in_the_text_of_an_entry():
    """P4: `repr` may end up in a log."""
    assert "canary" not in repr(Answered(b"canary", "m", published=True, delivery="a", failure=False))


def test_a_cancelled_id_is_started_as_cancelled(ledger: Ledger):
    """Whatever its content, and however often; the mark does not hold the work."""
    assert found(ledger) == Started("a")
    assert ledger.cancel("r-1")
    assert ledger.cancel("r-1")
    other = Work("r-1", "e" * 64)
    first = begin(ledger, other)
    assert first.entry == Started("a", cancelled=True)
    assert found(ledger, other) == Running(first.token, 60.0)
    assert found(ledger, Work("r-2", "d" * 64)) == Started("a")


def test_a_cancel_touches_nothing_that_runs_or_is_answered(ledger: Ledger):
    """It is paid for."""
    token = begin(ledger).token
    ledger.cancel("r-1")
    assert found(ledger) == Running(token, 60.0)
    assert answer(ledger, token)
    ledger.published(WORK)
    assert found(ledger).published


def test_the_end_of_a_cancelled_work_is_kept_as_any_other(ledger: Ledger):
    """A failure that may be asked again, and is cancelled again as long as the mark lives."""
    ledger.cancel("r-1")
    answer(ledger, begin(ledger).token, failure=True)
    ledger.published(WORK)
    assert found(ledger, delivery="b").failure
    assert found(ledger, delivery="b", replace_failure=True) == Started("b", cancelled=True)


def test_a_later_copy_is_superseded_by_no_cancel(ledger: Ledger):
    """The one that waits is told; the one before it is done with."""
    token = begin(ledger).token
    ledger.scheduled(WORK, token, delivery="a", hop=1)
    ledger.cancel("r-1")
    assert found(ledger) == Superseded()
    assert found(ledger, hop=1) == Started("a", cancelled=True)


def test_a_cancel_is_forgotten_with_the_answers_of_its_time(ledger: Ledger, clock: Clock):
    """LEDGER_TTL_SECONDS; a new cancel of the same id lives as long anew."""
    ledger.cancel("r-1")
    clock.advance(TTL_S - 1)
    assert begin(ledger).entry.cancelled
    ledger.cancel("r-1")
    clock.advance(TTL_S - 1)
    assert found(ledger, Work("r-1", "e" * 64)).cancelled
    clock.advance(1)
    assert not found(ledger, Work("r-1", "f" * 64)).cancelled
