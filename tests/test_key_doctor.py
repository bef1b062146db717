"""`gemini keys`: what an operator reads about each key, and does about one."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from functools import partial
from pathlib import Path

import pytest

from console.cli import main
from console.key_doctor import learn_accounts
from dev.redis import empty
from fake_openrouter.client import FakeClient, running
from gateway.errors import AuthenticationFailed, RateLimited, Scope
from gateway.keys.pool import KeyPool, Lease
from gateway.keys.survey import retirement
from gateway.providers import provider_from
from gateway.providers.openrouter import OpenRouter
from gateway.resources import key_pool, open_stores
from gateway.settings import load_settings

KEYS = ("sk-or-v1-doctor-key-1111", "sk-or-v1-doctor-key-2222", "sk-or-v1-doctor-key-3333")
OF_USERS = ("sk-or-v1-of-ann-1111", "sk-or-v1-of-ann-2222", "sk-or-v1-of-bob-3333")

#: One process serves them all.
pytestmark = pytest.mark.xdist_group("key_doctor")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeClient]:
    with running(keys=[*KEYS[:2], *OF_USERS]) as client:
        yield client


@pytest.fixture
def run(fake: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; its exit code, stdout and stderr."""
    monkeypatch.setenv("OPENROUTER_BASE_URL", f"{fake.base_url}/api/v1")
    monkeypatch.setenv("OPENROUTER_API_KEYS", f"main={KEYS[0]},{KEYS[1]}")
    monkeypatch.setenv("STATE_PATH", str(tmp_path / "state.sqlite3"))

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["keys", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def pool(run: Run) -> Iterator[KeyPool]:
    """The pool of a worker that shares the store."""
    settings = load_settings()
    stores = open_stores(settings)
    yield key_pool(settings, stores.keys)
    stores.close()


def lease(pool: KeyPool) -> Lease:
    found = pool.acquire("google/gemini-2.5-flash")
    assert isinstance(found, Lease)
    return found


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


def test_every_key_has_a_line(run: Run):
    """With its label or last four characters, its use and its account; never a key."""
    code, out, _ = run()
    header, first, second, *_ = rows(out)
    assert code == 0
    assert header[:3] == ["key", "label", "state"]
    assert first[:3] + first[-1:] == ["****1111", "main", "ready", "user_1111"]
    assert second[:3] == ["****2222", "-", "ready"]
    assert "doctor-key" not in out


def test_a_rest_says_why_and_until_when(run: Run, pool: KeyPool):
    """And whether the provider has stated it, or it was guessed."""
    pool.cool(lease(pool), RateLimited("HTTP 429", reason="http_429", status=429, retry_after_s=9000.0))
    code, out, _ = run("--json", "--offline")
    first, second = json.loads(out)["keys"]
    assert code == 0
    assert (first["state"], first["reason"], first["source"], first["used"]) == ("limited", "http_429", "stated", 1)
    assert 8900 < first["back_in_s"] <= 9000.5
    assert (second["state"], second["back_in_s"]) == ("ready", 0)
    assert "2.5 h (stated)" in run("--offline")[1]


def test_a_full_window_is_no_rest(run: Run, pool: KeyPool):
    for _ in range(20):
        lease(pool)
    code, out, _ = run("--json", "--offline")
    assert code == 0
    assert {key["state"] for key in json.loads(out)["keys"]} == {"window full"}


def test_no_usable_key_is_exit_code_1(run: Run, pool: KeyPool):
    """Whether the store says so, or the provider now."""
    for _ in range(2):
        pool.cool(lease(pool), AuthenticationFailed("HTTP 401", reason="http_401", status=401, scope=Scope.KEY))
    code, _, err = run("--offline")
    assert (code, err) == (1, "No key is usable: see what gemini doctor says of them.\n")


def test_a_key_that_the_provider_refuses_now_is_invalid(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENROUTER_API_KEYS", KEYS[2])
    code, out, _ = run()
    assert code == 1
    assert rows(out)[1][:2] == ["****3333", "invalid"]
    assert "****3333: OpenRouter answered 401" in out


def test_a_provider_that_is_away_hides_no_state(run: Run, monkeypatch: pytest.MonkeyPatch):
    """What the store knows is shown, and why the rest is not."""
    monkeypatch.setenv("OPENROUTER_BASE_URL", "http://127.0.0.1:1/api/v1")
    code, out, _ = run()
    assert (code, rows(out)[1][:3]) == (0, ["****1111", "main", "ready"])
    assert "****1111: The provider is out of reach" in out


@pytest.mark.parametrize("name", ["main", "1111", "****1111"])
def test_a_rest_can_be_ended(run: Run, pool: KeyPool, name: str):
    """By label, or by the last four characters."""
    pool.cool(lease(pool), RateLimited("HTTP 429", reason="http_429", status=429, retry_after_s=9000.0))
    assert run("--clear", name)[:2] == (0, "****1111: its rest is over\n")
    assert [status.rest for status in pool.status()] == [None, None]


def test_a_name_that_is_no_keys_or_several_changes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch):
    code, _, err = run("--clear", "nobody")
    assert (code, "No key is called nobody" in err) == (1, True)
    monkeypatch.setenv("OPENROUTER_API_KEYS", "a=sk-or-v1-one-key-1111,b=sk-or-v1-other-key-1111")
    code, _, err = run("--clear", "1111")
    assert (code, "could be any of 2 keys" in err) == (1, True)


def test_what_is_wrong_is_a_line_and_a_code(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("KEYS_MAX_PER_MINUTE", "many")
    code, _, err = run()
    assert (code, "KEYS_MAX_PER_MINUTE" in err) == (78, True)
    monkeypatch.delenv("KEYS_MAX_PER_MINUTE")
    monkeypatch.setenv("STATE_PATH", str(tmp_path))
    code, _, err = run()
    assert (code, "STATE_PATH" in err, "Traceback" in err) == (69, True, False)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("google/stays", None),
        ("google/later", None),
        ("google/odd", None),
        ("google/soon", "retires on 2026-12-31"),
        ("google/soon:free", "retires on 2026-12-31"),
        ("google/gone", "has retired on 2026-11-01"),
        ("google/unknown", "is not among the provider's models"),
    ],
)
def test_a_model_that_is_about_to_go_is_reported(model: str, says: str | None):
    """Three months before, from the provider's own list."""
    models = {
        "google/stays": None,
        "google/later": "2027-12-31",
        "google/odd": "soon",
        "google/soon": "2026-12-31T00:00:00Z",
        "google/gone": "2026-11-01",
    }
    found = retirement(model, models, today=date(2026, 11, 23))
    assert found is None if says is None else says in (found or "")


def test_a_learned_account_is_shown_and_cleared_as_a_whole(run: Run, monkeypatch: pytest.MonkeyPatch, redis_url: str):
    """The provider is asked whose the keys are, as the worker has asked it."""
    monkeypatch.setenv("OPENROUTER_API_KEYS", ",".join(OF_USERS))
    monkeypatch.setenv("REDIS_URL", redis_url)
    empty(redis_url)
    settings = load_settings()
    stores = open_stores(settings)
    worker = key_pool(settings, stores.keys)
    with closing(provider_from(settings)) as openrouter:
        assert isinstance(openrouter, OpenRouter)
        learn_accounts(worker, settings.keys, partial(openrouter.key_info, deadline_s=60.0))
    limit = RateLimited("HTTP 429", reason="free_tier", status=429, retry_after_s=9000.0, scope=Scope.ACCOUNT)
    worker.cool(lease(worker), limit)
    stores.close()
    assert [row[1] for row in rows(run()[1])[1:4]] == ["limited", "limited", "ready"]
    assert run("--clear", "2222")[0] == 0
    assert [row[1] for row in rows(run()[1])[1:4]] == ["ready"] * 3
