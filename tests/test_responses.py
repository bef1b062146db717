"""Recorded answers and what they mean: one file a case under samples/, each with its reason."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest

from gateway.errors import GatewayError, ProviderError, Scope
from gateway.messages import Completion
from gateway.providers import gemini_responses, openrouter_responses, responses
from gateway.providers.gemini_responses import classify_gemini
from gateway.providers.openrouter_responses import classify_key, classify_openrouter
from gateway.providers.responses import MAX_TEXT_CHARS, Answer
from gateway.reporting.redaction import PROMPT_MASK, redact

SAMPLES = Path(__file__).parent / "samples"
#: 2026-01-01T00:00:00Z, when the samples were taken.
NOW = 1_767_225_600.0
CLASSIFY = {"openrouter": classify_openrouter, "gemini": classify_gemini}
TABLES = {"openrouter": openrouter_responses.TABLE, "gemini": gemini_responses.TABLE}


def load(path: Path) -> tuple[Answer, dict]:
    sample = json.loads(path.read_text())
    body = sample["text"] if "text" in sample else json.dumps(sample["body"])
    return Answer(sample["status"], sample["headers"], body.encode()), sample["expected"]


def samples(provider: str):
    return [pytest.param(path, id=path.stem) for path in sorted((SAMPLES / provider).glob("*.json"))]


def classify(provider: str, answer: Answer, **given) -> Completion | ProviderError:
    return CLASSIFY[provider](answer, **({"asked": "asked/model", "now": NOW, "hide": redact} | given))


def facts(outcome: Completion | ProviderError) -> dict:
    if isinstance(outcome, Completion):
        told = dataclasses.asdict(outcome) | {"usage": outcome.usage.model_dump(exclude_none=True)}
        return {name: value for name, value in told.items() if name != "tool_calls" or value is not None}
    names = ("scope", "reason", "status", "code", "retry_after_s")
    return {"error": type(outcome).__name__} | {name: getattr(outcome, name) for name in names}


@pytest.mark.parametrize("path", samples("openrouter"))
def test_an_openrouter_answer_means_what_its_sample_says(path):
    """Status, headers and body decide, in the order of the contract."""
    answer, expected = load(path)

    assert facts(classify("openrouter", answer)) == expected


@pytest.mark.parametrize("path", samples("gemini"))
def test_a_gemini_answer_means_what_its_sample_says(path):
    """The same errors, from another dialect."""
    answer, expected = load(path)

    assert facts(classify("gemini", answer)) == expected


@pytest.mark.parametrize("path", [*samples("openrouter"), *samples("gemini")])
def test_no_error_shows_what_the_body_holds_beside_its_message(path):
    """`raw`, `flagged_input`, `user_id`, a foreign page, a key in the message: none is in the text."""
    outcome = classify(path.parent.name, load(path)[0])

    if isinstance(outcome, GatewayError):
        assert "canary" not in f"{outcome!r} {outcome} {vars(outcome)}".lower()


@pytest.mark.parametrize("provider", ["openrouter", "gemini"])
def test_every_rule_has_a_sample(provider, monkeypatch):
    """A row that no recorded answer reaches is a guess, or dead."""
    used = set()

    def judge(fault, table, **rest):
        used.add(next(number for number, rule in enumerate(table) if rule.fits(fault)))
        return responses.judge(fault, table, **rest)

    monkeypatch.setattr(f"gateway.providers.{provider}_responses.judge", judge)
    for sample in samples(provider):
        classify(provider, load(sample.values[0])[0])

    assert used == set(range(len(TABLES[provider])))


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_rule_names_what_rests(table):
    """A limit or a refused key is about a key, an account or a model, stated in the row."""
    for rule in table:
        resting = rule.error.__name__ in {"RateLimited", "AuthenticationFailed"}
        assert (rule.scope in {Scope.KEY, Scope.ACCOUNT, Scope.MODEL}) is resting
        assert rule.why


def error_text(message: str, **given) -> str:
    body = json.dumps({"error": {"code": 400, "message": message}}).encode()
    return str(classify("openrouter", Answer(400, {}, body), **given))


def test_an_error_text_has_the_status_and_the_providers_words():
    """A producer sees what to change."""
    assert error_text("max_tokens is too large") == "OpenRouter answered 400: max_tokens is too large"


def test_an_error_without_words_is_still_a_sentence():
    """Nothing to quote."""
    assert error_text(" ") == "OpenRouter answered 400"


def test_an_error_text_is_one_short_line():
    """However long and wild the provider's text is."""
    text = error_text("\x1b[31mred\n" + "very long " * 100_000)

    assert len(text) <= MAX_TEXT_CHARS + 30
    assert r"\x1b[31mred\nvery" in text
    assert text.endswith("…")


def test_an_error_text_repeats_neither_key_nor_prompt():
    """What the caller hides is hidden before the text is cut."""
    prompt = "-".join(str(number) for number in range(1000))
    hide = partial(redact, secrets=["canary-key"], prompts=[prompt])

    text = error_text(f"no: {prompt} with canary-key", hide=hide)

    assert text == f"OpenRouter answered 400: no: {PROMPT_MASK} with ****"


def test_half_a_key_at_the_end_of_what_is_read_is_dropped():
    """A key cut in two would not look like one."""
    prompt = "p" * (responses._MAX_READ_CHARS - 8)
    hide = partial(redact, prompts=[prompt])

    assert "sk-or" not in error_text(f"{prompt} sk-or-v1-0123456789abcdef", hide=hide)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"choices":' * 100_000,
        b'{"choices": [' + b"9" * 10_000 + b"]}",
        b"\xff\xfe\x00",
        b'{"choices": "\xff"}',
        b"null",
        b'{"choices": {"message": 1}}',
        b'{"choices": [[[]]], "candidates": [[[]]]}',
        b'{"choices": [{"message": {"content": ["x"]}}], "candidates": [{"content": {"parts": [{"text": 1}]}}]}',
    ],
)
@pytest.mark.parametrize("provider", ["openrouter", "gemini"])
@pytest.mark.parametrize("status", [200, 429, 500])
def test_a_hostile_body_is_the_providers_fault_or_a_limit(provider, status, body):
    """Deep, long, broken or oddly shaped: an error of ours comes out, and nothing is raised."""
    outcome = classify(provider, Answer(status, {}, body))

    assert isinstance(outcome, ProviderError)
    assert outcome.status == status


def test_names_from_a_provider_are_cut_and_escaped():
    """The model that served a request ends in log lines."""
    body = {"model": "m\n" * 500, "id": "g\x1b", "choices": [{"message": {"content": "x"}}]}

    outcome = classify("openrouter", Answer(200, {}, json.dumps(body).encode()))

    assert outcome.model_used.startswith(r"m\nm\n")
    assert len(outcome.model_used) <= 200
    assert outcome.generation_id == r"g\x1b"


def test_the_facts_of_a_key_are_read():
    """What `GET /key` says, without what identifies its owner in a repr."""
    data = {"label": "sk-or-v1-abc...def", "limit": 10, "limit_remaining": 2.5, "usage": 7.5, "is_free_tier": False}
    data |= {"creator_user_id": "user_1", "expires_at": None, "brand_new": {}}

    info = classify_key(Answer(200, {}, json.dumps({"data": data}).encode()), now=NOW, hide=redact)

    assert (info.limit_remaining, info.creator_user_id, info.expires_at) == (2.5, "user_1", None)
    assert "user_1" not in repr(info)


@pytest.mark.parametrize(("status", "reason"), [(200, "invalid_answer"), (401, "http_401"), (503, "http_503")])
def test_a_key_without_facts_is_an_error(status, reason):
    """By the same table as a completion."""
    assert classify_key(Answer(status, {}, b"{}"), now=NOW, hide=redact).reason == reason
