"""The client of the Gemini API: what goes out, and what comes back."""

import json
import traceback
from dataclasses import replace

import pytest
import responses

from gateway.errors import AuthenticationFailed, ProviderError, RequestRejected
from gateway.keys.survey import is_somebody_else
from gateway.messages import Request
from gateway.providers.gemini import Gemini
from gateway.providers.transport import Transport
from gateway.secrets import ApiKey

BASE = "https://gemini.test"
DEFAULT = "gemini-2.5-flash"
URL = f"{BASE}/v1beta/models/{DEFAULT}:generateContent"
KEY = ApiKey("AIzaSy-canary-key-0123456789")
PROMPT = "canary prompt about the merger"


@pytest.fixture
def gemini():
    client = Gemini(transport=Transport(), base_url=BASE, default_model=DEFAULT)
    yield client
    client.close()


@pytest.fixture
def http():
    with responses.RequestsMock() as http:
        yield http


def request(**fields) -> Request:
    return Request(**({"request_id": "r-1", "prompt": PROMPT, "callback_queue": "q"} | fields))


def completion(model: str = DEFAULT) -> dict:
    return {
        "candidates": [{"content": {"parts": [{"text": "Hello."}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "thoughtsTokenCount": 4},
        "modelVersion": model,
    }


def test_a_full_request_goes_out_as_the_api_wants_it(gemini, http):
    """Every field of the message at its place in the body, and nothing besides."""
    http.post(URL, json=completion())
    parameters = {"temperature": 0.7, "top_p": 0.95, "top_k": 40, "max_output_tokens": 2048}

    gemini.complete(request(parameters=parameters, system_instruction="Be brief."), KEY, deadline_s=5)

    assert json.loads(http.calls[0].request.body) == {
        "contents": [{"role": "user", "parts": [{"text": PROMPT}]}],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {"temperature": 0.7, "topP": 0.95, "topK": 40, "maxOutputTokens": 2048},
    }


def test_a_bare_request_is_a_bare_body(gemini, http):
    """What was not given is not sent."""
    http.post(URL, json=completion())

    gemini.complete(request(), KEY, deadline_s=5)

    assert json.loads(http.calls[0].request.body) == {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]}


def test_the_key_travels_in_a_header_and_never_in_the_url(gemini, http):
    """URLs end in the log files of proxies."""
    http.post(URL, json=completion())

    gemini.complete(request(), KEY, deadline_s=5)

    sent = http.calls[0].request
    assert sent.headers["x-goog-api-key"] == KEY.reveal()
    assert "canary" not in sent.url


def test_thoughts_count_as_completion(gemini, http):
    """They are paid for like text."""
    http.post(URL, json=completion())

    usage = gemini.complete(request(), KEY, deadline_s=5).usage

    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.reasoning_tokens) == (1, 6, 7, 4)


@pytest.mark.parametrize(
    ("asked", "model"),
    [(None, DEFAULT), ("gemini-2.5-pro", "gemini-2.5-pro"), ("google/gemini-2.5-pro", "gemini-2.5-pro")],
)
def test_a_model_goes_out_bare(gemini, asked, model):
    """Requests written for OpenRouter's name of the same model work, too."""
    assert gemini.resolve_model(asked) == model


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ("gemini-pro", "gemini-2.5-pro"),
        (None, "gemini-2.5-pro"),
        ("fast", "gemini-2.5-flash-lite"),
        ("older", "gemini-1.5-pro"),
        ("models/gemini-3-flash", "gemini-3-flash"),
        ("models/fast", "gemini-2.5-flash-lite"),
        ("google/gemini-3-flash", "gemini-3-flash"),
    ],
)
@pytest.mark.parametrize("default", ["gemini-2.5-pro", "models/gemini-2.5-pro", "google/gemini-2.5-pro"])
def test_names_are_mapped_as_with_openrouter(gemini, default, asked, model):
    """`gemini-pro` is the README's example; it and MODEL_ALIASES were `model_not_found` here."""
    aliases = {"fast": "google/gemini-2.5-flash-lite", "older": "gemini-1.5-pro"}
    assert replace(gemini, default_model=default, aliases=aliases).resolve_model(asked) == model


@pytest.mark.parametrize(
    "name",
    ["../../v1/x", "x@host", "x?key=1", "x#", "x%2f", "x/y", "a b", "x\n", "..", ".", "x..y", "x:y", "openai/gpt-4o"],
)
def test_a_forged_model_name_never_reaches_a_path(gemini, http, name):
    """Refused before any call."""
    with pytest.raises(RequestRejected) as caught:
        gemini.complete(request(model=name), KEY, deadline_s=5)

    assert caught.value.reason == "invalid_model"
    assert not http.calls


def test_another_model_than_asked_is_logged(gemini, http, caplog):
    """As with OpenRouter."""
    http.post(URL, json=completion(model="gemini-3-flash"))

    gemini.complete(request(), KEY, deadline_s=5)

    assert caplog.messages == [f"Asked for {DEFAULT}, served by gemini-3-flash"]


def test_a_key_can_be_asked_about(gemini, http):
    """Free of charge, and without the key in the URL."""
    models = f"{BASE}/v1beta/models?pageSize=1"
    http.get(models, json={"models": []})
    http.get(models, status=403, json={"error": {"code": 403, "message": f"no {KEY.reveal()}"}})

    gemini.key_info(KEY, deadline_s=5)
    with pytest.raises(AuthenticationFailed) as caught:
        gemini.key_info(KEY, deadline_s=5)

    assert [call.request.headers["x-goog-api-key"] for call in http.calls] == [KEY.reveal()] * 2
    assert "canary" not in str(caught.value)


def test_a_403_that_repeats_the_key_does_not_show_it(gemini, http):
    """Seen in the wild."""
    message = f"Permission denied: Consumer 'api_key:{KEY.reveal()}' has been suspended. Prompt: {PROMPT}"
    http.post(URL, status=403, json={"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED"}})

    with pytest.raises(AuthenticationFailed) as caught:
        gemini.complete(request(), KEY, deadline_s=5)

    error = caught.value
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename != __file__]
    corners = [repr(vars(error)), *traceback.format_exception(error)]
    corners += [repr(value) for frame in frames for value in frame.f_locals.values()]
    assert str(error).startswith("Gemini answered 403: Permission denied: Consumer 'api_key:****")
    assert not [corner for corner in corners if "canary" in corner]


LIST = "https://gemini.test/v1beta/models"


def test_the_models_are_asked_for_with_a_key_that_is_accepted(gemini, http):
    """The first may be revoked; their names are bare. No key is part of a URL."""
    refused = {"error": {"code": 400, "message": "no", "details": [{"reason": "API_KEY_INVALID"}]}}
    http.get(LIST, status=400, json=refused)
    http.get(LIST, json={"models": [{"name": "models/gemini-3-flash"}, {"name": "models/gemini-2.5-pro"}]})
    other = ApiKey("AIza-canary-other")

    found = replace(gemini, keys=(other, KEY)).models(deadline_s=5)

    assert found == {"gemini-3-flash": None, "gemini-2.5-pro": None}
    assert [call.request.headers["x-goog-api-key"] for call in http.calls] == [other.reveal(), KEY.reveal()]
    assert "canary" not in str([call.request.url for call in http.calls])


def test_a_key_is_asked_about(gemini, http):
    """Whether it is accepted is all that Google tells."""
    http.get(
        LIST,
        status=400,
        json={"error": {"code": 400, "message": KEY.reveal(), "details": [{"reason": "API_KEY_INVALID"}]}},
    )
    with pytest.raises(AuthenticationFailed) as caught:
        gemini.key_info(KEY, deadline_s=5)
    assert KEY.reveal() not in str(caught.value)
    http.replace("GET", LIST, json={"models": []})
    assert gemini.key_info(KEY, deadline_s=5).creator_user_id is None


@pytest.mark.parametrize(
    ("status", "body"), [(404, "<html>"), (200, "<html>"), (200, "[]"), (200, '{"models": 1}'), (404, "{}")]
)
def test_an_address_that_is_not_googles_shows(gemini, http, status, body):
    """The survey says so."""
    http.get(LIST, status=status, body=body)
    with pytest.raises(ProviderError) as caught:
        replace(gemini, keys=(KEY,)).models(deadline_s=5)
    assert is_somebody_else(caught.value)
