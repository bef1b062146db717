"""Nothing is paid for that cannot be delivered."""

from middleware.attempt import Attempt
from middleware.hook import Around, Hook
from middleware.outbox import Outbox


class PublisherReady(Hook[Attempt]):
    """A delivery waits while answers cannot be published."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox

    def around(self, attempt: Attempt) -> Around:
        self.outbox.wait_ready()
        yield
