"""`gemini`, as an operator types it, beside a worker that runs: from outside, with its environment."""

import json
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import redis

from dev.launcher import ROOT
from dev.rabbitmq import Server, vhost_of
from dev.redis import empty, redis_server
from dev.stack import Stack
from dev.waiting import wait_until
from fake_openrouter.client import FakeClient, running
from tests.system import canaries
from tests.system.canaries import leaks
from tests.system.conftest import KEYS, MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

#: Every command that shows something and changes nothing.
SHOWING = (
    ["status"],
    ["status", "--json"],
    ["keys"],
    ["waits"],
    ["failed"],
    ["failed", "show", "--all"],
    ["usage", "--by", "key", "--since", "7d"],
    ["usage", "--by", "model", "--json"],
    ["usage", "--by", "error"],
    ["usage", "--calls"],
    ["doctor"],
    ["doctor", "--json"],
)


@dataclass
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        (line,) = self.out.splitlines()
        return dict(json.loads(line))


def gemini(stack: Stack, *arguments: str, stdin: str = "", **settings: object) -> Ran:
    """Run it with the environment of the stack's worker."""
    environment = {**stack.environment, "PYTHONPATH": str(ROOT)}
    environment |= {name: str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "console", *arguments]
    done = subprocess.run(
        command,
        cwd=stack.folder,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def completion(content: str) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "cost": 0.25}
    return {"id": "gen-1", "model": "vendor/served", "choices": [choice], "usage": usage}


def until(look: Callable[[], Ran], good: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """What a command says as soon as it is good: reports take some seconds."""
    said: list[Ran] = []

    def is_good() -> bool:
        said.append(look())
        return bool(good(said[-1].json))

    wait_until(is_good, timeout_s=60, what=f"a state that is as expected: {said[-1:]}")
    return said[-1].json


def requests(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"request_id": str(uuid.uuid4()), "prompt": f"Question {number}", **fields} for number in range(count)]


def test_the_state_of_a_worker_at_work(make_stack: MakeStack):
    """It lives, it has answered, it is not missed when it ends; usage agrees with the envelopes to the last digit."""
    stack, _fake = make_stack(keys=2)
    assert gemini(stack, "status").code == 1
    worker = stack.start_worker()
    stack.publish(*requests(5))
    answers = stack.answers(5)
    state = until(
        lambda: gemini(stack, "status", "--json"), lambda state: state["last_hour"]["outcomes"].get("answered") == 5
    )
    assert [(one["lives"], one["not_ready"], one["threads"]) for one in state["workers"]] == [(True, None, 8)]
    queues = {queue["name"]: queue for queue in state["queues"]}
    assert (queues["gemini.requests"]["messages"], queues["gemini.requests"]["consumers"]) == (0, 1)
    shown = gemini(stack, "status")
    assert shown.code == 0
    assert re.search(rf"{worker_pid(state)} .*ready", shown.out)
    total = gemini(stack, "usage", "--by", "key", "--json").json["total"]
    usages = [answer["usage"] for answer in answers]
    assert total["calls"] == 5
    assert total["prompt_tokens"] == sum(usage["prompt_tokens"] for usage in usages)
    assert round(total["cost"], 9) == round(sum(usage["cost"] for usage in usages), 9)
    worker.terminate()
    worker.wait()
    assert gemini(stack, "status", "--json").json["workers"] == []


def worker_pid(state: dict[str, Any]) -> int:
    return int(state["workers"][0]["pid"])


def test_a_killed_worker_is_missed(make_stack: MakeStack):
    """Its last report is old: the state and the doctor say so. The report is made older, to wait for nothing."""
    stack, _ = make_stack()
    worker = stack.start_worker()
    until(lambda: gemini(stack, "status", "--json"), lambda state: state["workers"])
    worker.close()
    with closing(sqlite3.connect(stack.folder / "state.sqlite3")) as file, file:
        file.execute("UPDATE processes SET beat_at = beat_at - 60")
    ran = gemini(stack, "status", "--json")
    assert (ran.code, ran.json["workers"][0]["lives"]) == (1, False)
    assert f"process {worker_pid(ran.json)} on " in gemini(stack, "doctor").out
    assert "none reports" in gemini(stack, "status").out


def test_a_question_and_its_answer(well: tuple[Stack, FakeClient]):
    """The answer on stdout, its way on stderr."""
    stack, fake = well
    fake.script([{"prompt": "the answer?", "body": completion("Forty-two.")}, {"prompt": "refused", "status": 400}])
    asked = gemini(stack, "ask", "What is the answer?")
    assert (asked.code, asked.out) == (0, "Forty-two.\n")
    assert re.search(r"-> gemini.requests  request \S+\n<- answered by vendor/served \(2 tokens, \$0.2500\)", asked.err)
    assert "What is" not in asked.err
    assert gemini(stack, "ask", "--json", "-", stdin="From a pipe").json["content"] == "You asked: From a pipe"
    refused = gemini(stack, "ask", "refused")
    assert (refused.code, "error invalid_request" in refused.err) == (1, True)


def test_a_question_that_has_to_wait_shows_where(make_stack: MakeStack):
    """And who asked goes when he has waited enough; the request stays."""
    stack, fake = make_stack()
    stack.start_worker()
    fake.script([{"status": 429, "headers": {"Retry-After": "7200"}}])
    asked = gemini(stack, "ask", "--timeout", "20", "A question")
    assert asked.code == 1
    assert "gemini.generate.delay.60s  waits up to" in asked.err
    assert "No answer within 20 s" in asked.err
    waits = until(lambda: gemini(stack, "waits", "--json"), lambda found: found["waits"])
    (wait,) = waits["waits"]
    assert (wait["queue"], wait["code"], wait["retry_count"]) == ("gemini.generate.delay.60s", "rate_limit", 1)
    (queue,) = [one for one in waits["queues"] if one["messages"]]
    assert (queue["known"], 0 < queue["next_due_in_s"] <= 60) == (1, True)
    shown = gemini(stack, "waits").out
    assert wait["request_id"] in shown
    assert "No key available" in shown


def test_who_waits_is_run_now_or_dropped(make_stack: MakeStack):
    """By its id, among others, which keep their places; one envelope each, and no retry is counted."""
    stack, fake = make_stack(QUEUE_EARLY_RELEASE="false", QUEUE_RETRY_DELAYS="900,3600")
    worker = stack.start_worker()
    fake.script([{"status": 429, "times": 1, "headers": {"Retry-After": "7200"}}])
    asked = requests(4)
    for number, one in enumerate(asked, 1):
        stack.publish(one)
        stack.wait_for_depth("gemini.generate.delay.900s", number)
    first, second, third, _ = (str(one["request_id"]) for one in asked)
    assert gemini(stack, "waits", "drop", first, "nobody").out.endswith("Add --yes to drop them.\n")
    assert gemini(stack, "waits", "run", "nobody").code == 1
    stack.wait_for_depth("gemini.generate.delay.900s", 4)
    dropped = gemini(stack, "waits", "drop", first, "--yes", "--json")
    assert (dropped.code, dropped.json["dropped"]) == (
        0,
        [{"request_id": first, "from": "gemini.generate.delay.900s"}],
    )
    (envelope,) = stack.answers(1)
    assert (envelope["request_id"], envelope["error_code"]) == (first, "cancelled")
    assert gemini(stack, "keys", "--clear", "1111").code == 0
    ran = gemini(stack, "waits", "run", second, third)
    assert (ran.code, ran.out.count("is worked on now")) == (0, 2)
    assert sorted(answer["request_id"] for answer in stack.answers(2)) == sorted([second, third])
    stack.wait_for_depth("gemini.generate.delay.900s", 1)
    assert "Waiting up to 3600" not in worker.output()


def test_what_was_paid_agrees_with_the_provider(make_stack: MakeStack, redis_url: str):
    """To the last digit, over a kill, in Redis; then the budget is spent, and says so."""
    empty(redis_url)
    stack, fake = make_stack(REDIS_URL=redis_url, FAIRNESS_FIELD="team")
    fake.script([{"gate": "held", "prompt": "held", "times": 1}])
    worker = stack.start_worker()
    stack.publish(*requests(10, metadata={"team": "one"}))
    stack.answers(10)
    stack.publish({"request_id": "cut", "prompt": "held"})
    fake.wait_for_calls(11)
    worker.close()
    fake.open_gate("held")
    worker = stack.start_worker(BUDGET_USD_PER_DAY="0.000001")
    (envelope,) = stack.answers(1)
    assert (envelope["request_id"], envelope["error_code"]) == ("cut", "budget")
    assert "are spent" in worker.output()
    found = gemini(stack, "usage", "--by", "tag", "--json", BUDGET_USD_PER_DAY="0.000001").json
    charged = [call["cost"] for call in fake.calls() if call["prompt"] != "held"]
    assert {row["name"]: row["calls"] for row in found["tag"]} == {"one": 10, "none": 0}
    assert round(found["total"]["cost"], 9) == round(sum(charged), 9) == round(found["budget"]["spent"], 9)
    assert found["total"]["cut_off"] == 1


def test_a_file_of_questions(well: tuple[Stack, FakeClient], tmp_path: Path):
    """Requests and bare prompts; envelopes as JSON lines, one for each, and a count in the end."""
    stack, _ = well
    file = tmp_path / "prompts.jsonl"
    lines = [json.dumps("A bare prompt"), "", json.dumps({"request_id": "mine", "prompt": "x", "metadata": {"n": 1}})]
    file.write_text("\n".join([*lines, *(json.dumps(f"Question {number}") for number in range(120))]))
    asked = gemini(stack, "ask", "--file", str(file))
    envelopes = [json.loads(line) for line in asked.out.splitlines()]
    assert (asked.code, len(envelopes), {one["status"] for one in envelopes}) == (0, 122, {"success"})
    assert [one["metadata"] for one in envelopes if one["request_id"] == "mine"] == [{"n": 1}]
    assert "122 answered, 0 errors" in asked.err
    file.write_text("[1]\n")
    assert gemini(stack, "ask", "--file", str(file)).code == 64


def test_a_dead_letter_is_sent_again(well: tuple[Stack, FakeClient]):
    """Seen, redriven dry, redriven; its short name is enough. Then dropped."""
    stack, _ = well
    stack.publish(b"no request")
    stack.wait_for_depth("gemini.requests.dead", 1)
    (letter,) = letters(stack)
    assert "1 would be sent" in gemini(stack, "failed", "redrive", "--id", letter["id"][:8]).out
    stack.wait_for_depth("gemini.requests.dead", 1)
    assert gemini(stack, "failed", "redrive", "--all", "--yes").out.endswith("1 sent.\n")
    wait_until(lambda: [one["redriven"] for one in letters(stack)] == [1], timeout_s=60, what="a letter that came back")
    assert gemini(stack, "failed", "drop", "--all", stdin="1\n").out.endswith("Dropped 1.\n")


def letters(stack: Stack) -> list[dict[str, Any]]:
    return list(gemini(stack, "failed", "list", "--json").json["letters"])


def findings(ran: Ran, *areas: str) -> list[tuple[str, str, str]]:
    """Level, what and remedy of what is not well in these areas."""
    found = [one for one in ran.json["findings"] if one["area"] in areas and one["level"] != "ok"]
    return [(one["level"], one["what"], one["remedy"]) for one in found]


@pytest.fixture(scope="module")
def well(rabbitmq_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, FakeClient]]:
    """A stack on which everything is well, shared by those who spoil one thing for their own command."""
    with ExitStack() as cleanup:
        url = cleanup.enter_context(rabbitmq_server.fresh_vhost())
        fake = cleanup.enter_context(running(keys=KEYS[:2]))
        stack = Stack.apart(
            url,
            fake.base_url,
            tmp_path_factory.mktemp("well"),
            OPENROUTER_API_KEYS=f"one={KEYS[0]},{KEYS[1]}",
            KEYS_MAX_PER_MINUTE=1000,
        )
        stack.environment["RABBITMQ_MANAGEMENT_URL"] = rabbitmq_server.management_url
        cleanup.callback(stack.close)
        stack.start_worker()
        until(lambda: gemini(stack, "status", "--json"), lambda state: state["workers"])
        yield stack, fake


def test_the_doctor_finds_nothing_where_nothing_is_wrong(well: tuple[Stack, FakeClient]):
    """No failure; what a person reads has a line for each area."""
    stack, _ = well
    ran = gemini(stack, "doctor")
    assert (ran.code, ran.err) == (0, ""), ran.out
    assert "0 failures" in ran.out
    for area in (
        "settings",
        "store",
        "workers",
        "RabbitMQ",
        "queues",
        "callback queues",
        "policies",
        "provider",
        "keys",
    ):
        assert re.search(rf"^ *(ok|!) {area}: ", ran.out, re.MULTILINE), area


def test_the_metrics_of_a_worker_at_work(well: tuple[Stack, FakeClient]):
    """Of its reports and of RabbitMQ; the process that serves them ends when it is asked to."""
    stack, _ = well
    stack.publish(*requests(2))
    stack.answers(2)
    server = stack.start("metrics", "exec python -m console.metrics --port 0")
    server.wait_for_output("The metrics are at http")
    url = server.output().split()[-1]

    def told() -> dict[str, float]:
        lines = [line for line in httpx2.get(url).text.splitlines() if line and not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    wait_until(
        lambda: told()['gemini_request_outcomes_total{outcome="answered"}'] >= 2, timeout_s=30, what="reported answers"
    )
    found = told()
    assert found['gemini_queue_consumers{queue="gemini.requests",role="requests"}'] == 1
    assert (found["gemini_rabbitmq_up"], found["gemini_worker_threads"]) == (1, 8)
    assert sum(value for name, value in found.items() if name.startswith("gemini_calls_total")) >= 2
    assert httpx2.get(url.replace("metrics", "readyz")).json()["workers_ready"] == 1
    server.terminate()
    assert server.wait() == 0


def test_a_probe_asks_neither_rabbitmq_nor_the_store(well: tuple[Stack, FakeClient]):
    """Both are away for it, and the worker process lives; where none is, nobody lives. A bridge gives signs, too."""
    stack, _ = well
    away = {"RABBITMQ_URL": "amqp://guest:canary@127.0.0.1:1/", "REDIS_URL": "redis://:canary@127.0.0.1:1/0"}
    assert gemini(stack, "health", **away) == Ran(0, "1 worker process lives\n", "")
    apart = stack.folder / "bridge.sqlite3"
    assert gemini(stack, "health", STATE_PATH=apart).code == 1
    bridge = stack.start_bridge(STATE_PATH=apart)
    assert gemini(stack, "health", STATE_PATH=apart).code == 0
    bridge.terminate()
    assert bridge.wait() == 0
    assert gemini(stack, "health", STATE_PATH=apart).code == 1


#: What is spoilt in one run, and what the doctor says: area, what, remedy.
SPOILT: list[tuple[dict[str, str], list[tuple[str, str, str]]]] = [
    ({"KEYS_MAX_PER_MINUTE": "many"}, [("settings", "KEYS_MAX_PER_MINUTE", "give a whole number")]),
    (
        {"OPENROUTER_API_KEYS": "", "RABBITMQ_URL": "amqp://guest:canary@{host}/"},
        [
            ("settings", "no key is set", "give at least one"),
            ("RabbitMQ", "refuses the user guest", "password in RABBITMQ_URL"),
        ],
    ),
    (
        {"RABBITMQ_URL": "amqp://guest:guest@{host}/nowhere", "OPENROUTER_BASE_URL": "{fake}/wrong"},
        [
            ("RabbitMQ", "virtual host nowhere", "end of RABBITMQ_URL"),
            ("provider", "404", "OPENROUTER_BASE_URL"),
        ],
    ),
    (
        {"RABBITMQ_URL": "amqp://guest:guest@127.0.0.1:1/", "OPENROUTER_BASE_URL": "http://127.0.0.1:1/api/v1"},
        [
            ("RabbitMQ", "cannot be reached", "is it running"),
            ("provider", "out of reach", "the way out"),
        ],
    ),
    (
        {
            "OPENROUTER_API_KEYS": "sk-or-v1-unknown-9999",
            "OPENROUTER_MODEL": "google/unknown",
            "STATE_PATH": "other.sqlite3",
            "QUEUE_RETRY_DELAYS": "7",
            "RABBITMQ_MANAGEMENT_URL": "http://127.0.0.1:1",
        },
        [
            ("keys", "****9999 is refused", "OPENROUTER_API_KEYS"),
            ("keys", "no key is usable", "the lines before"),
            ("models", "google/unknown is not among", "OPENROUTER_MODEL"),
            ("workers", "none reports", "start one"),
            ("queues", "gemini.generate.delay.7s", "start a worker"),
            ("policies", "no answer", "RABBITMQ_MANAGEMENT_URL"),
        ],
    ),
    ({"HTTP_PROXY": "http://canary:canary@127.0.0.1:1"}, [("provider", "the proxy", "check HTTP_PROXY")]),
    ({"STATE_PATH": "/proc/nowhere.sqlite3"}, [("store", "/proc/nowhere.sqlite3 cannot be used", "STATE_PATH")]),
    ({"STATE_PATH": "."}, [("settings", "STATE_PATH", "give a file, this is a folder")]),
    ({"STATE_PATH": "{folder}"}, [("store", "cannot be used", "it must be a file that this user may write")]),
    ({"REDIS_URL": "redis://:canary@127.0.0.1:1/0"}, [("store", "Redis cannot be used", "REDIS_URL")]),
]


@pytest.mark.parametrize(("settings", "expected"), SPOILT)
def test_the_doctor_names_what_is_wrong_and_what_to_do(
    well: tuple[Stack, FakeClient], settings: dict[str, str], expected: list[tuple[str, str, str]]
):
    """What can be looked at is looked at, whatever else is wrong; and no secret is shown."""
    stack, fake = well
    host = stack.url.rpartition("@")[2].partition("/")[0]
    spoilt = {
        name: value.format(host=host, fake=fake.base_url, folder=stack.folder) for name, value in settings.items()
    }
    ran = gemini(stack, "doctor", "--json", **spoilt)
    for area, what, remedy in expected:
        assert [one for one in findings(ran, area) if what in one[1] and remedy in one[2]], (area, what, ran.out)
    assert ran.code == 1
    assert "canary" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("right", "rights"),
    [
        ("configure", {"configure": "^$"}),
        ("write", {"write": "^gemini"}),
        ("read", {"read": "^$"}),
    ],
)
def test_the_doctor_names_a_right_that_is_missing(
    well: tuple[Stack, FakeClient], rabbitmq_server: Server, right: str, rights: dict[str, str]
):
    """Of a user of its own."""
    stack, _ = well
    user = f"narrow-{uuid.uuid4().hex[:8]}"
    rabbitmq_server.api("PUT", f"users/{user}", {"password": "narrow", "tags": ""})
    rabbitmq_server.permit(stack.url, user=user, **rights)
    url = f"amqp://{user}:narrow@{stack.url.rpartition('@')[2]}"
    ran = gemini(stack, "doctor", "--json", RABBITMQ_URL=url)
    rabbitmq_server.api("DELETE", f"users/{user}")
    assert ran.code == 1
    found = findings(ran, "RabbitMQ")
    assert [one for one in found if f"the right to {right} is missing" in one[1] and "grant the user" in one[2]], (
        ran.out
    )


@pytest.mark.parametrize(
    ("pattern", "definition", "finding"),
    [
        ("^gemini[.]callbacks", {"max-length": 1_000_000}, ("failed", "sets max-length on")),
        ("delay", {"max-length": 1_000_000, "overflow": "drop-head"}, ("failed", "sets max-length on")),
        ("backoff", {"message-ttl": 86_400_000}, ("failed", "sets message-ttl on")),
        ("^gemini[.]requests$", {"expires": 86_400_000}, ("warning", "sets expires on gemini.requests")),
    ],
)
def test_the_doctor_names_a_lossy_policy(
    well: tuple[Stack, FakeClient],
    rabbitmq_server: Server,
    pattern: str,
    definition: dict[str, object],
    finding: tuple[str, str],
):
    """On queues of ours it is a failure; requests and answers somebody may want to lose."""
    stack, _ = well
    where = f"policies/{vhost_of(stack.url)}/short"
    rabbitmq_server.api("PUT", where, {"pattern": pattern, "definition": definition, "apply-to": "queues"})
    ran = gemini(stack, "doctor", "--json")
    rabbitmq_server.api("DELETE", where)
    ((level, what, remedy),) = findings(ran, "policies")
    assert (level, finding[1] in what, "pattern" in remedy) == (finding[0], True, True), what
    assert (ran.code == 1) == (level == "failed")


class FiveMinutesBehind(BaseHTTPRequestHandler):
    """Asks the stand-in for the provider, and says that it is five minutes earlier."""

    provider = ""

    def do_GET(self) -> None:
        sent = {"authorization": self.headers.get("authorization", "")}
        with closing(httpx2.get(f"{self.provider}{self.path}", headers=sent)) as answer:
            self.send_response_only(answer.status_code)
            self.send_header("Date", self.date_time_string(time.time() - 300))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_the_doctor_names_a_clock_that_is_off_by_five_minutes(well: tuple[Stack, FakeClient]):
    """As the provider says what time it is; the rest is well."""
    stack, fake = well
    provider = type("Provider", (FiveMinutesBehind,), {"provider": fake.base_url})
    with ThreadingHTTPServer(("127.0.0.1", 0), provider) as server:
        threading.Thread(target=server.serve_forever).start()
        ran = gemini(stack, "doctor", "--json", OPENROUTER_BASE_URL=f"http://127.0.0.1:{server.server_port}/api/v1")
        server.shutdown()
    assert ran.code == 1
    ((level, what, remedy),) = findings(ran, "clock")
    assert (level, "5 min ahead of that of the provider" in what, "NTP" in remedy) == ("failed", True, True)
    assert not [one for one in findings(ran, "provider", "keys") if one[0] == "failed"]


@contextmanager
def in_front_of(url: str, version: str) -> Iterator[str]:
    """The URL of the same RabbitMQ, which says on the way that it is of a version; of as many characters as its own."""
    host, port = urlsplit(url).hostname, urlsplit(url).port or 5672
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as cleanup:

        def serve() -> None:
            with suppress(OSError):  # it is closed in the end
                while True:
                    client = cleanup.enter_context(listener.accept()[0])
                    server = cleanup.enter_context(socket.create_connection((host, port)))
                    greeting = server_greeting(client, server, version)
                    client.sendall(greeting)
                    for one, other in ((client, server), (server, client)):
                        threading.Thread(target=forward, args=(one, other), daemon=True).start()

        thread = threading.Thread(target=serve)
        thread.start()
        yield url.replace(f":{port}", f":{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def server_greeting(client: socket.socket, server: socket.socket, version: str) -> bytes:
    """RabbitMQ's first frame, Connection.Start, with another version in it: a long string, behind its length."""
    server.sendall(client.recv(8))
    greeting = server.recv(65536)
    begin, _, rest = greeting.partition(b"\x07versionS")
    length = int.from_bytes(rest[:4], "big")
    said = version.ljust(length, "9").encode()[:length]
    return begin + b"\x07versionS" + rest[:4] + said + rest[4 + length :]


def forward(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def test_the_doctor_names_a_rabbitmq_that_is_too_old(well: tuple[Stack, FakeClient]):
    """3.9, as it greets."""
    stack, _ = well
    with in_front_of(stack.url, "3.9.") as url:
        ran = gemini(stack, "doctor", "--json", RABBITMQ_URL=url)
    assert ran.code == 1
    (found,) = [one for one in findings(ran, "RabbitMQ") if "too old" in one[1]]
    assert (found[0], "version 3.9." in found[1], "upgrade it to 4.x" in found[2]) == ("failed", True, True)


def test_the_doctor_names_a_store_that_is_read_only(well: tuple[Stack, FakeClient], redis_installed: None):
    """A replica takes no writes, nor does a user who may only read; it is said once, and all the rest is looked at."""
    stack, _ = well
    with redis_server() as own, redis_server("--replicaof", "127.0.0.1 1") as replica:
        with closing(redis.Redis.from_url(own)) as client:
            client.execute_command("ACL", "SETUSER", "reader", "on", ">canary", "~*", "-@all", "+@read", "+@connection")
        reader = own.replace("unix://", "unix://reader:canary@")
        for url, what, remedy in ((replica, "read only replica", "the primary"), (reader, "no permissions", "+@all")):
            ran = gemini(stack, "doctor", "--json", REDIS_URL=url)
            ((level, said, advice),) = findings(ran, "store")
            assert (ran.code, level, what in said, remedy in advice) == (1, "failed", True, True), said
            assert "@user_script" not in said
            assert {one["area"] for one in ran.json["findings"]} >= {"RabbitMQ", "policies", "provider", "models"}
            assert "canary" not in ran.out + ran.err


def test_the_doctor_names_callback_queues_that_refuse(make_stack: MakeStack):
    """One is full, one is missing."""
    stack, _ = make_stack()
    with stack.channel() as channel:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare("full", durable=True, arguments=arguments)
    stack.put("full", b"{}")
    stack.start_worker()
    stack.publish(*requests(1, callback_queue="full"), *requests(1, callback_queue="missing"))
    ran: list[Ran] = []

    def both() -> bool:
        ran[:] = [gemini(stack, "doctor", "--json")]
        return len(findings(ran[0], "callback queues")) == 2

    wait_until(both, timeout_s=60, what="both queues named")
    told = {what.split(" for ")[1].split()[0]: (level, what, remedy) for level, what, remedy in callbacks(ran[0])}
    assert told["missing"][0] == "failed"
    assert "CALLBACK_QUEUE_CREATE" in told["missing"][2]
    assert "it is full" in told["full"][1]
    assert "consumer" in told["full"][2]


def callbacks(ran: Ran) -> list[tuple[str, str, str]]:
    return findings(ran, "callback queues")


def test_no_canary_is_on_any_screen_or_in_the_state(make_stack: MakeStack):
    """P4, S9: keys, prompts, answers, the password; after success, a wait, a rejection and a held answer."""
    keys = [canaries.key("a key"), canaries.key("another key")]
    prompt, answer = canaries.text("the prompt"), canaries.text("the answer")
    stack, _ = make_stack(keys=2)
    with running(keys=[key.value for key in keys]) as fake:
        stack.environment |= {
            "OPENROUTER_BASE_URL": f"{fake.base_url}/api/v1",
            "OPENROUTER_API_KEYS": ",".join(key.value for key in keys),
        }
        stack.start_worker()
        told = {"code": 429, "message": prompt.value, "metadata": {"raw": prompt.value, "provider_name": "vendor"}}
        busy = {"status": 429, "model": "vendor/busy", "body": {"error": told}}
        fake.script([busy, {"body": completion(answer.value)}])
        stack.publish(
            *requests(2, prompt=prompt.value),
            *requests(1, prompt=prompt.value, callback_queue="nowhere"),
            *requests(1, prompt=prompt.value, model="vendor/busy"),
            {"request_id": "rejected", "prompt": [prompt.value], "callback_queue": "gemini.generate"},
        )
        stack.answers(2)
        state = until(lambda: gemini(stack, "status", "--json"), lambda state: state["waits"])
        assert state["last_hour"]["outcomes"]["held"] == 1
        secret = [*keys, prompt, answer]
        with ThreadPoolExecutor(4) as threads:
            shown = list(threads.map(lambda arguments: gemini(stack, *arguments), SHOWING))
        for arguments, ran in zip(SHOWING, shown, strict=True):
            assert leaks(secret, ran.out + ran.err) == [], arguments
        assert leaks(secret, told_to_the_store(stack.folder / "state.sqlite3")) == []
        assert leaks([prompt], gemini(stack, "failed", "show", "--all", "--body").out) == [prompt.name]


def told_to_the_store(path: Path) -> str:
    with closing(sqlite3.connect(path)) as file:
        tables = ("processes", "usage", "waits", "paid_calls", "paid_sums", "notes")
        rows = [file.execute(f"SELECT * FROM {table}").fetchall() for table in tables]  # noqa: S608 - names of ours
        assert all(rows)
        return repr(rows)
