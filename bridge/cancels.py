"""The door for cancels: what its sender does not want any more is marked in the ledger, which every attempt asks."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bridge.delivery import RETRY_S, Delivery
from bridge.door import Door
from bridge.gate import admit_cancel
from gateway.errors import InvalidMessage, StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import DEAD_REQUESTS
from gateway.reporting.logs import request_id_var
from gateway.reporting.redaction import escape_controls

logger = logging.getLogger(__name__)


class CancelDoor(Door):
    """A cancel is acked when the mark is in the ledger; it runs nothing, and takes no thread from what does.

    Whatever runs or waits ahead of it, it is received: its queue is not one that a process pauses or counts room for.
    The ledger may be away, and a door must not wait: it is asked on a thread of its own.
    """

    def __init__(self, ledger: Callable[[], Ledger], publisher: Callable[[], Publisher]) -> None:
        super().__init__(publisher, dead_queue=DEAD_REQUESTS)
        self.ledger = ledger
        self._marking = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cancels")  # no thread before the first

    def open(self, delivery: Delivery) -> None:
        try:
            cancelled = admit_cancel(delivery.body).cancel
        except InvalidMessage as error:
            logger.warning("Not a cancel, moved to the dead queue: %s", escape_controls(str(error), 500))
            self.to_dead_queue(delivery, reason=str(error), code=error.code)
            return
        self._marking.submit(self._mark, delivery, cancelled)

    def _mark(self, delivery: Delivery, request_id: str) -> None:
        request_id_var.set(request_id)
        try:
            remembered = self.ledger().cancel(request_id)
        except StoreUnavailable as error:
            logger.warning("A cancel waits for the ledger: %s", error)
            delivery.settle(confirmed=False, after_s=RETRY_S)
            return
        except Exception as fault:  # noqa: BLE001 - nobody else would see it, or settle the delivery
            self.give_up(delivery, fault)
            return
        if remembered:
            logger.info("Cancelled by its sender, if it was not called yet")
        else:
            logger.warning("A cancel without effect: LEDGER_TTL_SECONDS is 0, and nothing is remembered")
        delivery.settle(confirmed=True)
