"""The file of keys: what is in it, what becomes of a change, and of one that cannot be used."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.broker import resources
from dev.waiting import wait_until
from gateway.errors import GatewayError, RateLimited
from gateway.keys import reload as the_reload
from gateway.keys.pool import KeyPool, Lease
from gateway.keys.reload import KeyReload
from gateway.keys.sqlite import SqliteKeyStore
from gateway.reporting import logs, sentry
from gateway.secrets import ApiKey
from gateway.settings import SettingsError, load_settings
from gateway.stores.state_file import StateFile
from tests.world import World, job, world

ONE, TWO, THREE = (f"sk-or-v1-key-{name}-{number * 4}" for name, number in (("one", "1"), ("two", "2"), ("three", "3")))


def load(monkeypatch: pytest.MonkeyPatch, **settings: str) -> Any:
    for name, value in {"OPENROUTER_BASE_URL": "http://127.0.0.1:1/api/v1", **settings}.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.endswith(("_API_KEYS", "_API_KEY", "_KEYS_FILE")):
            monkeypatch.delenv(name)
    return tmp_path / "keys"


def test_a_file_has_a_key_on_each_line(file: Path, monkeypatch: pytest.MonkeyPatch):
    """With labels and remarks; beside those of the environment, each once."""
    file.write_text(f"# ours\n{ONE}\r\n\n team={TWO} \n")
    settings = load(monkeypatch, OPENROUTER_API_KEYS_FILE=str(file), OPENROUTER_API_KEYS=f"{ONE},{THREE}")
    assert [(key.reveal(), key.label) for key in settings.keys] == [(ONE, None), (THREE, None), (TWO, "team")]
    assert {ONE, TWO, THREE} <= set(settings.secrets())
    assert ONE not in repr(settings)
    assert TWO not in settings.model_dump_json()


def test_gemini_has_a_file_too(file: Path, monkeypatch: pytest.MonkeyPatch):
    """It chooses the provider as the keys do."""
    file.write_text("AIza-one-1111\n")
    settings = load(monkeypatch, GEMINI_API_KEYS_FILE=str(file), GEMINI_BASE_URL="http://127.0.0.1:1")
    assert settings.uses_gemini
    assert (settings.keys[0].reveal(), settings.keys_file) == ("AIza-one-1111", file)


BAD = [
    ("", "no key in it"),
    ("# nothing\n\n", "no key in it"),
    (f"{ONE}\n{TWO}\n{ONE}\n", "twice"),
    (f'{ONE}"x\n', "key number 1 has characters"),
    ("<your-key>\n", "key number 1 is a placeholder"),
    (f"{ONE}\nsk or {TWO}\n", "key number 2 has characters"),
    (b"\xff\xfe\x00", "cannot be read"),
]


@pytest.mark.parametrize(("content", "said"), BAD)
def test_a_file_that_cannot_be_used_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes, said: str
):
    """At the start as later; nothing of it is repeated."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError, match=said) as raised:
        load(monkeypatch, OPENROUTER_API_KEYS_FILE=str(file))
    assert "OPENROUTER_API_KEYS_FILE" in str(raised.value)
    assert "sk-or" not in str(raised.value)


def test_a_placeholder_in_a_file_is_named(file: Path, monkeypatch: pytest.MonkeyPatch):
    """As it is in the environment."""
    file.write_text("sk-or-v1-your-key\n")
    with pytest.raises(SettingsError, match="OPENROUTER_API_KEYS_FILE: key number 1 is a placeholder"):
        load(monkeypatch, OPENROUTER_API_KEYS_FILE=str(file), OPENROUTER_BASE_URL="https://openrouter.ai/api/v1")


def test_a_missing_file_is_named(file: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SettingsError, match="cannot be read"):
        load(monkeypatch, OPENROUTER_API_KEYS_FILE=str(file))


class Follower:
    """What was read and used of a file."""

    def __init__(self, path: Path) -> None:
        self.used: list[str] = []
        self.fault: GatewayError | None = None
        self.path = path
        self.reload = KeyReload(path, self.load, self.use, every_s=0.001)

    def load(self) -> Sequence[ApiKey]:
        if self.fault is not None:
            raise self.fault
        return [ApiKey(self.path.read_text())]

    def use(self, keys: Sequence[ApiKey]) -> None:
        self.used.append(keys[0].reveal())

    def put(self, text: str) -> None:
        """In one step, as another file."""
        other = self.path.with_suffix(".new")
        other.write_text(text)
        other.replace(self.path)


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    made = Follower(tmp_path / "keys")
    made.put("one")
    return made


def test_a_file_is_read_when_it_has_changed_and_does_so_no_more(follower: Follower):
    """Once; the first time to find what has changed since the start."""
    follower.reload.look()
    assert follower.used == []
    follower.reload.look()
    follower.reload.look()
    assert follower.used == ["one"]
    follower.put("two")
    follower.reload.look()
    follower.put("three")
    follower.reload.look()
    assert follower.used == ["one"]
    follower.reload.look()
    follower.reload.look()
    assert follower.used == ["one", "three"]


def test_a_bad_file_is_said_once(follower: Follower, caplog: pytest.LogCaptureFixture):
    """In one line, and the next state of it is read again."""
    follower.fault = GatewayError("The settings:\n  no good")
    for _ in range(4):
        follower.reload.look()
    assert [record.message for record in caplog.records] == ["The keys stay as they are: The settings: no good"]
    follower.fault = None
    follower.put("two")
    for _ in range(3):
        follower.reload.look()
    assert follower.used == ["two"]


def test_a_file_that_is_gone_is_a_bad_one(follower: Follower, caplog: pytest.LogCaptureFixture):
    follower.reload.look()
    follower.reload.look()
    follower.path.unlink()
    follower.fault = GatewayError("gone")
    for _ in range(3):
        follower.reload.look()
    assert [record.message for record in caplog.records] == ["The keys stay as they are: gone"]


def test_a_thread_follows_the_file(follower: Follower, caplog: pytest.LogCaptureFixture):
    """Whatever goes wrong."""
    faults: list[Exception] = [ValueError("a fault")]
    use = follower.use

    def once(keys: Sequence[ApiKey]) -> None:
        if faults:
            raise faults.pop()
        use(keys)

    follower.reload._use = once
    follower.reload.start()
    wait_until(lambda: "A fault while the keys were read" in caplog.text, what="the fault")
    follower.put("two")
    wait_until(lambda: follower.used == ["two"], what="the new key")
    assert follower.reload.stop(10.0)
    assert follower.reload.stop(10.0)
    assert the_reload.LOOK_EVERY_S > 0


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[KeyPool]:
    state = StateFile(tmp_path / "state.sqlite3")
    yield KeyPool([ApiKey(ONE), ApiKey(TWO)], SqliteKeyStore(state), max_per_window=5, max_in_flight=5)
    state.close()


def leased(pool: KeyPool) -> Lease:
    found = pool.acquire("m")
    assert isinstance(found, Lease)
    return found


def test_other_keys_are_used_from_then_on(pool: KeyPool):
    """A call with one that is gone is released, and cooled, as ever; the uses of those that stay count on."""
    first = [leased(pool) for _ in range(2)]
    gone = next(lease for lease in first if lease.key.reveal() == ONE)
    pool.use([ApiKey(TWO), ApiKey(THREE)])
    assert {leased(pool).key.reveal() for _ in range(6)} == {TWO, THREE}
    pool.release(gone)
    pool.cool(gone, RateLimited("HTTP 429", reason="http_429"))
    assert pool.siblings(gone.key) == {gone.key.digest}
    pool.cancel(gone)
    used = {status.key.reveal(): status.used for status in pool.status()}
    assert sum(used.values()) == 7
    assert [key.reveal() for key in pool.keys] == [TWO, THREE]


def test_accounts_that_were_learnt_stay_known(pool: KeyPool):
    pool.learn({ApiKey(TWO).digest: "user-a"})
    pool.use([ApiKey(TWO), ApiKey(THREE)])
    pool.learn({ApiKey(THREE).digest: "user-a"})
    assert pool.siblings(ApiKey(TWO)) == {ApiKey(TWO).digest, ApiKey(THREE).digest}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, OPENROUTER_API_KEYS=ONE) as made:
        yield made


def test_a_key_that_is_replaced_during_a_call_ends_it_normally(here: World):
    """And the next call is made with the new one."""
    here.provider.during = lambda: resources.use_keys([ApiKey(TWO)])
    here.deliver(here.message(job(1)))
    here.deliver(here.message(job(2)))
    assert here.provider.calls == [ONE, TWO]
    assert [one["status"] for one in here.publisher.to("gemini.responses")] == ["success", "success"]


def test_a_new_key_is_on_no_log_line_and_in_no_event(here: World, monkeypatch: pytest.MonkeyPatch):
    """From before its first call on."""
    secret = "plain-canary-secret"  # nothing that looks like a key
    handler = logs._Handler(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - never read
    handler.setFormatter(logs.TextFormatter([ONE]))
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [*root.handlers, handler])
    resources.use_keys([ApiKey(secret)])
    record = logging.LogRecord("m", logging.INFO, "f", 1, f"{secret} and {ONE}", None, None)
    line = handler.format(record)
    assert secret not in line
    assert ONE not in line
    assert secret not in str(sentry._Cleaner()({"message": f"no {secret}"}, {}))
    handler.stream.close()


def test_the_same_keys_change_nothing(here: World, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    resources.use_keys([ApiKey(ONE)])
    assert "read again" not in caplog.text
    resources.use_keys([ApiKey(ONE, label="team")])
    assert "1 new, 1 gone, 1 in use" in caplog.text


def test_keys_of_another_provider_take_a_restart(here: World, file: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing else of the settings is read anew."""
    file.write_text(f"{ONE}\n")
    settings = load(monkeypatch, OPENROUTER_API_KEYS_FILE=str(file))
    resources.settings.open(settings)
    monkeypatch.delenv("OPENROUTER_API_KEYS_FILE")
    other = load(monkeypatch, GEMINI_API_KEYS="AIza-one-1111", GEMINI_BASE_URL="http://127.0.0.1:1")
    resources.follow_keys(lambda: other)
    assert resources.key_reload().stop(10.0)
    with pytest.raises(GatewayError, match="takes a restart"):
        resources.key_reload()._load()
