"""The client of OpenRouter: what goes out, and what comes back."""

import json
import logging
import time
import traceback

import pytest
import requests
import responses

from gateway.errors import AuthenticationFailed, ProviderError, RateLimited, RequestRejected, UpstreamFailed
from gateway.messages import Request
from gateway.providers.openrouter import OpenRouter
from gateway.providers.transport import Transport
from gateway.secrets import ApiKey
from tests.test_chat import CONVERSATION, PARAMETERS

BASE = "https://openrouter.test/api/v1"
URL = f"{BASE}/chat/completions"
DEFAULT = "google/gemini-2.5-flash"
KEY = ApiKey("sk-or-v1-canary-key-0123456789")
PROMPT = "canary prompt about the merger"
SYSTEM = "canary system instruction"


@pytest.fixture
def make():
    transport = Transport()

    def make(**settings) -> OpenRouter:
        defaults = {
            "base_url": BASE,
            "default_model": DEFAULT,
            "aliases": {},
            "site_url": "https://site.test",
            "site_name": "Site",
            "max_tokens": 8192,
        }
        return OpenRouter(transport=transport, **(defaults | settings))

    yield make
    transport.close()


@pytest.fixture
def http():
    with responses.RequestsMock() as http:
        yield http


def request(**fields) -> Request:
    return Request(**({"request_id": "r-1", "prompt": PROMPT, "callback_queue": "q"} | fields))


def completion(content: str = "Hello.", model: str = DEFAULT) -> dict:
    return {
        "id": "gen-1",
        "model": model,
        "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


def sent(http: responses.RequestsMock) -> dict:
    return json.loads(http.calls[0].request.body)


def test_the_request_of_the_public_contract_goes_out_as_the_api_wants_it(make, http):
    """Every field of the message at its place in the body, and nothing besides."""
    http.post(URL, json=completion(model="google/gemini-pro-1.5"))
    example = {
        "request_id": "550e8400-e29b-41d4-a716-446655440000",
        "prompt": "Explain quantum computing in simple terms",
        "model": "google/gemini-pro-1.5",
        "parameters": {"temperature": 0.7, "top_p": 0.95, "top_k": 40, "max_output_tokens": 2048},
        "system_instruction": "You are a patient teacher.",
        "metadata": {"user_id": "user123"},
        "callback_queue": "gemini.responses",
        "timestamp": "2025-01-01T00:00:00Z",
        "retry_count": 0,
    }

    make().complete(Request.model_validate(example), KEY, deadline_s=5)

    assert sent(http) == {
        "model": "google/gemini-pro-1.5",
        "messages": [
            {"role": "system", "content": "You are a patient teacher."},
            {"role": "user", "content": "Explain quantum computing in simple terms"},
        ],
        "temperature": 0.7,
        "top_p": 0.95,
        "top_k": 40,
        "max_tokens": 2048,
        "stream": False,
    }


def test_a_bare_request_has_the_default_model_and_a_cap(make, http):
    """Without a cap the account's budget in flight pays for the model's maximum."""
    http.post(URL, json=completion())

    make().complete(request(), KEY, deadline_s=5)

    messages = [{"role": "user", "content": PROMPT}]
    assert sent(http) == {"model": DEFAULT, "messages": messages, "max_tokens": 8192, "stream": False}


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_parameter_goes_out_under_its_name(make, http, name):
    """To the last key and null; only the cap has another name, and models are resolved."""
    http.post(URL, json=completion())
    value = {"models": [DEFAULT, "openai/gpt-5-mini"]}.get(name, PARAMETERS[name])

    make().complete(request(parameters={name: PARAMETERS[name]}), KEY, deadline_s=5)

    bare = {"model": DEFAULT, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 8192, "stream": False}
    assert sent(http) == {**bare, {"max_output_tokens": "max_tokens"}.get(name, name): value}


def test_messages_go_out_as_they_were_given(make, http):
    """To the last key and null, and so do the names of the user and the session."""
    http.post(URL, json=completion())

    about = {"user": "u-1", "session_id": "s-1", "system_instruction": SYSTEM}
    make().complete(request(prompt=None, messages=CONVERSATION, **about), KEY, deadline_s=5)

    assert sent(http) == {
        "model": DEFAULT,
        "messages": [{"role": "system", "content": SYSTEM}, *CONVERSATION],
        "user": "u-1",
        "session_id": "s-1",
        "max_tokens": 8192,
        "stream": False,
    }


def test_a_fallback_that_cannot_be_a_name_is_refused(make):
    """Before a key is taken."""
    with pytest.raises(RequestRejected):
        make().check(request(parameters={"models": ["a/b", "../../key"]}))


def test_a_fallback_that_served_is_no_news(make, http, caplog):
    """It was asked for."""
    http.post(URL, json=completion(model="openai/gpt-5-mini"))
    with caplog.at_level(logging.WARNING):
        make().complete(request(parameters={"models": ["openai/gpt-5-mini"]}), KEY, deadline_s=5)
    assert caplog.text == ""


def test_a_temperature_of_zero_is_sent(make, http):
    """Zero is a value."""
    http.post(URL, json=completion())

    make().complete(request(parameters={"temperature": 0, "top_p": 0}), KEY, deadline_s=5)

    assert (sent(http)["temperature"], sent(http)["top_p"]) == (0, 0)


def test_key_and_site_travel_in_headers(make, http):
    """Bearer, referer and title, the last in any script."""
    http.post(URL, json=completion())

    make(site_name="Ωmega").complete(request(), KEY, deadline_s=5)

    headers = http.calls[0].request.headers
    assert headers["Authorization"] == f"Bearer {KEY.reveal()}"
    assert headers["HTTP-Referer"] == b"https://site.test"
    assert headers["X-Title"] == "Ωmega".encode()
    assert headers["Content-Type"] == "application/json"


def test_a_site_that_is_not_set_is_not_sent(make, http):
    """No empty headers."""
    http.post(URL, json=completion())

    make(site_url="", site_name="").complete(request(), KEY, deadline_s=5)

    assert not {"HTTP-Referer", "X-Title"} & set(http.calls[0].request.headers)


def test_a_slash_at_the_end_of_the_base_url_does_no_harm(make, http):
    """People write it either way."""
    http.post(URL, json=completion())

    assert make(base_url=BASE + "/").complete(request(), KEY, deadline_s=5).content == "Hello."


def test_the_completion_is_what_was_answered(make, http):
    """Text, usage, model and identifier."""
    http.post(URL, json=completion(), headers={"X-Generation-Id": "gen-2"})

    outcome = make().complete(request(), KEY, deadline_s=5)

    assert (outcome.content, outcome.model_used, outcome.generation_id) == ("Hello.", DEFAULT, "gen-2")
    assert outcome.usage.total_tokens == 3


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        (None, DEFAULT),
        ("google/gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("meta-llama/llama-3.3-70b-instruct:free", "meta-llama/llama-3.3-70b-instruct:free"),
        ("gemini-pro", DEFAULT),
        ("gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("fast", "google/gemini-2.5-flash-lite"),
        ("gemini-1.5-pro", "google/gemini-2.5-pro"),
        ("gpt-4o", "gpt-4o"),
    ],
)
def test_a_model_name_is_resolved(make, asked, model):
    """A full name stays; a bare one goes through the aliases, then through the older Gemini form."""
    aliases = {"fast": "google/gemini-2.5-flash-lite", "gemini-1.5-pro": "google/gemini-2.5-pro", "google/x": "no"}

    assert make(aliases=aliases).resolve_model(asked) == model


@pytest.mark.parametrize(
    ("default", "model"),
    [
        ("gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("models/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("gemini-pro", "google/gemini-2.5-flash"),
        ("fast", "google/gemini-2.5-flash-lite"),
        ("older", "google/gemini-1.5-pro"),
        ("openrouter/auto", "openrouter/auto"),
    ],
)
def test_a_setting_that_names_a_model_goes_the_same_way(make, default, model):
    """The default of `OPENROUTER_MODEL=gemini-2.5-flash` went out as it is, and every request failed."""
    aliases = {"fast": "google/gemini-2.5-flash-lite", "older": "gemini-1.5-pro", "usual": "gemini-pro"}
    provider = make(default_model=default, aliases=aliases)

    assert provider.resolve_model(None) == model
    assert provider.resolve_model("gemini-pro") == model
    assert provider.resolve_model("usual") == model


def test_an_alias_goes_before_the_rule_for_gemini_pro(make):
    """The operator's table has the first word."""
    assert make(aliases={"gemini-pro": "google/gemini-2.5-pro"}).resolve_model("gemini-pro") == "google/gemini-2.5-pro"


@pytest.mark.parametrize("name", ["../../key", "a b", "a\nb", "a?b", "ü/x", "/x", "a" * 201, "a\u2028"])
def test_what_cannot_be_a_model_name_is_refused(make, name):
    """Before any call, and safe to show."""
    with pytest.raises(RequestRejected) as caught:
        make().resolve_model(name)

    assert caught.value.code == "invalid_request"
    assert "\n" not in str(caught.value)
    assert "\u2028" not in str(caught.value)


def test_another_model_than_asked_is_logged(make, http, caplog):
    """An operator sees that a model retires; the prompt is not in the line."""
    http.post(URL, json=completion(model="google/gemini-3-flash"))

    make().complete(request(), KEY, deadline_s=5)

    name, level, text = caplog.record_tuples[0]
    assert (name, level) == ("gateway.providers.openrouter", logging.WARNING)
    assert text == f"Asked for {DEFAULT}, served by google/gemini-3-flash"


def test_the_model_asked_for_is_no_news(make, http, caplog):
    """The usual case is silent."""
    http.post(URL, json=completion())

    make().complete(request(), KEY, deadline_s=5)

    assert not caplog.records


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, RequestRejected), (401, AuthenticationFailed), (429, RateLimited), (503, UpstreamFailed)],
)
def test_an_error_holds_neither_key_nor_prompt(make, http, status, error):
    """Not in its text, its attributes, its chain, its traceback, nor in the variables of our frames."""
    message = f"key {KEY.reveal()} said: {PROMPT} / {SYSTEM}"
    body = {"error": {"code": status, "message": message, "metadata": {"raw": PROMPT, "flagged_input": PROMPT}}}
    http.post(URL, status=status, json={**body, "user_id": "canary"})

    with pytest.raises(error) as caught:
        make().complete(request(system_instruction=SYSTEM), KEY, deadline_s=5)

    assert str(caught.value) == f"OpenRouter answered {status}: key **** said: [prompt] / [prompt]"
    assert_clean(caught.value)


def test_an_error_holds_no_part_of_another_key_of_ours(make, http):
    """Masked before the text is cut: half a key would not be found any more. It has no form that gives it away."""
    other = ApiKey("pelican-8d9128ab207bc51d-heron-and-stork")
    for filler in range(150, 750, 15):
        body = {"error": {"code": 500, "message": "x" * filler + other.reveal()}}
        http.post(URL, status=500, json=body)
        with pytest.raises(UpstreamFailed) as caught:
            make(keys=(KEY, other)).complete(request(), KEY, deadline_s=5)
        assert "pelican" not in str(caught.value)


def test_a_transport_fault_holds_neither_key_nor_prompt(make, http):
    """The request object of the HTTP library stays behind."""
    http.post(URL, body=requests.ConnectionError(f"{KEY.reveal()} {PROMPT}"))

    with pytest.raises(UpstreamFailed) as caught:
        make().complete(request(), KEY, deadline_s=5)

    assert caught.value.reason == "network"
    assert_clean(caught.value)


def test_waits_count_from_now(make, http):
    """A moment in the answer is compared with this machine's clock."""
    reset_ms = int((time.time() + 600) * 1000)
    http.post(URL, status=429, json={"error": {"code": 429}}, headers={"X-RateLimit-Reset": str(reset_ms)})

    with pytest.raises(RateLimited) as caught:
        make().complete(request(), KEY, deadline_s=5)

    assert 0 < caught.value.retry_after_s <= 600


def test_the_facts_of_a_key_can_be_asked_for(make, http):
    """Free of charge, with the same key header."""
    http.get(f"{BASE}/key", json={"data": {"limit_remaining": 1.5, "is_free_tier": True}})

    info = make().key_info(KEY, deadline_s=5)

    assert info.limit_remaining == 1.5
    assert http.calls[0].request.headers["Authorization"] == f"Bearer {KEY.reveal()}"


def test_the_facts_of_a_refused_key_are_an_error(make, http):
    """Dead keys are found out this way."""
    http.get(f"{BASE}/key", status=401, json={"error": {"code": 401, "message": f"no {KEY.reveal()}"}})

    with pytest.raises(AuthenticationFailed) as caught:
        make().key_info(KEY, deadline_s=5)

    assert_clean(caught.value)


def assert_clean(error: ProviderError) -> None:
    assert error.__cause__ is None
    assert error.__context__ is None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename != __file__]
    corners = [repr(error), str(error), repr(vars(error)), *traceback.format_exception(error)]
    corners += [repr(value) for frame in frames for value in frame.f_locals.values()]
    assert not [corner for corner in corners if "canary" in corner]
