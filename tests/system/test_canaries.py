"""Planted secrets, prompts and answers: whatever goes wrong, they are nowhere but where they belong.

A search that finds nothing proves nothing by itself: each place is searched for something that has to be there, too.
"""

import base64
import hashlib
import json
import signal
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pika
import pytest

from dev.launcher import Process
from dev.process_group import members
from dev.rabbitmq import Server, vhost_of
from dev.stack import Stack
from fake_openrouter.client import FakeClient, running
from tests.system import canaries
from tests.system.canaries import Canary, leaks
from tests.system.sinks import Proxy, SentrySink

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

#: Ends in this wait stay in the queue, to be looked at.
LONG_WAIT_S = 600


@dataclass
class Scenario:
    """A request with a prompt, an instruction and an answer of its own, and what is done to it."""

    name: str
    behaviour: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    status: str | None = "error"
    shape: Callable[[str, str], dict[str, Any]] = lambda prompt, instruction: {
        "prompt": prompt,
        "system_instruction": instruction,
    }
    prompt: Canary = field(init=False)
    instruction: Canary = field(init=False)
    said: Canary = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = canaries.text(f"prompt of {self.name}")
        self.instruction = canaries.text(f"instruction of {self.name}")
        self.said = canaries.text(f"answer of {self.name}")

    @property
    def request_id(self) -> str:
        return f"id of {self.name}"

    @property
    def request(self) -> dict[str, Any]:
        texts = self.shape(self.prompt.value, self.instruction.value)
        return {"request_id": self.request_id, "model": f"vendor/{self.name}", **texts, **self.fields}

    @property
    def asked(self) -> list[Canary]:
        return [self.prompt, self.instruction]

    def rule(self) -> dict[str, Any]:
        """The provider's part: whatever text it sends repeats what it was sent, with the key."""
        said = f"{Proxy.KEY_USED} {self.prompt.value} {self.instruction.value} {Proxy.KEY_USED}"
        rule = {"prompt": self.prompt.core, "body": completion(self.said.value), **self.behaviour}
        text = json.dumps(rule).replace('"ECHO"', json.dumps(said)).replace("QUERY", quote(said))
        found: dict[str, Any] = json.loads(text.replace('"CONTENT"', json.dumps(self.said.value)))
        return found


def completion(content: str) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "gen-1", "model": "vendor/served", "choices": [choice], "usage": usage}


def error(status: int, **metadata: object) -> dict[str, Any]:
    """A provider's error that repeats key and prompt wherever it can."""
    told = {"raw": "ECHO", **metadata}
    return {
        "status": status,
        "body": {"error": {"code": status, "message": "ECHO", "metadata": told}, "user_id": "ECHO"},
    }


def parts(prompt: str, instruction: str) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": f"https://example.org/{quote(instruction)}"}}
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": prompt}, image]}]}


def arguments(prompt: str, instruction: str) -> dict[str, Any]:
    call = {"id": "c-1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": instruction})}}
    result = {"role": "tool", "tool_call_id": "c-1", "content": instruction}
    user = {"role": "user", "content": prompt}
    return {"messages": [user, {"role": "assistant", "tool_calls": [call]}, result]}


def tools(prompt: str, instruction: str) -> dict[str, Any]:
    function = {"name": "f", "description": instruction, "parameters": {"properties": {instruction: {}}}}
    return {"prompt": prompt, "parameters": {"tools": [{"type": "function", "function": function}]}}


def answers_in(schema: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}}


def schema(prompt: str, instruction: str) -> dict[str, Any]:
    return {"prompt": prompt, **answers_in({"properties": {instruction: {"enum": [instruction]}}})}


def more_than_a_prompt() -> list[Scenario]:
    """Words in every place that has some, to be refused by us, refused by the provider, or answered."""
    calls = [{"id": "c-1", "type": "function", "function": {"name": "f", "arguments": "CONTENT"}}]
    called = {"message": {"role": "assistant", "content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}
    return [
        Scenario("parts", error(400), shape=parts),
        Scenario("arguments", error(400), shape=arguments),
        Scenario("tools", error(400), shape=tools),
        Scenario("schema", error(400), shape=schema),
        Scenario("tool-calls", {"body": {**completion(""), "choices": [called]}}, shape=tools, status="success"),
        Scenario("off-schema", shape=schema),
        Scenario("wrong-message", shape=lambda prompt, said: {"messages": [{"role": prompt, "content": said}]}),
        Scenario(
            "wrong-part", shape=lambda prompt, said: {"messages": [{"role": "user", "content": [{prompt: said}]}]}
        ),
        Scenario("no-parameter", shape=lambda prompt, said: {"prompt": prompt, "parameters": {said: prompt}}),
        Scenario("wrong-schema", shape=lambda prompt, said: {"prompt": prompt, **answers_in({"$ref": said})}),
        Scenario("no-type", shape=lambda prompt, said: {"prompt": prompt, **answers_in({"items": {"type": said}})}),
    ]


def at_once() -> list[Scenario]:
    """What leaves the keys as they are."""
    cut_answer = {
        **completion("CONTENT")["choices"][0],
        "finish_reason": "error",
        "error": {"code": 502, "message": "ECHO"},
    }
    return [
        Scenario("success", status="success"),
        Scenario("400", error(400)),
        Scenario("404", error(404)),
        Scenario(
            "moderation", error(403, reasons=["ECHO"], flagged_input="ECHO", error_type="content_policy_violation")
        ),
        Scenario("500", error(500)),
        Scenario("error-in-200", {"body": {"error": {"code": 502, "message": "ECHO"}}}),
        Scenario("error-in-choice", {"body": {"choices": [cut_answer], "model": "ECHO"}}),
        Scenario("garbage", {"body": "ECHO"}),
        Scenario("cut", {"cut": 30}),
        Scenario("redirect", {"redirect": "http://127.0.0.1:9/?QUERY"}),
        Scenario("refused-by-proxy"),
        Scenario("wrong-field", fields={"parameters": {"temperature": 7}}),
        Scenario("refused-callback", fields={"callback_queue": "gemini.generate"}, status=None),
        Scenario("full-callback", fields={"callback_queue": "full"}, status=None),
        Scenario("waiting", error(429, provider_name="vendor"), status=None),
        *more_than_a_prompt(),
    ]


def on_keys() -> list[Scenario]:
    """Each costs a key; the next one answers."""
    return [
        Scenario("key-401", error(401), status="success"),
        Scenario("key-402", error(402, limit_source="openrouter_key_limit"), status="success"),
        Scenario("key-403", error(403), status="success"),
        Scenario("key-429", {**error(429), "headers": {"Retry-After": "1"}}, status="success"),
    ]


@dataclass
class World:
    """A stack that runs with planted secrets, and the places where they could come out."""

    stack: Stack
    fake: FakeClient
    server: Server
    sentry: SentrySink
    proxy: Proxy
    keys: list[Canary]
    secrets: list[Canary]
    worker: Process
    command_lines: set[str] = field(default_factory=set)
    envelopes: dict[str, str] = field(default_factory=dict)
    scenarios: list[Scenario] = field(default_factory=list)
    rules: list[dict[str, Any]] = field(default_factory=list)

    @property
    def asked(self) -> list[Canary]:
        return [canary for scenario in self.scenarios for canary in scenario.asked]

    @property
    def said(self) -> list[Canary]:
        return [scenario.said for scenario in self.scenarios]

    @property
    def everything(self) -> list[Canary]:
        return [*self.secrets, *self.asked, *self.said]

    def run(self, scenarios: list[Scenario]) -> None:
        """Play them and collect their envelopes."""
        self.script(scenarios)
        self.stack.publish(*(scenario.request for scenario in scenarios))
        self.collect(scenarios)

    def script(self, scenarios: list[Scenario]) -> None:
        """Add their rules; those of earlier ones stay, for a call that nobody waits for may still be on its way."""
        self.scenarios += scenarios
        for scenario in scenarios:
            if scenario.status == "success" and "status" in scenario.behaviour:
                self.rules.append({**scenario.rule(), "times": 1})  # then it is answered
                scenario.behaviour = {}
            self.rules.append(scenario.rule())
        self.fake.script(self.rules)

    def collect(self, scenarios: list[Scenario]) -> None:
        expected = {scenario.request_id: scenario.status for scenario in scenarios if scenario.status is not None}
        for answer in self.stack.answers(len(expected), timeout_s=60):
            assert (answer["request_id"], answer["status"]) == (answer["request_id"], expected[answer["request_id"]])
            self.envelopes[answer["request_id"]] = (
                f"{answer.envelope} {json.dumps(answer.envelope)} {answer.properties}"
            )
        self.look_at_processes()

    def look_at_processes(self) -> None:
        for pid in members(self.worker.popen.pid):
            self.command_lines.add(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))

    def held(self) -> Iterator[tuple[str, pika.BasicProperties, bytes]]:
        """Queue, properties and body of every message that lies somewhere; all stay there."""
        queues = self.server.api("GET", f"queues/{vhost_of(self.stack.url)}?disable_stats=true")
        with self.stack.channel() as channel:
            for queue in queues:
                while (message := channel.basic_get(queue["name"]))[0] is not None:
                    yield queue["name"], message[1], message[2]


@contextmanager
def own_user(server: Server, url: str, password: Canary) -> Iterator[str]:
    """The URL of the same virtual host for a user with that password."""
    name = f"pelican-{uuid.uuid4().hex[:8]}"
    server.api("PUT", f"users/{name}", {"password": password.value, "tags": ""})
    server.permit(url, user=name)
    place = url.rpartition("@")[2]
    try:
        yield f"amqp://{name}:{quote(password.value, safe='')}@{place}"
    finally:
        server.api("DELETE", f"users/{name}")


@pytest.fixture
def world(rabbitmq_server: Server, vhost_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    keys = [canaries.key(f"key {number}") for number in range(6)]
    rabbitmq, proxy_password = canaries.password("RabbitMQ's password"), canaries.password("the proxy's password")
    with ExitStack() as cleanup:
        sentry = cleanup.enter_context(SentrySink().running())
        proxy = cleanup.enter_context(Proxy("heron", proxy_password.value, refuses="refused-by-proxy").running())
        fake = cleanup.enter_context(running(keys=[key.value for key in keys]))
        url = cleanup.enter_context(own_user(rabbitmq_server, vhost_url, rabbitmq))
        stack = Stack.apart(
            url,
            fake.base_url,
            tmp_path,
            OPENROUTER_API_KEYS=",".join(key.value for key in keys),
            HTTP_PROXY=proxy.url,
            SENTRY_DSN=sentry.dsn,
            SENTRY_TRACES_SAMPLE_RATE=1,
            LOG_LEVEL="DEBUG",
            LOG_FORMAT=request.param,
            QUEUE_RETRY_DELAYS=f"0.2,{LONG_WAIT_S}",
            QUEUE_MAX_RETRIES=2,
            QUEUE_EARLY_RELEASE="false",
            KEYS_COOLDOWN_SECONDS=300,
            KEYS_MAX_PER_MINUTE=1000,
            UPSTREAM_RETRY_DELAYS="0.1",
            REQUEST_TIMEOUT_SECONDS=2,
            WORKER_THREADS=16,
        )
        cleanup.callback(stack.close)
        with stack.channel() as channel:
            arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
            channel.queue_declare("full", durable=True, arguments=arguments)
        stack.put("full", b"{}")
        # The call that the first worker drains is held; those of the second one are cut short.
        worker = stack.start_worker(REQUEST_TIMEOUT_SECONDS=60)
        yield World(stack, fake, rabbitmq_server, sentry, proxy, keys, [*keys, rabbitmq, proxy_password], worker)


@pytest.mark.parametrize("world", ["text", "json"], indirect=True)
def test_no_canary_is_where_it_does_not_belong(world: World):
    """S3, S4, S5, S7, S9, F34, P4: after success, every kind of failure, a stop and a broken store, at DEBUG."""
    world.run(at_once())
    for scenario in on_keys():
        world.run([scenario])
    drain(world)
    world.run([Scenario("hang", {"hang": True})])
    world.run([Scenario("every-key", error(401))])  # those left, with the one that had to rest for a second
    forge(world)
    break_the_store(world)
    world.stack.wait_for_depth(f"gemini.generate.delay.{LONG_WAIT_S}s", 1, or_more=True)
    world.stack.wait_for_depth("gemini.callbacks.delay.60s", 1)
    world.stack.wait_for_depth("gemini.generate.dead", 2)
    world.look_at_processes()

    check_provider(world)
    check_queues(world)
    world.worker.terminate()
    assert world.worker.wait() == 0
    check_envelopes(world)
    check_files(world)
    check_sentry(world)
    check_command_lines(world)


def drain(world: World) -> None:
    """SIGTERM in the middle of a call, which is answered all the same; then another worker."""
    scenario = Scenario("drained", {"gate": "held"}, status="success")
    world.script([scenario])
    calls = len(world.fake.calls())
    world.stack.publish(scenario.request)
    world.fake.wait_for_calls(calls + 1)
    world.worker.signal_group(signal.SIGTERM)
    world.worker.wait_for_output("Draining")
    world.fake.open_gate("held")
    assert world.worker.wait() == 0
    world.collect([scenario])
    world.worker = world.stack.start_worker()


def forge(world: World) -> None:
    """Messages on the work queue that quote what they should not, in places where no reader looks for it."""
    scenario = Scenario("forged", status=None)
    world.scenarios.append(scenario)
    options = {"traceback": scenario.prompt.value, "on_failure": scenario.prompt.value}
    message: dict[str, Any] = {
        "queue_name": scenario.prompt.value,
        "actor_name": scenario.prompt.value,
        "args": [],
        "kwargs": {},
    }
    message |= {"options": options, "message_id": "forged", "message_timestamp": 1}
    world.stack.put("gemini.generate", json.dumps(message).encode(), scenario.prompt.value.encode())


def break_the_store(world: World) -> None:
    """The tables are gone: an error from deep below, on every path that asks for a key or an answer."""
    scenario = Scenario("broken-store", status=None)
    world.script([scenario])
    with closing(sqlite3.connect(world.stack.folder / "state.sqlite3")) as file:
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            file.execute(f'ALTER TABLE "{table}" RENAME TO "{table}_gone"')
        file.commit()
    world.stack.publish(scenario.request)
    world.worker.wait_for_output("no such table")


def check_provider(world: World) -> None:
    """They were planted: key, prompt and password have been used."""
    assert {call["key_last4"] for call in world.fake.calls()} == {key.value[-4:] for key in world.keys}
    called = json.dumps(world.fake.calls())
    assert leaks([world.scenarios[0].prompt, world.scenarios[0].instruction], called)
    assert world.proxy.forwarded > 0


def check_queues(world: World) -> None:
    """Properties and headers of all messages, and of ours the options: nothing. In bodies: no secret."""
    seen: dict[str, list[pika.BasicProperties]] = {}
    for queue, properties, body in world.held():
        seen.setdefault(queue, []).append(properties)
        assert leaks(world.everything, f"{properties} {properties.headers}") == [], queue
        assert leaks(world.secrets, body.decode()) == [], queue
        if queue.startswith(("gemini.generate.delay", "gemini.callbacks")):
            message = json.loads(body)
            assert leaks(world.everything, json.dumps(message | {"args": []})) == [], queue
            assert message["options"] == {}
    (rejected,) = [one for one in seen["gemini.requests.dead"] if one.correlation_id == "id of refused-callback"]
    assert "x-reason" in rejected.headers
    assert {f"gemini.generate.delay.{LONG_WAIT_S}s", "gemini.callbacks.delay.60s", "gemini.generate.dead"} <= set(seen)


def check_envelopes(world: World) -> None:
    """An answer is in its own envelope, once; nothing else is in any."""
    for scenario in world.scenarios:
        if scenario.status is None:
            continue
        shown = world.envelopes[scenario.request_id]
        allowed = [scenario.said.name] if scenario.status == "success" else []
        assert leaks(world.everything, shown) == allowed, scenario.name


def check_files(world: World) -> None:
    """The output of every process has no canary; the state has answers, and keys as digests."""
    logs = {path.name: path.read_text() for path in world.stack.folder.glob("*.log")}
    assert len(logs) == 2
    for name, log in logs.items():
        assert leaks(world.everything, log) == [], name
    assert "id of success" in logs["worker-0.log"]
    assert "no such table" in logs["worker-1.log"]
    state = "".join(path.read_text("latin-1") for path in world.stack.folder.glob("state.sqlite3*") if path.is_file())
    assert leaks([*world.secrets, *world.asked], state) == []
    assert hashlib.sha256(world.keys[0].value.encode()).hexdigest()[:16] in state
    assert leaks([world.scenarios[0].said], state) == [world.scenarios[0].said.name]


def check_sentry(world: World) -> None:
    """Events and transactions came, with nothing of it in them."""
    assert leaks(world.everything, world.sentry.text) == []
    told = {event["tags"].get("request_id") for event in world.sentry.items("event")}
    assert "id of 500" in told
    assert world.sentry.items("transaction")
    assert all(not event.get("breadcrumbs") for event in world.sentry.items("event"))


def check_command_lines(world: World) -> None:
    assert leaks(world.everything, " ".join(world.command_lines)) == []
    assert any("dramatiq-gevent actors" in line for line in world.command_lines)


@pytest.mark.parametrize(
    "canary", [canaries.key("it"), canaries.password("it"), canaries.text("it")], ids=["key", "password", "text"]
)
def test_the_search_finds_every_spelling(canary: Canary):
    """The tests above can fail: as it is, in JSON, in a URL, in base64 behind anything, in hexadecimal, cut, masked."""
    spellings = [canary.value, json.dumps(canary.value), quote(canary.value), repr(canary.value)]
    spellings += [base64.b64encode(b"u" * shift + canary.value.encode()).decode() for shift in range(4)]
    spellings += [canary.value.encode().hex(), canary.value[: canary.value.index(canary.core) + 16]]
    assert [leaks([canary], f"text {spelling} text") for spelling in spellings] == [["it"]] * len(spellings)
    assert leaks([canary], "text ****1234") == []
