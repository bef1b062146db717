"""What the commands say of what is known: figures, spans of time, findings. See also tests/system/test_console.py."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pika.exceptions import AMQPConnectionError, ConnectionBlockedTimeout

from bridge.wire import work_message
from console import cli
from console.ask import _requests
from console.dead.queues import gone
from console.doctor.finding import of_error
from console.doctor.provider import judge_clock, judge_key, judge_model
from console.doctor.rabbitmq import _held, judge_version
from console.figures import by_name, summary, total
from console.key_doctor import Finding
from console.opened import opened
from console.screen import dollars, screen, span, table, told
from console.state import State, role_of
from console.status import drawn
from console.usage import seconds
from console.waiting import WaitingRequest
from gateway.bills import Bill
from gateway.costs.call import PaidCall
from gateway.errors import StoreUnavailable, TopologyError
from gateway.usage.store import LIFE_S, Cell, Process, Seen
from tests.world import job, world

NOW = datetime(2026, 11, 27, tzinfo=UTC)
WELL = Finding("****1111", "main", "ready", None, None, 0.0, 0, 10, 0, 5.0, None, None, None)
PROCESS = Process("p", "host-1", 7, "1.2", 0.0, 50, 3, 4, None)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command beside a state file of its own, and no RabbitMQ."""
    monkeypatch.setenv("STATE_PATH", str(tmp_path / "state.sqlite3"))
    monkeypatch.setenv("RABBITMQ_URL", "amqp://guest:canary@127.0.0.1:1/")
    monkeypatch.setattr("console.opened.CONNECT_DEADLINE_S", 0.1)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.mark.parametrize(
    ("s", "text"),
    [(0.05, "0.05 s"), (2.5, "2.5 s"), (59.6, "60 s"), (60, "1 min"), (5400, "1.5 h"), (172800, "2 d")],
)
def test_a_span_reads_as_people_say_it(s: float, text: str):
    assert span(s) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(None, "-"), (0.0, "$0.00"), (0.0000125, "$0.000013"), (0.25, "$0.2500"), (12.5, "$12.50")]
)
def test_an_amount_has_the_digits_that_it_needs(amount: float | None, text: str):
    assert dollars(amount) == text


@pytest.mark.parametrize(("text", "s"), [("30m", 1800), ("24h", 86400), ("7d", 604800), ("2w", 1209600)])
def test_a_time_back_is_a_number_and_a_unit(text: str, s: float):
    assert seconds(text) == s


def test_cells_of_one_name_add_up():
    """Whenever they were; costs are in dollars."""
    cells = [Cell(0, "a", "calls", 1), Cell(60, "a", "calls", 2), Cell(0, "b", "cost_nano", 2_500_000_000)]
    assert (by_name(cells)["a"].calls, total(cells).calls, total(cells).cost) == (3, 3, 2.5)


def test_a_share_of_the_latencies_is_within_a_bucket():
    """What took longer than the longest one has no end."""
    cells = [Cell(0, "a", "le_0.1", 1), Cell(0, "a", "le_2.5", 2), Cell(0, "a", "le_inf", 1)]
    assert [total(cells).within_s(share) for share in (0.25, 0.5, 0.75, 0.95)] == [0.1, 2.5, 2.5, None]
    assert total([]).within_s(0.5) is None


def test_counts_are_told_the_largest_first():
    assert told({"held": 1, "answered": 1200, "dead": 1}) == "1,200 answered, 1 dead, 1 held"


def test_a_column_without_a_value_is_left_out():
    assert [column.header for column in table(("a", "b", "c"), [(1, None, ""), (2, "x", "-")]).columns] == ["a", "b"]


@pytest.mark.parametrize(
    ("queue", "role"),
    [
        ("gemini.generate", "work"),
        ("gemini.generate.delay.7s", "key wait"),
        ("gemini.generate.backoff.2s", "provider wait"),
        ("gemini.batch", "batch"),
        ("gemini.batch.delay.7s", "key wait"),
        ("gemini.batch.backoff.2s", "provider wait"),
        ("gemini.batch.fair.0", "in turn"),
        ("gemini.generate.fair.7", "in turn"),
        ("gemini.callbacks", "callbacks"),
        ("gemini.callbacks.delay.5s", "callbacks"),
        ("gemini.generate.dead", "dead"),
        ("gemini.requests.dead", "dead"),
    ],
)
def test_every_queue_of_ours_has_a_role(queue: str, role: str):
    """Also one of a schedule that is no longer set."""
    assert role_of(queue) == role


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("3.9.29", "failed"),
        ("3.10.8", "warning"),
        ("3.13.7", "warning"),
        ("4.0.0", "ok"),
        ("4.2.1", "ok"),
        ("", "unknown"),
    ],
)
def test_the_version_of_rabbitmq_is_judged(version: str, level: str):
    """Quorum queues have had dead-lettering at least once since 3.10."""
    finding = judge_version(version)
    assert (finding.level, finding.remedy is None) == (level, level == "ok")


@pytest.mark.parametrize(
    ("here", "there", "level", "says"),
    [
        (1000.0, 1010.0, "ok", "as that"),
        (1300.0, 1000.0, "failed", "5 min ahead of"),
        (1000.0, 1300.0, "failed", "5 min behind"),
        (1000.0, None, "unknown", "does not say"),
    ],
)
def test_a_clock_that_is_off_is_said(here: float, there: float | None, level: str, says: str):
    """Which way, and by how much."""
    finding = judge_clock(here, there)
    assert (finding.level, says in finding.what) == (level, True)


@pytest.mark.parametrize(
    ("changed", "level", "says"),
    [
        ({"state": "invalid", "trouble": "HTTP 401"}, "failed", "main) is refused: HTTP 401"),
        ({"trouble": "HTTP 500"}, "unknown", "could not be asked about"),
        ({"credit_left": 0.0}, "failed", "no credit left"),
        ({"expires": "2026-12-01T00:00:00Z"}, "warning", "expires on 2026-12-01"),
        ({"state": "limited", "reason": "http_429", "back_in_s": 90.0}, "warning", "rests for 1.5 min (http_429)"),
    ],
)
def test_what_is_wrong_with_a_key_has_a_remedy(changed: dict[str, object], level: str, says: str):
    (finding,) = judge_key(replace(WELL, **changed), NOW)  # type: ignore[arg-type]
    assert (finding.level, says in finding.what, bool(finding.remedy)) == (level, True, True)


def test_a_key_that_is_well_has_no_finding():
    """An expiry that is far, or no date, is none either."""
    for expires in (None, "2028-01-01", "soon"):
        assert list(judge_key(replace(WELL, expires=expires), NOW)) == []


@pytest.mark.parametrize(
    ("trouble", "level"), [(None, "ok"), ("m retires on 2026-12-31: set X", "warning"), ("m is not among", "failed")]
)
def test_a_model_is_judged(trouble: str | None, level: str):
    assert judge_model("m", trouble).level == level


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (TopologyError("RabbitMQ refuses you: check it"), "RabbitMQ refuses you", "check it"),
        (
            StoreUnavailable("The file cannot be used: no. See STATE_PATH: it must be a file"),
            "The file cannot be used: no",
            "see STATE_PATH: it must be a file",
        ),
        (TopologyError("something"), "something", "see its log"),
    ],
)
def test_an_error_of_ours_is_a_finding_with_its_remedy(error: TopologyError, what: str, remedy: str):
    finding = of_error("area", error)
    assert (finding.what, finding.remedy) == (what, remedy)


def test_a_connection_that_ended_is_said_in_words():
    """An alarm is named; its end is not the client's fault."""
    assert "memory or disk alarm" in str(gone(ConnectionBlockedTimeout()))
    assert "try again" in str(gone(AMQPConnectionError()))


def test_a_state_without_rabbitmq_shows_what_the_store_knows(run: Run):
    """And says what is missing; exit code 69, no password."""
    code, out, err = run("status", "--json")
    state = json.loads(out)
    assert (code, state["queues"], state["workers"], "canary" in out + err) == (69, None, [], False)
    assert "cannot be reached" in state["troubles"][0]
    code, out, _ = run("status")
    assert (code, "cannot be reached" in out, "none reports" in out) == (69, True, True)


def test_a_command_without_rabbitmq_says_what_to_do(run: Run):
    """In one line."""
    code, _, err = run("waits")
    assert (code, err.count("\n"), "is RABBITMQ_URL right?" in err) == (69, 1, True)


@pytest.mark.parametrize("arguments", [["nope"], ["usage", "--since", "x"], ["ask"], ["ask", "--file", "nowhere"]])
def test_a_command_that_cannot_be_meant_is_64(run: Run, arguments: list[str]):
    """And says how it is used."""
    code, _, err = run(*arguments)
    assert (code, "Usage: gemini" in err) == (64, True)


def test_usage_without_a_report_says_so(run: Run):
    assert run("usage") == (0, "Nothing was paid for in that time.\n", "")
    assert run("usage", "--by", "outcome") == (0, "Nothing was reported in that time.\n", "")
    assert run("usage", "--calls") == (0, "", "")
    assert json.loads(run("usage", "--by", "error", "--json")[1])["error"] == []


def test_a_screen_shows_who_is_gone_and_who_is_not_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """With why."""
    with world(tmp_path) as here:
        nothing = summary(here.stores.usage, last_s=3600)
    ill = replace(PROCESS, host="host-2", not_ready="it drains")
    state = State([Seen(PROCESS, LIFE_S), Seen(ill, 1.0)], [], [], [], nothing, nothing, [])
    screen().print(drawn(state))
    lines = capsys.readouterr().out.splitlines()
    (gone_line,) = [line for line in lines if "host-1" in line]
    (ill_line,) = [line for line in lines if "host-2" in line]
    assert "gone" in gone_line
    assert "no report for 20 s" in gone_line
    assert "not ready" in ill_line
    assert "it drains" in ill_line


def test_a_file_of_prompts_is_read_line_by_line(tmp_path: Path):
    """A string is a prompt, an object is a request; each gets an id, and the model that was asked for."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('"one"\n\n{"prompt": "two", "request_id": "mine"}\n')
    one, two = _requests(file, "m")
    assert (one["prompt"], one["model"], bool(one["request_id"])) == ("one", "m", True)
    assert (two["request_id"], two["model"]) == ("mine", "m")


class Enough(Exception):
    """The end of a watch."""


@pytest.mark.parametrize("arguments", [["--watch", "--json"], ["--watch"]])
def test_a_watch_that_is_no_screen_has_one_state_behind_the_other(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
):
    """An object a line with --json; each is there at once."""
    seen: list[str] = []

    def pause(_s: float) -> None:
        seen.append(capsys.readouterr().out)
        if len(seen) == 2:
            raise Enough

    monkeypatch.setattr("console.status.time.sleep", pause)
    with pytest.raises(Enough):
        run("status", *arguments)
    if "--json" in arguments:
        assert [json.loads(state)["workers"] for state in seen] == [[], []]
    else:
        assert ["none reports" in state for state in seen] == [True, True]


def test_a_worker_has_the_settings_of_the_folder_where_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its `.env` too, though script/run changes to the checkout; the environment wins, paths begin in the folder."""
    (tmp_path / ".env").write_text("REQUEST_QUEUE='mine'\nSTATE_PATH=state.sqlite3\nLOG_LEVEL=DEBUG\nhttp_proxy=no\n")
    started: list[dict[str, str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STATE_PATH", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    monkeypatch.setenv("REQUEST_QUEUE", "")
    monkeypatch.setattr("console.run.os.execve", lambda _program, _arguments, environment: started.append(environment))
    monkeypatch.setattr("console.run.os.execv", lambda *_: None)
    cli.main(["run", "--fake"])
    wanted = {"REQUEST_QUEUE": "mine", "STATE_PATH": str(tmp_path / "state.sqlite3"), "LOG_LEVEL": "INFO"}
    assert [wanted.items() <= one.items() and "http_proxy" not in one for one in started] == [True]


def test_answers_that_clients_have_left_are_one_finding():
    """Their queues are none to be made."""
    finding = _held(None, "reply_to", 3, 0)  # type: ignore[arg-type]
    assert finding is not None
    assert (finding.level, "CALLBACK_QUEUE_CREATE" in str(finding.remedy)) == ("warning", False)


def test_usage_is_what_was_booked(monkeypatch: pytest.MonkeyPatch, run: Run):
    """By key, model and tag; the calls themselves; what it says of calls without a price, and of the day's budget."""
    monkeypatch.setenv("OPENROUTER_API_KEYS", "team=sk-or-v1-key-one-1111")
    monkeypatch.setenv("BUDGET_USD_PER_DAY", "2")
    with opened() as here:
        key = here.settings.keys[0].digest
        bills = [(key, "nightly", Bill(1, 2, 0.5, "m", "gen-1")), ("gone", "", Bill(3, 4, None, "n", None))]
        here.stores.costs.book([PaidCall.of(bill, key=key, tag=tag, request_id="r") for key, tag, bill in bills])
        here.stores.costs.book([PaidCall.lost("t", model="m", tag="", request_id="r")])
        here.stores.costs.note("key.gone", "****9999 (old)", kept_s=60.0)
    found = json.loads(run("usage", "--by", "key", "--json")[1])
    assert [(row["name"], row["cost"]) for row in found["key"]] == [
        ("****1111 (team)", 0.5),
        ("****9999 (old)", 0.0),
        ("none", 0.0),
    ]
    assert (found["total"]["cost"], found["total"]["unpriced"], found["total"]["cut_off"]) == (0.5, 1, 1)
    assert found["budget"] == {"limit": 2.0, "spent": 0.5}
    assert [row["name"] for row in json.loads(run("usage", "--by", "tag", "--json")[1])["tag"]] == ["nightly", "none"]
    text = run("usage", "--since", "7d")[1]
    assert "1 call cost: tokens only" in text
    assert "1 call cut off" in text
    assert "Today: $0.5000 of $2.00" in text
    rows = [json.loads(line) for line in run("usage", "--calls")[1].splitlines()]
    assert sorted((row["generation_id"], row["key"]) for row in rows) == [
        ("", "****9999 (old)"),
        ("", "none"),
        ("gen-1", "****1111 (team)"),
    ]


@pytest.mark.parametrize(
    ("queue", "counts"),
    [
        ("gemini.generate.delay.86400s", (3, 2)),
        ("gemini.batch.delay.86400s", (3, 2)),
        ("gemini.generate.backoff.30s", (4, 1)),
        ("gemini.batch.backoff.30s", (4, 1)),
    ],
)
def test_who_is_run_now_has_no_retry_counted(queue: str, counts: tuple[int, int]):
    """In either lane; else the last wait of a batch request would end in an error."""
    waiting = WaitingRequest(queue, work_message(job(retry_count=4, upstream_retries=2)), tag=1)
    now = waiting.now(dropped=False)
    assert (now.retry_count, now.upstream_retries) == counts
