"""The lane of a request: whether somebody waits for its answer, or it may take its time. Pure.

    `priority` of the request   AMQP property `priority`     lane
    interactive                 any                          interactive
    batch                       any                          batch
    not given                   none, 0, 4 and more          interactive
    not given                   1, 2, 3                      batch

What producers have sent so far is interactive: 0 is what clients write that were not asked (Spring's and Java's
`MessageProperties`), and what RabbitMQ takes a missing one for. JMS and AMQP 1.0 call 4 the normal priority.
"""

from enum import StrEnum
from typing import Final

#: The AMQP priorities of somebody who has said that it is less urgent than usual.
LOWER: Final = frozenset({1, 2, 3})


class Lane(StrEnum):
    """Batch waits where interactive does not."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


def lane_of(priority: str | None, amqp_priority: object) -> Lane:
    """The lane by the request's own field, else by AMQP's property, else interactive."""
    if priority is not None:
        return Lane(priority)
    is_lower = type(amqp_priority) is int and amqp_priority in LOWER
    return Lane.BATCH if is_lower else Lane.INTERACTIVE
