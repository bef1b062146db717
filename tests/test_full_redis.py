"""A Redis without memory for more: answers make room for the keys and the work of today (F64)."""

import itertools
import random
from collections.abc import Iterator
from contextlib import closing

import pytest

from dev.redis import empty, redis_server
from gateway.bills import Bill
from gateway.costs.call import PaidCall
from gateway.costs.redis import PIECE_S, RedisCostStore
from gateway.costs.store import SPANS
from gateway.errors import StoreUnavailable
from gateway.keys.pool import KeyPool, Lease
from gateway.keys.redis import RedisKeyStore
from gateway.ledger.redis import RedisLedger
from gateway.ledger.store import Answered, Claim, Running, Started, Work
from gateway.reporting import sentry
from gateway.secrets import ApiKey
from gateway.stores.redis_server import RedisServer
from tests.clock import Clock

#: What does not get smaller when it is compressed: 8 kB.
ANSWER = random.Random(1).randbytes(8000)


@pytest.fixture
def small(redis_installed: None) -> Iterator[RedisServer]:
    """A server of 5 MB that forgets nothing by itself; some 500 of these answers fit."""
    options = ("--maxmemory", "5mb", "--maxmemory-policy", "noeviction")
    with redis_server(*options) as url, closing(RedisServer(url)) as server:
        yield server


def answered(ledger: RedisLedger, number: int, *, published: bool = True) -> bool:
    work, token = Work(f"r-{number}", "d"), f"t-{number}"
    assert isinstance(ledger.begin(Claim(work, token, "a", lease_s=60.0)), Started)
    assert ledger.answer(work, token, envelope=ANSWER, message_id="m", failure=False, delivery="a")
    if published:
        ledger.published(work)
    return True


def test_old_answers_make_room_for_new_ones_and_for_keys(small: RedisServer, monkeypatch: pytest.MonkeyPatch):
    """The oldest that were delivered; what is not delivered yet stays. The operator is told."""
    told: list[str] = []
    monkeypatch.setattr(sentry, "tell_operator", lambda reason, *_args, **_facts: told.append(reason))
    ledger = RedisLedger(small, ttl_s=10_000.0, max_bytes=1_000_000_000)
    pool = KeyPool([ApiKey("sk-or-v1-key-one-1111")], RedisKeyStore(small), max_per_window=5000)
    answered(ledger, -1, published=False)
    for number in range(1500):
        assert isinstance(pool.acquire("model"), Lease)
        answered(ledger, number)
    assert set(told) == {"redis_full"}
    assert isinstance(ledger.begin(Claim(Work("r--1", "d"), "new", "b", lease_s=60.0)), Running)
    assert isinstance(ledger.begin(Claim(Work("r-1499", "d"), "new", "b", lease_s=60.0)), Answered)
    assert isinstance(ledger.begin(Claim(Work("r-1", "d"), "new", "b", lease_s=60.0)), Started)


def test_a_server_that_is_full_of_something_else_is_said_to_be(small: RedisServer):
    """With what is to be done. It heals when there is memory again."""
    ledger = RedisLedger(small, ttl_s=10_000.0, max_bytes=1_000_000_000)
    with pytest.raises(StoreUnavailable, match="Redis is full"):
        all(answered(ledger, number, published=False) for number in itertools.count())
    small._client.config_set("maxmemory", "50mb")
    answered(ledger, 2000)


def test_rows_of_paid_calls_make_room_first(small: RedisServer, monkeypatch: pytest.MonkeyPatch):
    """What they have cost is in the sums, and no answer is forgotten for them."""
    monkeypatch.setattr(sentry, "tell_operator", lambda *_args, **_facts: pytest.fail("there is room"))
    clock = Clock()
    ledger = RedisLedger(small, ttl_s=10_000.0, max_bytes=1_000_000_000, clock=clock)
    costs = RedisCostStore(small, clock=clock)
    bill = Bill(1, 1, 0.25, "m", "gen-" + "a" * 32)
    for number in range(100):
        answered(ledger, number)
        for _ in range(200):
            costs.book([PaidCall.of(bill, key="k", tag="", request_id="r")])
        clock.advance(PIECE_S / 10)
    assert isinstance(ledger.begin(Claim(Work("r-0", "d"), "new", "b", lease_s=60.0)), Answered)
    assert 0 < len(costs.rows(10_000.0)) < 20_000
    assert sum(one.facts["calls"] for one in costs.sums(SPANS[1], 10_000.0)) == 20_000


def test_what_is_not_delivered_does_not_keep_the_others(small: RedisServer):
    """It is the oldest, and stays; those behind it make room."""
    ledger = RedisLedger(small, ttl_s=10_000.0, max_bytes=1_000_000_000)
    for number in range(250):
        answered(ledger, number, published=False)
    for number in range(1000, 1800):
        answered(ledger, number)
    assert isinstance(ledger.begin(Claim(Work("r-0", "d"), "new", "b", lease_s=60.0)), Running)


def test_work_that_is_begun_on_a_full_server_is_begun_as_what_it_was(small: RedisServer):
    """The step is done twice there, and has to find what it has found the first time."""
    ledger = RedisLedger(small, ttl_s=10_000.0, max_bytes=1_000_000_000)
    work = Work("waits", "d")
    ledger.begin(Claim(work, "t", "first", lease_s=60.0))
    ledger.scheduled(work, "t", delivery="first", hop=0)
    small._client.config_set("maxmemory", "1")
    small.make_room = lambda: bool(small._client.config_set("maxmemory", "50mb"))
    assert ledger.begin(Claim(work, "u", "second", lease_s=60.0, redelivered=True)) == Started("first")


def test_answers_keep_to_their_bytes(redis_url: str):
    """LEDGER_MAX_BYTES, on a server that has more: the oldest go first."""
    empty(redis_url)
    clock = Clock()
    with closing(RedisServer(redis_url)) as server:
        ledger = RedisLedger(server, ttl_s=10_000.0, max_bytes=20 * len(ANSWER), clock=clock)
        for number in range(60):
            clock.advance(1)
            answered(ledger, number)
        kept = [ledger.begin(Claim(Work(f"r-{number}", "d"), "new", "b", lease_s=1.0)) for number in range(60)]
    assert [type(entry) for entry in kept[:20]] == [Started] * 20
    assert [type(entry) for entry in kept[50:]] == [Answered] * 10


def test_a_long_answer_takes_less_room_and_comes_back_as_it_was(redis_url: str):
    """Text is half the size when it is compressed."""
    empty(redis_url)
    envelope = b'{"content":"' + b"An answer. " * 1000 + b'"}'
    with closing(RedisServer(redis_url)) as server:
        ledger = RedisLedger(server, ttl_s=100.0, max_bytes=1_000_000)
        ledger.answer(Work("r", "d"), "t", envelope=envelope, message_id="m", failure=False, delivery="a")
        (entry,) = server._client.keys("*ledger*")
        assert server._client.hstrlen(entry, "envelope") < len(envelope) / 2
        found = ledger.begin(Claim(Work("r", "d"), "t", "a", lease_s=1.0))
    assert isinstance(found, Answered)
    assert found.envelope == envelope
