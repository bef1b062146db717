"""What must be true when all faults have passed and the queues have drained."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from tests.chaos.bill import Bill
from tests.chaos.workload import Request

Journal = Iterable[Mapping[str, Any]]

#: How long the ledger keeps an attempt's place in a test build, in seconds: the timeout of a round, and a margin.
LEASE_S = 9.0

#: How long service may stand still beside what is injected, in seconds (P5). A wait for a key takes up to 16.
LONGEST_GAP_S = 20.0


@dataclass(frozen=True)
class Envelope:
    """What came to a callback queue: the request it answers, and what tells copies from one another."""

    request_id: str
    status: str
    message_id: str
    text: str = field(repr=False)


@dataclass(frozen=True)
class Piece:
    """A piece of an answer that came to a callback queue; `is_late`: behind an envelope of its request."""

    request_id: str
    is_late: bool
    text: str = field(repr=False)


@dataclass(frozen=True)
class Evidence:
    """Everything that a round has left behind."""

    confirmed: list[Request]
    unsure: list[Request]
    envelopes: list[Envelope]
    dead: list[str]  # the bodies of dead letters
    calls: list[Mapping[str, Any]]  # the provider's record
    journal: list[Mapping[str, Any]]
    left: Mapping[str, int]  # messages in our queues
    output: str  # of all processes
    secrets: tuple[str, ...]  # what must be nowhere
    canary: str  # the prompt, which must be in no log and no error
    bill: Bill | None = None  # what an operator is told to have paid
    outages: list[tuple[float, float]] = field(default_factory=list)  # when a fault was injected, from and to
    pieces: list[Piece] = field(default_factory=list)


@dataclass
class Verdict:
    """The figures of a round; it passed when `faults` is empty."""

    requests: int = 0
    envelopes: int = 0
    pieces: int = 0  # of answers that are streamed
    copies: int = 0  # beyond the first envelope, for requests that were sent once
    calls: int = 0
    repeated_calls: int = 0  # paid for beyond what was asked
    crashes: int = 0  # of our processes, at a step or by SIGKILL
    gap_s: float = 0.0  # the longest time between two envelopes, without what is injected
    faults: list[str] = field(default_factory=list)


def judge(evidence: Evidence) -> Verdict:
    """Hold the evidence against the promises P1 to P4."""
    verdict = Verdict(requests=len(evidence.confirmed), envelopes=len(evidence.envelopes), calls=len(evidence.calls))
    verdict.pieces = len(evidence.pieces)
    asked = {request.id: request for request in [*evidence.confirmed, *evidence.unsure]}
    answers: defaultdict[str, list[Envelope]] = defaultdict(list)
    for envelope in evidence.envelopes:
        answers[envelope.request_id].append(envelope)

    _nothing_lost(verdict, evidence, answers)
    _nothing_unasked(verdict, evidence, asked, answers)
    _one_envelope(verdict, evidence, asked, answers)
    _one_call(verdict, evidence, asked)
    _pieces_before_envelopes(verdict, evidence, asked)
    _nothing_left(verdict, evidence)
    verdict.faults += evidence.bill.faults(evidence.calls) if evidence.bill else []
    _no_secrets(verdict, evidence)
    _no_standstill(verdict, evidence)
    return verdict


def _nothing_lost(verdict: Verdict, evidence: Evidence, answers: Mapping[str, list[Envelope]]) -> None:
    """P1: each confirmed request has its envelope, or lies in a dead queue, as its kind says."""
    for request in set(evidence.confirmed):
        statuses = {envelope.status for envelope in answers.get(request.id, ())}
        dead = any(f"[{request.id}]" in body for body in evidence.dead)
        found = statuses | ({"dead"} if dead else set())
        if not found:
            verdict.faults.append(f"lost: {request.id} ({request.kind.name})")
        elif found != {request.kind.ending}:
            verdict.faults.append(f"{request.id} ({request.kind.name}) ended as {sorted(found)}")


def _nothing_unasked(
    verdict: Verdict, evidence: Evidence, asked: Mapping[str, Request], answers: Mapping[str, list[Envelope]]
) -> None:
    verdict.faults += [f"unexpected: an envelope for {request_id}" for request_id in answers if request_id not in asked]
    for body in evidence.dead:
        if not any(f"[{request.id}]" in body for request in asked.values() if request.kind.ending == "dead"):
            verdict.faults.append(f"unexpected: a dead letter, {body[:200]!r}")


def _one_envelope(
    verdict: Verdict, evidence: Evidence, asked: Mapping[str, Request], answers: Mapping[str, list[Envelope]]
) -> None:
    """P2: copies share their `message_id`, and nothing is sent again that is known to be confirmed."""
    for request_id, envelopes in answers.items():
        if len({envelope.message_id for envelope in envelopes}) > 1:
            verdict.faults.append(f"two different envelopes for {request_id}")
        if request_id in asked and asked[request_id].kind.copies == 1:
            verdict.copies += len(envelopes) - 1
    for message_id, count in _sent(verdict, evidence.journal, asked).items():
        came = sum(envelope.message_id == message_id for envelope in evidence.envelopes)
        if came > count:
            verdict.faults.append(f"{came} copies of envelope {message_id}, which was sent {count} times")


def _sent(verdict: Verdict, journal: Journal, asked: Mapping[str, Request]) -> Counter[str]:
    """How often each envelope was sent; never by a delivery that came after its confirm had been noted.

    A request that was sent twice may be answered twice, and what a bridge has relayed is like one that was sent. So may
    one whose envelope was held by one delivery, confirmed, while another still published it. Which of several
    deliveries in one process has sent an envelope the journal cannot tell: a late one counts when it is alone.
    """
    sent: Counter[str] = Counter()
    copies: Counter[tuple[str, str]] = Counter()  # by request, and by where they were seen: one was not seen everywhere
    done: set[str] = set()
    held: set[str] = set()
    under_way: Counter[tuple[str, int]] = Counter()  # deliveries by request and process
    late: dict[tuple[str, int], bool] = {}  # whether the delivery under way there has nothing left to do
    for line in journal:
        request_id, delivery = line["id"], (line["id"], line["pid"])
        if request_id not in asked:
            continue
        match line["step"]:
            case "arrived" | "relay: ack asked" as seen if not line.get("redelivered"):
                copies[request_id, seen] += 1
            case "received":
                if not under_way[delivery]:
                    most = max(copies[request_id, "arrived"], copies[request_id, "relay: ack asked"])
                    late[delivery] = request_id in done - held and most <= 1
                under_way[delivery] += 1
            case "ack asked" | "given back" | "parked":
                under_way[delivery] -= 1
            case "envelope sent":
                sent[line["message_id"]] += 1
                if late.get(delivery):
                    verdict.faults.append(f"sent again although it was confirmed: the envelope of {request_id}")
            case "held" | "published" as step:
                (held if step == "held" else done).add(request_id)
    return sent


def _one_call(verdict: Verdict, evidence: Evidence, asked: Mapping[str, Request]) -> None:
    """P3: nothing is paid for twice, and no call is made beyond the attempts, save where a process ended in between.

    Between the call and the ledger, that is. A failed attempt whose copy no queue takes is made again, too. Where two
    copies of a request are about, both are attempted as long as the attempts fail: it was relayed, or a process ended
    before it could note its copy.
    """
    without_end = interrupted(evidence.journal)
    unnoted = _unnoted_copies(evidence.journal)
    refused = _refused_copies(evidence.journal)
    relayed = Counter(line["id"] for line in evidence.journal if line["step"] == "relayed")
    calls: Counter[str] = Counter()
    paid: Counter[str] = Counter()
    for call in evidence.calls:
        if call["limited"] or call["prompt"] is None:
            # On a crowded machine a call can be late, and the next window begin too early for the provider. A caller
            # that was killed in the middle of its request has asked for nothing.
            continue
        request_id = call["prompt"].partition("]")[0].removeprefix("[")
        calls[request_id] += 1
        paid[request_id] += call["status"] == HTTPStatus.OK
    for request_id, count in calls.items():
        if request_id not in asked:
            verdict.faults.append(f"a call for {request_id}, which nobody has asked for")
            continue
        kind, crashes = asked[request_id].kind, without_end[request_id]
        verdict.repeated_calls += max(0, count - kind.calls)
        # An attempt that ended before it was noted is made again, with all that may follow from it.
        if count > kind.calls * (1 + relayed[request_id] + crashes + unnoted[request_id]) + refused[request_id]:
            verdict.faults.append(
                f"{request_id} ({kind.name}) was called for {count} times, with {crashes} crashes in a call"
            )
        # A stream that breaks off has begun as a success: of such calls the provider tells no difference.
        if paid[request_id] > 1 + crashes and not (kind.streams and kind.calls > 1):
            verdict.faults.append(
                f"{request_id} ({kind.name}) was paid for {paid[request_id]} times, {crashes} crashes"
            )


def _pieces_before_envelopes(verdict: Verdict, evidence: Evidence, asked: Mapping[str, Request]) -> None:
    """Nothing is promised of a piece, but that it was asked for and comes before the envelope of its call."""
    calls = Counter((call["prompt"] or "").partition("]")[0].removeprefix("[") for call in evidence.calls)
    for piece in evidence.pieces:
        if piece.request_id not in asked or not asked[piece.request_id].kind.streams:
            verdict.faults.append(f"unexpected: a piece for {piece.request_id}")
        elif piece.is_late and calls[piece.request_id] == 1:
            verdict.faults.append(f"the envelope of {piece.request_id} has overtaken a piece")


def interrupted(journal: Journal) -> Counter[str]:
    """How many attempts of each request began a call and did not come to note in the ledger what came of it.

    Neither has one that comes to it after its lease has ended, because RabbitMQ was away for so long that the wait
    after a failed call could not be confirmed.
    """
    open_calls: defaultdict[str, dict[int, float]] = defaultdict(dict)
    count: Counter[str] = Counter()
    for line in journal:
        calls = open_calls[line["id"]]
        if line["step"] == "before call":
            count[line["id"]] += sum(line["at"] - began > LEASE_S for began in calls.values())
            calls[line["pid"]] = line["at"]  # with another key, it is the same attempt
        elif line["step"] in {"stored", "noted"}:
            calls.pop(line["pid"], None)
    return count + Counter({request_id: len(calls) for request_id, calls in open_calls.items()})


def _unnoted_copies(journal: Journal) -> Counter[str]:
    """How many copies of each request were sent to wait by a process that ended before it had noted them."""
    pending: dict[tuple[str, int], None] = {}
    for line in journal:
        if line["step"] == "copy sent":
            pending[line["id"], line["pid"]] = None
        elif line["step"] == "noted":
            pending.pop((line["id"], line["pid"]), None)
    return Counter(request_id for request_id, _pid in pending)


def _refused_copies(journal: Journal) -> Counter[str]:
    """How often a delivery of each request was given back because RabbitMQ has refused its copy."""
    refused: Counter[str] = Counter()
    sent: set[tuple[str, int]] = set()
    for line in journal:
        delivery = line["id"], line["pid"]
        if line["step"] == "copy sent":
            sent.add(delivery)
        elif line["step"] == "copy confirmed":
            sent.discard(delivery)
        elif line["step"] == "given back" and delivery in sent:
            sent.discard(delivery)
            refused[line["id"]] += 1
    return refused


def _nothing_left(verdict: Verdict, evidence: Evidence) -> None:
    verdict.faults += [f"left in {name}: {count}" for name, count in evidence.left.items()]


def _no_secrets(verdict: Verdict, evidence: Evidence) -> None:
    """P4: no key and no password anywhere, no prompt in a log line or in an error."""
    for secret in (*evidence.secrets, evidence.canary):
        if secret in evidence.output:
            verdict.faults.append("a secret or a prompt in the output of a process")
    if any(secret in piece.text for piece in evidence.pieces for secret in evidence.secrets):
        verdict.faults.append("a secret in a piece of an answer")
    for envelope in evidence.envelopes:
        hidden = (*evidence.secrets, *([evidence.canary] if envelope.status == "error" else []))
        if any(secret in envelope.text for secret in hidden):
            verdict.faults.append(f"a secret in the envelope of {envelope.request_id}")


def _no_standstill(verdict: Verdict, evidence: Evidence) -> None:
    """P5: envelopes go on being sent, whatever has died, while there are requests without one."""
    answerable = {request.id for request in evidence.confirmed if request.kind.ending != "dead"}
    waiting: set[str] = set()
    done: set[str] = set()
    since = 0.0
    for line in sorted(evidence.journal, key=lambda line: float(line["at"])):
        match line["step"]:
            case "arrived" if line["id"] in answerable - done:
                since = since if waiting else line["at"]
                waiting.add(line["id"])
            case "envelope sent" | "held" if waiting:
                verdict.gap_s = max(verdict.gap_s, _beside(evidence.outages, since, line["at"]))
                since = line["at"]
                done.add(line["id"])
                waiting.discard(line["id"])
    if verdict.gap_s > LONGEST_GAP_S:
        verdict.faults.append(f"no envelope for {verdict.gap_s:.0f} s beside what was injected")


def _beside(outages: Iterable[tuple[float, float]], start: float, end: float) -> float:
    """How many of these seconds lie in no outage."""
    return end - start - sum(max(0.0, min(end, last) - max(start, first)) for first, last in outages)
