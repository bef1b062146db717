"""The checker of `script/chaos`: which envelopes it takes for sent once too often, and when service stood still."""

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.bill import Bill, digest
from tests.chaos.checker import LONGEST_GAP_S, Envelope, Evidence, Piece, judge
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
    assert bool(judge(evidence(steps(*journal))).faults) is wrong


@pytest.mark.parametrize(
    ("outages", "gap_s"),
    [([], 40.0), ([(5.0, 30.0)], 15.0), ([(-10.0, 5.0), (35.0, 90.0)], 30.0)],
    ids=["nothing was injected", "an outage between", "outages at both ends"],
)
def test_a_standstill_is_what_lasts_beyond_the_injected_outage(outages: list[tuple[float, float]], gap_s: float):
    """P5: from one envelope to the next, of whatever process."""
    journal = steps("arrived", "received", "envelope sent")
    journal[-1]["at"] = 40.0
    verdict = judge(replace(evidence(journal), outages=outages))
    assert verdict.gap_s == gap_s
    assert any("no envelope for" in fault for fault in verdict.faults) is (gap_s > LONGEST_GAP_S)


@pytest.mark.parametrize(("ending", "wrong"), [("given back", False), ("copy confirmed", True)])
def test_an_attempt_whose_copy_is_refused_is_made_again(ending: str, wrong: bool):
    """F20: the original goes back, and what it does costs nothing."""
    journal = steps("arrived", "received", "before call", "copy sent", ending, "noted", *ANSWERED)
    call = {"limited": False, "prompt": "[r-1] canary", "status": 503}
    assert bool(judge(replace(evidence(journal), calls=[call, {**call, "status": 200}])).faults) is wrong


def test_what_is_held_for_its_queue_is_no_standstill():
    """It waits for its owner."""
    journal = steps("arrived", "received", "held", "envelope sent")
    journal[-1]["at"] = 600.0
    assert judge(evidence(journal)).gap_s == 0


STREAMED = Request("r-1", Kind("streamed", 1, streams=True), "canary")
BROKEN = Request("r-1", Kind("stops once", 1, calls=2, streams=True), "canary")
ANSWER = {"limited": False, "prompt": "[r-1] canary", "status": 200}


@pytest.mark.parametrize(
    ("asked", "piece", "calls", "wrong"),
    [
        (STREAMED, Piece("r-1", False, "{}"), 1, False),
        (STREAMED, Piece("r-1", True, "{}"), 1, True),
        (STREAMED, Piece("r-2", False, "{}"), 1, True),
        (STREAMED, Piece("r-1", False, "secret"), 1, True),
        (ASKED, Piece("r-1", False, "{}"), 1, True),
        (STREAMED, Piece("r-1", False, "{}"), 2, True),
        (BROKEN, Piece("r-1", False, "{}"), 2, False),
        (BROKEN, Piece("r-1", False, "{}"), 3, True),
    ],
    ids=[
        "in time",
        "behind its envelope",
        "of nobody",
        "with a secret",
        "not asked for",
        "paid for twice",
        "broken off once",
        "called once too often",
    ],
)
def test_a_piece_of_an_answer_is_asked_for_and_comes_before_its_envelope(
    asked: Request, piece: Piece, calls: int, wrong: bool
):
    """The one envelope is demanded all the same."""
    found = replace(
        evidence(steps(*SENT, *ANSWERED)),
        confirmed=[asked],
        pieces=[piece],
        calls=[ANSWER] * calls,
        secrets=("secret",),
    )
    assert bool(judge(found).faults) is wrong
    assert judge(replace(found, envelopes=[])).faults


def evidence(journal: list[dict[str, Any]]) -> Evidence:
    sent = sum(line["step"] == "envelope sent" for line in journal)
    return Evidence(
        confirmed=[ASKED],
        unsure=[],
        envelopes=[Envelope("r-1", "success", "m-1", "{}")] * sent,
        dead=[],
        calls=[],
        journal=journal,
        left={},
        output="",
        secrets=(),
        canary="canary",
    )


def row(name: str, cost: float | None = 0.25, request: str = "r-1", *, cut_off: bool = False) -> dict[str, Any]:
    return {"generation_id": name, "cost": cost, "request": digest(request), "cut_off": cut_off}


def charge(name: str, cost: float = 0.25, request: str = "r-1") -> dict[str, Any]:
    return {"generation_id": name, "cost": cost, "prompt": f"[{request}] Hello"}


CHARGED = [charge("gen-1"), charge("gen-2", 0.1)]


@pytest.mark.parametrize(
    ("bill", "fault"),
    [
        (Bill([row("gen-1"), row("gen-2", 0.1)], 0.35), None),
        (Bill([row("gen-1"), row("", None, cut_off=True)], 0.25), None),
        (Bill([row("gen-1")], 0.25, {"r-1": 1}), None),
        (Bill([row("gen-1")], 0.25), "neither booked"),
        (Bill([row("gen-1"), row("", None, "r-2", cut_off=True)], 0.25), "neither booked"),
        (Bill([row("gen-1"), row("gen-2", 0.1), row("gen-2", 0.1)], 0.35), "twice"),
        (Bill([row("gen-1"), row("gen-2", 0.2)], 0.45), "not charged so"),
        (Bill([row("gen-1"), row("gen-2", 0.1), row("gen-3")], 0.6), "not charged so"),
        (Bill([row("gen-1"), row("gen-2", 0.1)], 0.36), "usage says 0.36"),
    ],
)
def test_a_bill_agrees_or_is_a_fault(bill: Bill, fault: str | None):
    """Call by call and in all; what a killed process took along is known by its request."""
    found = list(bill.faults(CHARGED))
    assert any(fault in text for text in found) if fault else found == []
