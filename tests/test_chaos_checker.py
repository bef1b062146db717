"""The checker of `script/chaos`: which envelopes it takes for sent once too often."""

from typing import Any

import pytest

from tests.chaos.checker import Envelope, Evidence, judge
from tests.chaos.workload import Kind, Request

ASKED = Request("r-1", Kind("plain", 1), "canary")


def steps(*names: str) -> list[dict[str, Any]]:
    """A journal of one request in one process."""
    facts = {"id": "r-1", "pid": 1, "at": 0.0, "message_id": "m-1", "outcome": "answered", "redelivered": False}
    return [{**facts, "step": name} for name in names]


SENT, ANSWERED = ("arrived",), ("received", "envelope sent", "confirmed", "published", "ack asked")
DUPLICATE = ("received", "ack asked")


@pytest.mark.parametrize(
    ("journal", "wrong"),
    [
        ((*SENT, *ANSWERED, *DUPLICATE), False),
        ((*SENT, *ANSWERED, *ANSWERED), True),
        ((*SENT, *ANSWERED, *SENT, *ANSWERED), False),
        ((*SENT, *ANSWERED, *DUPLICATE, *SENT, *ANSWERED), False),
        ((*SENT, *ANSWERED, *DUPLICATE, *ANSWERED), True),
    ],
    ids=[
        "a duplicate",
        "sent again",
        "sent twice",
        "a duplicate, then a request again",
        "a duplicate, then sent again",
    ],
)
def test_what_is_confirmed_is_sent_again_only_for_another_request(journal: tuple[str, ...], wrong: bool):
    """P2: a delivery that comes late has nothing to send; one of a request that was sent again may send a copy."""
    sent = journal.count("envelope sent")
    evidence = Evidence(
        confirmed=[ASKED],
        unsure=[],
        envelopes=[Envelope("r-1", "success", "m-1", "{}")] * sent,
        dead=[],
        calls=[],
        journal=steps(*journal),
        left={},
        output="",
        secrets=(),
        canary="canary",
    )
    assert bool(judge(evidence).faults) is wrong
