"""A worker that is killed with every thread in a call, again and again: whatever was asked is answered."""

import signal
from pathlib import Path

import pytest

from dev.launcher import procfile
from dev.rabbitmq import Server
from dev.stack import Stack
from fake_openrouter.client import running

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

REQUESTS, THREADS = 150, 50

#: How long the leases of the dead are waited for, with what follows, in seconds.
PATIENCE_S = 120.0


@pytest.mark.parametrize("round_", range(5))
@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_every_request_is_answered_when_the_leases_of_a_dead_worker_end(
    rabbitmq_server: Server, tmp_path: Path, request: pytest.FixtureRequest, store: str, round_: int
):
    """F60: all threads of the next worker ask at the moment at which a lease ends, and none of them gives up."""
    settings: dict[str, object] = {"REQUEST_TIMEOUT_SECONDS": 2, "WORKER_THREADS": THREADS, "KEYS_MAX_PER_MINUTE": 9999}
    if store == "redis":
        settings["REDIS_URL"] = request.getfixturevalue("redis_url")
    with rabbitmq_server.fresh_vhost() as url, running(keys=("sk-or-v1-kills-1111",), per_minute=9999) as fake:
        stack = Stack.apart(url, fake.base_url, tmp_path, OPENROUTER_API_KEYS="sk-or-v1-kills-1111", **settings)
        # On threads, which meet that moment more often than greenlets do.
        command = procfile()["worker"].replace("dramatiq-gevent", "dramatiq")
        try:
            worker = stack.start_worker(command=command)
            fake.script([{"gate": "held"}])
            ids = [f"{store}-{round_}-{number}" for number in range(REQUESTS)]
            stack.publish(*({"request_id": one, "prompt": f"Question {one}"} for one in ids))
            fake.wait_for_calls(THREADS)
            worker.signal_group(signal.SIGKILL)
            worker.wait()
            fake.reset()
            stack.start_worker(command=command)
            answers = stack.answers(REQUESTS, timeout_s=PATIENCE_S)
            assert sorted(answer["request_id"] for answer in answers) == sorted(ids)
            assert {answer["status"] for answer in answers} == {"success"}
        finally:
            stack.close()
