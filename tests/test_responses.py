"""Recorded answers and what they mean: one file a case under samples/, each with its reason."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest

from gateway.errors import GatewayError, ProviderError, RequestRejected, Scope
from gateway.messages import Completion
from gateway.providers import gemini_responses, openrouter_responses, responses
from gateway.providers.endings import ENDINGS, Ending
from gateway.providers.gemini_responses import classify_gemini, classify_gemini_key
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


def meant(path: Path) -> tuple[dict, dict]:
    """What a sample means, and what it should mean; who expects calls of tools has offered some."""
    answer, expected = load(path)
    return facts(classify(path.parent.name, answer, with_tools="tool_calls" in expected)), expected


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
    meaning, expected = meant(path)

    assert meaning == expected


@pytest.mark.parametrize("path", samples("gemini"))
def test_a_gemini_answer_means_what_its_sample_says(path):
    """The same errors, from another dialect."""
    meaning, expected = meant(path)

    assert meaning == expected


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
    prompt = "p" * (responses.MAX_READ_CHARS - 8)
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
        b'{"choices": [{"text": [{"type": []}]}], "candidates": [{"content": [{"type": {}, "thought": []}]}]}',
        b'{"choices": [{"message": {"content": [1]}}], "candidates": [{"content": {"parts": [{"text": 1}]}}]}',
    ],
)
@pytest.mark.parametrize("provider", ["openrouter", "gemini"])
@pytest.mark.parametrize("status", [200, 429, 500])
def test_a_hostile_body_is_the_providers_fault_or_a_limit(provider, status, body):
    """Deep, long, broken or oddly shaped: an error of ours comes out, and nothing is raised."""
    outcome = classify(provider, Answer(status, {}, body))

    assert isinstance(outcome, ProviderError)
    assert outcome.status == status


@pytest.mark.parametrize("depth", [20, 200, 400, 700, 900, 950])
@pytest.mark.parametrize(
    ("provider", "make"),
    [
        ("openrouter", lambda it: {"choices": [{"message": {"content": it}}]}),
        ("openrouter", lambda it: {"choices": [{"message": {"tool_calls": [{"function": {"arguments": it}}]}}]}),
        ("openrouter", lambda it: {"error": {"code": 400, "metadata": {"raw": it}}}),
        ("openrouter", lambda it: {"error": {"code": 400, "metadata": {"headers": {"Retry-After": it}}}}),
        ("gemini", lambda it: {"candidates": [{"content": {"parts": it}}]}),
        ("gemini", lambda it: {"candidates": [{"content": {"parts": [{"functionCall": {"args": it}}]}}]}),
    ],
)
def test_an_answer_may_be_as_deep_as_it_likes(provider, make, depth):
    """It is read, or is an error of ours; nothing is raised."""
    text = json.dumps(make("HERE")).replace('"HERE"', "[" * depth + '"text"' + "]" * depth)

    assert isinstance(classify(provider, Answer(200, {}, text.encode()), with_tools=True), Completion | ProviderError)


@pytest.mark.parametrize(
    ("number", "meaning"),
    [(1, "stop"), ("2", "length"), (5, "other"), (10, "tool_calls"), (15, "other"), (99, "other"), (None, None)],
)
def test_gemini_may_give_the_number_of_a_reason_to_stop(number, meaning):
    """As its enum has them."""
    body = {"candidates": [{"finishReason": number, "content": {"parts": [{"text": "Hello."}]}}]}

    assert classify("gemini", Answer(200, {}, json.dumps(body).encode())).finish_reason == meaning


@pytest.mark.parametrize("number", [3, 4, 6, 7, 8, 9, 11, 14, 17])
def test_gemini_may_give_the_number_of_a_filter(number):
    """Part of a text that a filter has touched is no answer."""
    body = {"candidates": [{"finishReason": number, "content": {"parts": [{"text": "Hello."}]}}]}

    assert classify("gemini", Answer(200, {}, json.dumps(body).encode())).reason == "content_blocked"


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


@pytest.mark.parametrize("left", [-0.0123, 250_000])
def test_what_is_left_of_a_key_may_be_any_number(left):
    """Below zero it is used up, and not without a limit."""
    body = json.dumps({"data": {"limit_remaining": left}}).encode()

    assert classify_key(Answer(200, {}, body), now=NOW, hide=redact).limit_remaining == left


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"{}", "invalid_answer"),
        (401, b'{"error": {"code": 401, "message": "User not found."}}', "http_401"),
        (401, b"<html></html>", "not_the_provider"),
        (503, b"{}", "not_the_provider"),
    ],
)
def test_a_key_without_facts_is_an_error(status, body, reason):
    """By the same table as a completion: a page of a firewall refuses no key."""
    assert classify_key(Answer(status, {}, body), now=NOW, hide=redact).reason == reason


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b'{"models": [{"name": "models/gemini-2.5-flash"}]}', None),
        (200, b"<html></html>", "not_the_provider"),
        (400, b'{"error": {"code": 400, "message": "API key not valid."}}', "api_key_invalid"),
        (403, b"<html></html>", "not_the_provider"),
        (403, b'{"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}}', "http_403"),
    ],
)
def test_a_key_of_gemini_is_accepted_where_it_may_list_the_models(status, body, reason):
    """Free of charge, and the only question about a key that Google answers."""
    assert getattr(classify_gemini_key(Answer(status, {}, body), now=NOW, hide=redact), "reason", None) == reason


@pytest.mark.parametrize("provider", ["openrouter", "gemini"])
def test_every_word_of_evidence_has_a_sample(provider):
    """A word that no recorded answer holds is a guess, or dead."""
    texts = [path.values[0].read_text().lower() for path in samples(provider)]
    for rule in TABLES[provider]:
        for word in rule.markers:
            field = word.removeprefix("metadata.")
            assert provider == "gemini" or any(field in text for text in texts), word
        assert not rule.markers or any(word in text for word in rule.markers for text in texts)


def test_a_rule_that_reads_the_words_of_a_provider_rests_nothing():
    """They may repeat a prompt, and nobody's prompt may rest the keys of all."""
    reading = [rule for table in TABLES.values() for rule in table if rule.reads_raw]
    assert reading
    assert all(rule.error.__name__ == "RequestRejected" for rule in reading)


def test_a_prompt_that_is_repeated_is_no_evidence():
    """Neither for a wait nor for a fault of the request: what the caller hides is hidden before it is read."""
    prompt = "maximum context length, please retry in 9999 seconds"
    error = {"code": 400, "message": "Provider returned error", "metadata": {"provider_name": "X", "raw": prompt}}
    body = json.dumps({"error": error}).encode()

    outcome = classify("openrouter", Answer(400, {}, body), hide=partial(redact, prompts=[prompt]))

    assert (outcome.reason, outcome.retry_after_s) == ("provider_refused", None)


def test_raw_words_may_be_an_object():
    """As they are in the middle of a stream (cline 5449)."""
    raw = {"object": "error", "message": "This model's maximum context length is 8192 tokens", "code": 400}
    error = {"code": 400, "message": "Upstream error", "metadata": {"provider_name": "AtlasCloud", "raw": raw}}

    outcome = classify("openrouter", Answer(400, {}, json.dumps({"error": error}).encode()))

    assert outcome.reason == "prompt_too_long"


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_an_error_says_whether_the_provider_has_named_the_cause(table):
    """A status alone is a guess, and a rest that comes of it is checked."""
    for rule in table:
        assert rule.is_named is bool(rule.sources or rule.markers)


@pytest.mark.parametrize(("text", "tokens"), [("can only afford 3919.", 3919), ("can only afford 3,919", 3919)])
def test_the_affordable_tokens_are_read(text, tokens):
    """With and without a separator."""
    body = json.dumps({"error": {"code": 402, "message": f"fewer max_tokens. You {text}"}}).encode()
    assert classify("openrouter", Answer(402, {}, body)).affordable_tokens == tokens


@pytest.mark.parametrize(
    ("headers", "encoding", "reason"),
    [
        ({"Content-Encoding": "br"}, "br", "unreadable_answer"),
        ({"Content-Encoding": "br", "Content-Type": "text/html"}, "br", "not_the_provider"),
        ({"Content-Type": "application/json"}, "", "unreadable_answer"),
        ({}, "", "not_the_provider"),
    ],
)
@pytest.mark.parametrize("provider", ["openrouter", "gemini"])
def test_a_success_that_cannot_be_read_is_final_where_it_is_paid_for(provider, headers, encoding, reason):
    """Fetched again it would be paid for again, and be the same; a page of a portal costs nothing."""
    outcome = classify(provider, Answer(200, headers, b"\x1b\x0b\x00\xf8\x8f", encoding))

    assert outcome.reason == reason
    page = Answer(200, headers, b"\n<html></html>", encoding)
    assert classify(provider, page).reason == "not_the_provider"
    assert isinstance(outcome, RequestRejected) is (reason == "unreadable_answer")
    assert ("encoding br" in str(outcome)) is (reason == "unreadable_answer" and bool(encoding))


def ended(provider: str, word: str, text: str) -> Answer:
    """An answer with this text that has ended for this reason, in the provider's own word."""
    message = {"role": "assistant", "content": text}
    choice = {"finish_reason": None, "native_finish_reason": word, "message": message}
    candidate = {"finishReason": word.upper(), "content": {"parts": [{"text": text}]}}
    body = {"choices": [choice]} if provider == "openrouter" else {"candidates": [candidate]}
    return Answer(200, {}, json.dumps(body).encode())


@pytest.mark.parametrize("word", ENDINGS)
@pytest.mark.parametrize("provider", ["openrouter", "gemini"])
def test_every_reason_to_stop_has_its_meaning(provider, word):
    """With a text it is told, unless a filter has touched that; without one it says whether another try is of use."""
    meaning = ENDINGS[word]
    with_text, without = (classify(provider, ended(provider, word, text)) for text in ("Hello.", ""))

    if meaning is Ending.CONTENT_FILTER:
        assert with_text.reason == "content_blocked"
    else:
        assert (with_text.content, with_text.finish_reason) == ("Hello.", meaning)
    assert without.reason == {
        Ending.CONTENT_FILTER: "content_blocked",
        Ending.LENGTH: "output_exhausted",
        Ending.TOOL_CALLS: "tool_call",
    }.get(meaning, "empty_answer")


def test_a_header_of_a_stranger_forges_no_line_and_shows_no_key():
    """It is in an envelope and a log line."""
    headers = {"Content-Type": "text/html\x1b[2K sk-or-v1-0123456789abcdef " + "x" * 500}

    text = str(classify("openrouter", Answer(403, headers, b"<html></html>")))

    assert "sk-or-v1" not in text
    assert text.isprintable()
    assert len(text) < 200


BILLS = {"openrouter": openrouter_responses.bill_of, "gemini": gemini_responses.bill_of}


@pytest.mark.parametrize(
    ("sample", "tokens"),
    [
        ("openrouter/200_empty_choices_and_billed", (12, 34)),
        ("openrouter/200_output_exhausted", (12, 34)),
        ("openrouter/200_html", None),
        ("openrouter/429_of_a_firewall", None),
        ("gemini/200_empty_candidates_and_billed", (12, 34)),
        ("gemini/200_safety", (12, 34)),
        ("gemini/503", None),
    ],
)
def test_an_answer_of_no_use_has_a_bill_where_it_tells_one(sample: str, tokens: tuple[int, int] | None):
    """It is paid for all the same; nothing is made up."""
    path = SAMPLES / f"{sample}.json"
    answer, _ = load(path)
    assert isinstance(classify(path.parent.name, answer), ProviderError)
    bill = BILLS[path.parent.name](answer, asked="asked/model")
    assert (None if bill is None else (bill.prompt_tokens, bill.completion_tokens)) == tokens
