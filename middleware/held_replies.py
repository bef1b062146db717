"""Replies whose callback queue refused them: they wait in RabbitMQ and are tried again, for about a day."""

import logging
import time
from collections.abc import Callable

from dramatiq import Broker, Message

from gateway.errors import ConfirmTimeout, ConnectionLost, ErrorCode, Unroutable
from gateway.messages import Reply
from gateway.rabbitmq.dead_letters import dead_letter
from gateway.rabbitmq.topology import DEAD_WORK, Topology
from gateway.reporting import sentry
from gateway.schedule import callback_wait_s
from middleware.attempt import Outcome, ReplyAttempt
from middleware.errors import NotRun
from middleware.hook import Verdict
from middleware.outbox import Outbox

#: After how many seconds a reply whose confirm did not come is published again.
PUBLISH_AGAIN_S = 1.0

#: Why a reply is dead.
REFUSED, GONE = "the callback queue refused the reply at every try", "the client that waits for the reply is gone"

logger = logging.getLogger(__name__)


class HeldReplies(Verdict[ReplyAttempt]):
    """Another try of a held reply has answered, or the reply is held again; without an outcome it goes back."""

    kind = ReplyAttempt

    def __init__(self, outbox: Outbox, topology: Callable[[], Topology]) -> None:
        self.outbox = outbox
        self.topology = topology

    def after(self, broker: Broker, attempt: ReplyAttempt, error: BaseException | None) -> None:
        if error is None:
            attempt.outcome = Outcome.ANSWERED
        elif isinstance(error, ConfirmTimeout | ConnectionLost):
            attempt.park("the reply is not confirmed", after_s=PUBLISH_AGAIN_S, keeps_room=True)
        elif not isinstance(error, NotRun):
            # Refused, or a fault of ours: at once it would come back, and fail again, until RabbitMQ gives it up.
            attempt.outcome = self.hold(attempt.message, attempt.reply, error)

    def hold(self, message: "Message[None]", reply: Reply, error: BaseException) -> Outcome:
        """Put a refused reply into its next wait, or into the dead queue after the last one; confirmed either way."""
        gone = client_is_gone(reply, error)
        refused = reply.model_copy(
            update={"attempts": reply.attempts + 1, "first_refused_at": reply.first_refused_at or time.time()}
        )
        copy = message.copy(args=(refused,), options={})
        delay_s = callback_wait_s(refused.attempts, client_is_gone=gone)
        if delay_s is None:
            return self._to_dead_queue(copy, refused, client_is_gone=gone)
        self.outbox.send(copy, self.topology().callback_wait(delay_s))
        logger.info("The reply waits %g s for its callback queue (refused %d times)", delay_s, refused.attempts)
        return Outcome.HELD

    def _to_dead_queue(self, message: "Message[None]", reply: Reply, *, client_is_gone: bool) -> Outcome:
        reason = GONE if client_is_gone else REFUSED
        properties = dead_letter(
            reason=reason,
            code=ErrorCode.CALLBACK_REFUSED,
            source=reply.queue,
            request_id=reply.request_id,
            first_seen=reply.first_refused_at,
            attempts=reply.attempts,
        )
        self.outbox.insist(DEAD_WORK, message.encode(), properties)
        # The queue of a client that waits is another one each time: all of them are one complaint.
        sentry.tell_operator("reply_dead", reason, about="reply_to" if reply.caller.waits else reply.queue)
        logger.error("Tried %d times, and moved to the dead queue: %s", reply.attempts, reason)
        return Outcome.DEAD


def client_is_gone(reply: Reply, error: BaseException) -> bool:
    """Whether the queue of AMQP's request/reply, which nobody else can make, is no longer there."""
    return reply.caller.waits and isinstance(error, Unroutable)
