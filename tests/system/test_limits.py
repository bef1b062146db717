"""Each row of the decision table, seen from outside: what rests, for how long, and which keys are used next."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dev.launcher import Process
from dev.rabbitmq import Server
from dev.stack import Stack
from fake_openrouter.client import FakeClient, running
from gateway.errors import (
    AuthenticationFailed,
    CallTooLarge,
    ProviderError,
    RateLimited,
    RequestRejected,
    Scope,
    UpstreamFailed,
)
from gateway.keys.pool import KeyPool
from gateway.keys.store import Rest, Source
from gateway.messages import Completion
from gateway.providers.responses import Answer
from gateway.resources import open_stores
from gateway.settings import Settings
from middleware.cooldown import USEFUL_TOKENS
from tests.system.conftest import MakeStack
from tests.test_responses import SAMPLES, classify, load

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

#: Two accounts with two keys each.
KEYS = {"1111": "acme", "2222": "acme", "3333": "zenith", "4444": "zenith"}

#: What a limit, and a refusal, without a stated length rest for, in seconds.
LIMITED_S, REFUSED_S = 900.0, 600.0

#: A wait of seconds in a body: OpenRouter mirrors the header of its provider, Gemini has a field of its own.
SHORT_WAIT = re.compile(rb'(?P<name>"(?:[Rr]etry-[Aa]fter|retryDelay)": *"?)[\d.]+(?P<unit>s?)')

#: The wait of requests without a key, in seconds; nothing ends it but an early release.
LONG_WAIT_S = 7200


@dataclass
class Ground:
    """A worker that runs for all rows; each has a model of its own, and leaves all keys free."""

    provider: str
    stack: Stack
    fake: FakeClient
    pool: KeyPool
    worker: Process
    answers: dict[str, Any] = field(default_factory=dict)
    probes: int = 0

    def ask(self, *names: str, model: str) -> None:
        self.stack.publish(*({"request_id": name, "prompt": f"[{name}]", "model": model} for name in names))

    def answer(self, name: str) -> Any:
        while name not in self.answers:
            (one,) = self.stack.answers(1)
            self.answers[one["request_id"]] = one
        return self.answers[name]

    def is_waiting_for_key(self, name: str) -> None:
        self.worker.wait_for_output(f"[{name}] Waiting up to {LONG_WAIT_S} s")

    def keys_of(self, *names: str) -> list[str]:
        """The keys of the calls for these requests, in order."""
        prompts = {f"[{name}]" for name in names}
        return [call["key_last4"] for call in self.fake.calls() if call["prompt"] in prompts]

    def rests(self) -> dict[str, Rest]:
        return {one.key.reveal()[-4:]: one.rest for one in self.pool.status() if one.rest is not None}

    def keys_in_use(self, name: str, *, model: str) -> set[str]:
        """The keys that the next requests are sent with, as many as there are free keys."""
        free = len(KEYS) - len(self.rests())
        probes = [f"{name}-probe-{number}" for number in range(free)]
        self.ask(*probes, model=model)
        assert [self.answer(probe)["status"] for probe in probes] == ["success"] * free
        return set(self.keys_of(*probes))

    def clear(self, outcome: Completion | ProviderError) -> None:
        """Leave all keys free, and none that the worker still asks the provider about: that would end another rest."""
        if isinstance(outcome, AuthenticationFailed) and source_of(outcome) is Source.GUESSED:
            self.probes += 1
            self.worker.wait_for_output("is accepted again", count=self.probes)
        for one in self.pool.status():
            self.pool.clear(one.key.digest)
        self.fake.reset()


@pytest.fixture(scope="module")
def openrouter(rabbitmq_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ExitStack() as cleanup:
        yield ground(cleanup, "openrouter", rabbitmq_server, tmp_path_factory.mktemp("openrouter"))


@pytest.fixture(scope="module")
def gemini(rabbitmq_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ExitStack() as cleanup:
        yield ground(cleanup, "gemini", rabbitmq_server, tmp_path_factory.mktemp("gemini"))


def ground(cleanup: ExitStack, provider: str, server: Server, folder: Path) -> Ground:
    url = cleanup.enter_context(server.fresh_vhost())
    keys = {f"sk-or-v1-limits-{last4}": account for last4, account in KEYS.items()}
    fake = cleanup.enter_context(running(keys=tuple(keys)))
    labelled = ",".join(f"{account}={key}" for key, account in keys.items())
    settings: dict[str, object] = {
        "OPENROUTER_API_KEYS" if provider == "openrouter" else "GEMINI_API_KEYS": labelled,
        "GEMINI_BASE_URL": fake.base_url,
        "KEYS_MAX_PER_MINUTE": 1000,
        "KEYS_COOLDOWN_SECONDS": LIMITED_S,
        "QUEUE_RETRY_DELAYS": LONG_WAIT_S,
        "UPSTREAM_RETRY_DELAYS": "0.1,0.2",
        "STATE_PATH": folder / "state.sqlite3",
        "RABBITMQ_URL": url,
    }
    stack = Stack.apart(url, fake.base_url, folder, **settings)
    cleanup.callback(stack.close)
    ours = Settings(_env_file=None, **{name.lower(): str(value) for name, value in settings.items()})
    stores = open_stores(ours)
    cleanup.callback(stores.close)
    pool = KeyPool(ours.keys, stores.keys, max_per_window=ours.keys_max_per_minute)
    worker = stack.start_worker()
    return Ground(provider, stack, fake, pool, worker)


#: A recorded answer for each effect: on nothing, a request, a key, an account, a model, and on the way.
TYPICAL = {
    "openrouter": ("200_success", "400_invalid", "429_key", "403_else", "402_credits", "429_provider", "503"),
    "gemini": ("200_success", "400_invalid", "429_retry_info", "403", "402", "503"),
}


@pytest.mark.parametrize("name", TYPICAL["openrouter"])
def test_an_answer_of_openrouter_has_its_effect(openrouter: Ground, name: str):
    """Given once: to the request, to the keys, to its model. `script/chaos limits` plays every recorded answer."""
    effect_of_openrouter(openrouter, SAMPLES / "openrouter" / f"{name}.json")


@pytest.mark.parametrize("name", TYPICAL["gemini"])
def test_an_answer_of_gemini_has_its_effect(gemini: Ground, name: str):
    """The same effects, from another dialect."""
    effect_of_gemini(gemini, SAMPLES / "gemini" / f"{name}.json")


def effect_of_openrouter(here: Ground, path: Path) -> None:
    effect(here, path, model=f"vendor/{path.stem}", other="vendor/other")


def effect_of_gemini(here: Ground, path: Path) -> None:
    effect(here, path, model=f"gemini-{path.stem.replace('_', '-')}", other="gemini-other")


SHORT_S = 2.0


@pytest.mark.parametrize(
    "sample",
    ["429_key", "429_admission_control", "429_openrouter_shared_capacity", "503"],
    ids=["key", "account", "model", "upstream"],
)
def test_what_rests_is_back_at_its_time(make_stack: MakeStack, sample: str):
    """Not a moment earlier, by the provider's record, and without anybody's help."""
    stack, fake = make_stack(QUEUE_RETRY_DELAYS=LONG_WAIT_S, UPSTREAM_RETRY_DELAYS=SHORT_S)
    answer, _expected = load(SAMPLES / "openrouter" / f"{sample}.json")
    given = {"status": answer.status, "body": answer.body.decode(), "headers": {"Retry-After": f"{SHORT_S:g}"}}
    fake.script([{"times": 1, **given}])
    stack.start_worker()
    stack.publish({"request_id": "r-1", "prompt": "Hello"})
    assert stack.answers(1)[0]["status"] == "success"
    first, second = fake.calls()
    assert second["time"] - first["time"] >= SHORT_S


def test_keys_of_one_user_rest_together_without_a_label(vhost_url: str, tmp_path: Path):
    """The worker asks the provider whose they are; it says, too, that its model is unknown."""
    keys = ("sk-or-v1-of-ann-1111", "sk-or-v1-of-ann-2222", "sk-or-v1-of-bob-3333")
    with ExitStack() as cleanup:
        fake = cleanup.enter_context(running(keys=keys))
        settings = {"OPENROUTER_API_KEYS": ",".join(keys), "OPENROUTER_MODEL": "vendor/unheard-of"}
        stack = Stack.apart(vhost_url, fake.base_url, tmp_path, **settings)
        cleanup.callback(stack.close)
        worker = stack.start_worker()
        worker.wait_for_output("vendor/unheard-of is not among the provider's models")
        worker.wait_for_output("Keys without a label: 3, of 2 accounts")
        answer, _expected = load(SAMPLES / "openrouter" / "429_admission_control.json")
        given = {"status": answer.status, "body": answer.body.decode(), "headers": {"Retry-After": "900"}}
        fake.script([{"key": "1111", "times": 1, **given}])
        stack.publish(*({"request_id": f"r-{number}", "prompt": f"Question {number}"} for number in range(3)))
        assert {answer["status"] for answer in stack.answers(3)} == {"success"}
        before = len(fake.calls())
        stack.publish(*({"request_id": f"s-{number}", "prompt": f"Question {number}"} for number in range(4)))
        assert len(stack.answers(4)) == 4
        assert {call["key_last4"] for call in fake.calls(since=before)} == {"3333"}


def effect(here: Ground, path: Path, *, model: str, other: str) -> None:
    recorded = unhurried(load(path)[0])
    name = path.stem
    headers = {"Content-Type": "application/json", **dict(recorded.headers)}
    answer = Answer(recorded.status, headers, recorded.body)
    outcome = classify(here.provider, answer, asked=model, now=time.time())
    rule = {
        "prompt": f"[{name}]",
        "times": 1,
        "status": answer.status,
        "body": answer.body.decode(),
        "headers": headers,
    }
    here.fake.script([rule])
    here.ask(name, model=model)
    if isinstance(outcome, ProviderError) and outcome.scope is Scope.MODEL:
        the_model_rests(here, name, outcome, model=model)
    else:
        the_request_is_answered(here, name, outcome)
    first = here.keys_of(name)[0]
    resting = resting_with(first, outcome)
    assert set(here.rests()) == resting
    for rest in here.rests().values():
        assert_length(rest.seconds, outcome)
        assert (rest.source, rest.reason) == (source_of(outcome), outcome.reason)
    assert here.keys_in_use(name, model=other) == set(KEYS) - resting
    here.clear(outcome)


def unhurried(answer: Answer) -> Answer:
    """The same answer; a short wait in it is a long one, which does not end while a crowded machine looks."""
    headers = {
        name: "900" if name.lower() == "retry-after" and value.replace(".", "").isdigit() else value
        for name, value in answer.headers.items()
    }
    return Answer(answer.status, headers, SHORT_WAIT.sub(rb"\g<name>900\g<unit>", answer.body))


def the_request_is_answered(here: Ground, name: str, outcome: Completion | ProviderError) -> None:
    """At once, with an error, with another key, or when the provider works again."""
    envelope = here.answer(name)
    keys = here.keys_of(name)
    if isinstance(outcome, Completion):
        assert (envelope["status"], envelope["content"], len(keys)) == ("success", outcome.content, 1)
    elif isinstance(outcome, CallTooLarge) and (outcome.affordable_tokens or 0) >= USEFUL_TOKENS:
        assert (envelope["status"], len(keys)) == ("success", 2)
    elif isinstance(outcome, RequestRejected):
        assert (envelope["status"], envelope["error_code"], len(keys)) == ("error", outcome.code.value, 1)
    else:
        assert (envelope["status"], len(keys)) == ("success", 2)
        assert isinstance(outcome, UpstreamFailed) or keys[1] not in resting_with(keys[0], outcome)


def the_model_rests(here: Ground, name: str, outcome: ProviderError, *, model: str) -> None:
    """The request waits, and so does the next one for this model, whatever the key; neither is called for again."""
    here.is_waiting_for_key(name)
    here.ask(f"{name}-again", model=model)
    here.is_waiting_for_key(f"{name}-again")
    assert len(here.keys_of(name, f"{name}-again")) == 1
    assert_length(here.pool.ready_in_s(model), outcome)


def resting_with(key: str, outcome: Completion | ProviderError) -> set[str]:
    """The keys that rest after this outcome of a call with `key`."""
    match getattr(outcome, "scope", None):
        case Scope.KEY:
            return {key}
        case Scope.ACCOUNT:
            return {one for one, account in KEYS.items() if account == KEYS[key]}
        case _:
            return set()


def assert_length(seconds: float, outcome: ProviderError) -> None:
    assert isinstance(outcome, RateLimited | AuthenticationFailed)
    guessed = LIMITED_S if isinstance(outcome, RateLimited) else REFUSED_S
    expected = outcome.retry_after_s or guessed
    assert expected - 30 < seconds <= expected + 5


def source_of(outcome: ProviderError) -> Source:
    return Source.STATED if outcome.retry_after_s or outcome.is_named else Source.GUESSED
