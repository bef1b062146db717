"""The faults that a round injects: each does its harm, and has undone it when it returns."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pika.exceptions import AMQPError

from dev.rabbitmq import vhost_of
from dev.waiting import wait_until
from tests.chaos.arena import Arena
from tests.chaos.node import USER, ChaosNode

#: Steps of the product at which a process can be ended.
STEPS = (
    "arrived",
    "received",
    "before call",
    "after call",
    "stored",
    "envelope sent",
    "confirmed",
    "published",
    "before ack",
    "ack asked",
    "copy sent",
    "copy confirmed",
)

#: Of a request that comes again, and is relayed.
RELAY_STEPS = ("relayed", "relay: before ack", "relay: ack asked")

#: How long after its declaration a queue survives a SIGKILL of RabbitMQ, in seconds; seen: 0.4 s is too short.
QUEUE_IS_SAFE_S = 1.5


@dataclass(frozen=True)
class Where:
    """What a fault can reach."""

    arena: Arena
    node: ChaosNode
    rng: random.Random

    def wait(self, low_s: float, high_s: float) -> None:
        threading.Event().wait(self.rng.uniform(low_s, high_s))


Fault = Callable[[Where], None]


def close_connections(where: Where) -> None:
    where.node.close_connections(where.arena.direct.url)


def stop_app(where: Where) -> None:
    where.node.stop_app()
    where.wait(0.5, 3)
    where.node.start_app()


def kill_rabbitmq(where: Where) -> None:
    """Not right after a queue was declared: RabbitMQ 3.10 can forget it then, with what it has confirmed in it.

    It is the worker that declares queues, so it stands still until the kill; the others go on.
    """
    names = where.node.queues(where.arena.direct.url).keys()
    since = time.monotonic()

    def unchanged() -> bool:
        nonlocal names, since
        now = where.node.queues(where.arena.direct.url).keys()
        if now != names:
            names, since = now, time.monotonic()
        return time.monotonic() - since > QUEUE_IS_SAFE_S

    where.arena.pause("worker")
    try:
        wait_until(unchanged, timeout_s=20, what="no new queue")
        where.node.kill()
    finally:
        where.arena.resume("worker")
    where.wait(0, 1)
    where.node.start()


def freeze_rabbitmq(where: Where) -> None:
    where.node.freeze()
    where.wait(2, 7)
    where.node.thaw()


def memory_alarm(where: Where) -> None:
    where.node.alarm(on=True)
    where.wait(2, 5)
    where.node.alarm(on=False)


def full_callback_queue(where: Where) -> None:
    """A policy under which the callback queue takes nothing, and drops nothing.

    In two steps: a limit that comes in one with `overflow` is applied before it, and drops what lies in the queue.
    A policy applies at once; RabbitMQ says so five seconds later, which is longer than this fault may last.
    """
    vhost = vhost_of(where.arena.direct.url)
    for definition in ({"overflow": "reject-publish"}, {"overflow": "reject-publish", "max-length": 0}):
        policy = {"pattern": "^gemini.responses$", "definition": definition}
        where.node.api("PUT", f"policies/{vhost}/full", policy)
        where.wait(1, 1.5)
    where.wait(0, 1.5)
    where.node.api("DELETE", f"policies/{vhost}/full")


def no_permission(where: Where) -> None:
    """The user may write nowhere; channels that are open keep what they may do, so they are closed."""
    url = where.arena.direct.url
    where.node.permit(url, user=USER, write="^$")
    where.node.close_connections(url)
    where.wait(1, 3)
    where.node.permit(url, user=USER)


def delete_request_queue(where: Where) -> None:
    """At a moment when nothing is in it, or on its way out of it: what is, would be gone by somebody's hand."""
    _delete_at_rest(where, "gemini.requests", lambda: "gemini.requests" not in where.node.ours(where.arena.direct.url))


def _delete_at_rest(where: Where, queue: str, is_at_rest: Callable[[], bool]) -> None:
    """Delete a queue while the backend holds still, and nothing moves for longer than RabbitMQ takes to count."""
    where.arena.producing.clear()
    with suppress(AssertionError):  # too much is going on just now; a fault that does not come does no harm
        wait_until(is_at_rest, timeout_s=25, what=f"nothing to do with {queue}")
        where.wait(0.5, 0.6)
        if is_at_rest():
            with where.arena.direct.channel() as channel:
                channel.queue_delete(queue)
    where.arena.producing.set()


def delete_callback_queue(where: Where) -> None:
    """With the envelopes out of it, and the worker held still.

    RabbitMQ confirms a message that reaches a queue while it is being deleted: gone, too, by somebody's hand.
    """

    def deleted() -> bool:
        try:
            where.arena.read("gemini.responses")
            with where.arena.direct.channel() as channel:
                channel.queue_delete("gemini.responses", if_empty=True)
        except AMQPError:
            return False
        return True

    where.arena.pause("worker")
    where.wait(0.3, 0.5)
    wait_until(deleted, timeout_s=30, what="gemini.responses to be empty and deleted")
    where.arena.resume("worker")


def delete_work_queue(where: Where) -> None:
    """At a moment when nothing is in it: the backend holds still, and all has been done that there was."""
    url = where.arena.direct.url
    _delete_at_rest(where, "gemini.generate", lambda: not where.node.ours(url))
    # A quorum queue that RabbitMQ has just made does not survive its SIGKILL on a single node: it is listed for ever,
    # and takes nothing. So this fault is over when the queue is there, and on the disk.
    wait_until(lambda: "gemini.generate" in where.node.queues(url), timeout_s=30, what="the work queue to be back")
    where.wait(2, 3)


def black_hole(where: Where) -> None:
    where.arena.proxy.black_hole()
    where.wait(2, 8)
    if where.rng.random() < 0.5:
        where.arena.proxy.reset()
    where.arena.proxy.heal()


def cut_in_a_frame(where: Where) -> None:
    for _ in range(where.rng.randint(1, 4)):
        where.arena.proxy.cut_after(where.rng.randint(1, 3000))
        where.wait(0.2, 1)
    where.arena.proxy.heal()


def swallow_confirms(where: Where) -> None:
    where.arena.proxy.swallow_confirms(where.rng.randint(1, 3))
    where.wait(1, 2)


def kill_worker(where: Where) -> None:
    for _ in range(where.rng.randint(1, 2)):
        where.arena.kill("worker")
        where.wait(0.5, 4)


def kill_one_worker_process(where: Where) -> None:
    where.arena.kill_one_child("worker")


def kill_bridge(where: Where) -> None:
    for _ in range(where.rng.randint(1, 3)):
        where.arena.kill("bridge")
        where.wait(0.3, 2)


def stop_worker(where: Where) -> None:
    where.arena.terminate("worker")


def stop_bridge(where: Where) -> None:
    where.arena.terminate("bridge")


def fail_at_steps(where: Where) -> None:
    for step in where.rng.sample(STEPS, 2) + where.rng.sample(RELAY_STEPS, 1):
        where.arena.arm(step)
        where.wait(0.5, 2)
    where.wait(1, 2)
    where.arena.disarm()


FAULTS: tuple[Fault, ...] = (
    close_connections,
    stop_app,
    kill_rabbitmq,
    freeze_rabbitmq,
    memory_alarm,
    full_callback_queue,
    no_permission,
    delete_request_queue,
    delete_callback_queue,
    delete_work_queue,
    black_hole,
    cut_in_a_frame,
    swallow_confirms,
    kill_worker,
    kill_one_worker_process,
    kill_bridge,
    stop_worker,
    stop_bridge,
    fail_at_steps,
)

#: Their victim is a bridge beside the worker.
BRIDGE_FAULTS = (kill_bridge, stop_bridge)
