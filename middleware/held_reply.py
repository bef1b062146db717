"""Replies whose callback queue refused them: they wait in RabbitMQ and are tried again, for about a day."""

import logging
import time

from dramatiq import Message
from dramatiq.broker import MessageProxy

from gateway.errors import ErrorCode
from gateway.messages import Reply
from gateway.rabbitmq.dead_letters import dead_letter
from gateway.rabbitmq.topology import DEAD_WORK
from gateway.reporting import sentry
from gateway.runtime import Runtime
from gateway.schedule import callback_wait_s
from middleware.attempt import Outcome
from middleware.errors import NotRun
from middleware.outbox import confirmed_publish, publish_until_stopped

logger = logging.getLogger(__name__)


def hold(runtime: Runtime, message: Message[None], reply: Reply) -> Outcome:
    """Put a refused reply into its next wait, or into the dead queue after the last one; confirmed either way."""
    refused = reply.model_copy(
        update={"attempts": reply.attempts + 1, "first_refused_at": reply.first_refused_at or time.time()}
    )
    copy = message.copy(args=(refused,), options={})
    delay_s = callback_wait_s(refused.attempts)
    if delay_s is None:
        return _to_dead_queue(runtime, copy, refused)
    publish_until_stopped(runtime, copy, runtime.topology.callback_wait(delay_s))
    logger.info("The reply waits %g s for its callback queue (refused %d times)", delay_s, refused.attempts)
    return Outcome.HELD


def settle_held(
    runtime: Runtime, message: MessageProxy, reply: Reply, exception: BaseException | None
) -> Outcome | None:
    """What became of another try; None, so that it goes back to its queue, when the process is stopping."""
    if exception is None:
        return Outcome.ANSWERED
    if isinstance(exception, NotRun):
        return None
    # Refused, or a fault of ours: at once it would come back, and fail again, until RabbitMQ gives it up.
    return hold(runtime, message._message, reply)  # noqa: SLF001 - the proxy has no copy() of its own type


def _to_dead_queue(runtime: Runtime, message: Message[None], reply: Reply) -> Outcome:
    properties = dead_letter(
        reason="the callback queue refused the reply at every try",
        code=ErrorCode.CALLBACK_REFUSED,
        source=reply.queue,
        request_id=reply.request_id,
        first_seen=reply.first_refused_at,
        attempts=reply.attempts,
    )
    confirmed_publish(runtime, DEAD_WORK, message.encode(), properties)
    sentry.tell_operator("reply_dead", "a reply could not be delivered for a day", about=reply.queue)
    logger.error("The callback queue refused the reply %d times: moved to the dead queue", reply.attempts)
    return Outcome.DEAD
