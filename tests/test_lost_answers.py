"""What the stores in Redis have to bear: a client that asks again, because an answer was lost on its way (F65)."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from dev.redis import empty
from gateway.keys.pool import KeyPool, Lease
from gateway.keys.redis import RedisKeyStore
from gateway.ledger.redis import RedisLedger
from gateway.ledger.store import Claim, Running, Started, Work
from gateway.secrets import ApiKey
from gateway.stores.redis_server import RedisServer, Rows

WORK = Work("request-1", "digest")


class Lossy(RedisServer):
    """Loses each first answer: the step was done, and the client sends the same once more."""

    def run(
        self, script: str, clock: Callable[[], float] | None, *args: str | bytes | int, makes_room: bool = True
    ) -> Rows:
        super().run(script, clock, *args)
        return super().run(script, clock, *args)


@pytest.fixture
def lossy(redis_url: str) -> Iterator[Lossy]:
    empty(redis_url)
    with closing(Lossy(redis_url)) as server:
        yield server


def test_who_asks_again_has_begun_already(lossy: Lossy, redis_url: str):
    """It would wait for its own lease otherwise; somebody else still finds the work running. So it is for an answer."""
    ledger = RedisLedger(lossy, ttl_s=60.0, max_bytes=1_000_000)
    assert isinstance(ledger.begin(Claim(WORK, "t", "a", lease_s=30.0)), Started)
    with closing(RedisServer(redis_url)) as server:
        assert isinstance(
            RedisLedger(server, ttl_s=60.0, max_bytes=1_000_000).begin(Claim(WORK, "u", "b", lease_s=30.0)), Running
        )
    assert ledger.answer(WORK, "t", envelope=b"{}", message_id="m", failure=False, delivery="a")


def test_who_asks_again_for_a_key_has_one_use(lossy: Lossy):
    """A second one would count for a window, and be in flight for as long as a lease may last."""
    keys = [ApiKey("sk-or-v1-key-one-1111"), ApiKey("sk-or-v1-key-two-2222")]
    pool = KeyPool(keys, RedisKeyStore(lossy), max_per_window=5, max_in_flight=1)
    lease = pool.acquire("model")
    assert isinstance(lease, Lease)
    assert sorted((row.used, row.in_flight) for row in pool.status()) == [(0, 0), (1, 1)]
    pool.cancel(lease)
    assert sorted((row.used, row.in_flight) for row in pool.status()) == [(0, 0), (0, 0)]
