"""What only the ledger in Redis has to bear: a client that asks again, because an answer was lost on its way."""

from collections.abc import Callable

from dev.redis import empty
from gateway.ledger.redis import RedisLedger
from gateway.ledger.store import Running, Started, Work
from gateway.stores.redis_server import RedisServer, Rows

WORK = Work("request-1", "digest")


class Lossy(RedisServer):
    """Loses each first answer: the step was done, and the client sends the same once more."""

    def run(self, script: str, clock: Callable[[], float] | None, *args: str | bytes | int) -> Rows:
        super().run(script, clock, *args)
        return super().run(script, clock, *args)


def test_who_asks_again_after_a_lost_answer_has_started(redis_url: str):
    """It would wait for its own lease otherwise; somebody else still finds the work running."""
    empty(redis_url)
    lossy, server = Lossy(redis_url), RedisServer(redis_url)
    assert isinstance(RedisLedger(lossy, ttl_s=60.0).begin(WORK, delivery="a", lease_s=30.0), Started)
    assert isinstance(RedisLedger(server, ttl_s=60.0).begin(WORK, delivery="b", lease_s=30.0), Running)
    lossy.close()
    server.close()
