"""Fires `on_success` or `on_failure` once, on the final outcome, with the finished reply."""

import logging

from dramatiq import Actor, Broker, Middleware
from dramatiq.broker import MessageProxy

from gateway.errors import Nacked, StoreUnavailable, Unroutable
from gateway.messages import Reply
from gateway.reporting import sentry
from gateway.runtime import Runtime
from middleware.attempt import Attempt, Outcome, attempt_of
from middleware.errors import NotRun, Stopping
from middleware.held_reply import hold, settle_held
from middleware.publishing import Publishing

#: How often a worker looks whether RabbitMQ takes publishes again.
READY_POLL_S = 1.0

logger = logging.getLogger(__name__)


class Callbacks(Middleware):
    """The callback actor runs in this worker at once; when the callback queue refuses the reply it runs later.

    Later means as a message of `gemini.callbacks`: the reply is finished, so nothing is generated again.
    """

    def __init__(self, runtime: Runtime, publishing: Publishing) -> None:
        self.runtime = runtime
        self.publishing = publishing

    @property
    def actor_options(self) -> set[str]:
        return {"on_success", "on_failure"}

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Hold the delivery while answers cannot be published: nothing is paid for that cannot be delivered."""
        waiting = False
        while not self.runtime.publisher.ready and not self.runtime.publisher.wait_ready(READY_POLL_S):
            if self.runtime.stopping.is_set():
                raise Stopping("the worker is stopping")
            if not waiting:
                logger.warning("Waiting: RabbitMQ takes no publishes now (connection lost, or a memory or disk alarm)")
                waiting = True

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        attempt = attempt_of(message)
        try:
            self._publish(broker, message, attempt, exception)
        finally:
            self.publishing.end(attempt)

    def _publish(
        self, broker: Broker, message: MessageProxy, attempt: Attempt, exception: BaseException | None
    ) -> None:
        if attempt.reply is None or attempt.outcome is not None:
            return
        if attempt.job is None:
            attempt.outcome = settle_held(self.runtime, message, attempt.reply, exception)
            return
        if isinstance(exception, NotRun) and not attempt.stored:
            return
        actor = self._callback(broker, message, attempt.reply)
        attempt.outcome = self._deliver(actor, attempt.reply)
        self._mark_published(attempt)

    def _callback(self, broker: Broker, message: MessageProxy, reply: Reply) -> Actor[[Reply], None]:
        options = broker.get_actor(message.actor_name).options
        return broker.get_actor(options["on_success" if reply.success else "on_failure"])

    def _deliver(self, actor: Actor[[Reply], None], reply: Reply) -> Outcome:
        try:
            actor.fn(reply)
        except (Unroutable, Nacked) as error:
            logger.warning("The callback queue refused the reply, held for later: %s", error)
            sentry.tell_operator("callback_refused", str(error), about=reply.queue)
            return hold(self.runtime, actor.message(reply), reply)
        return Outcome.ANSWERED

    def _mark_published(self, attempt: Attempt) -> None:
        if attempt.work is None or not attempt.stored:
            return
        try:
            self.runtime.ledger.published(attempt.work)
        except StoreUnavailable as error:
            logger.warning("A redelivery would publish this answer again, with the same message_id: %s", error)
