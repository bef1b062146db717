"""Whether who holds a piece of work lives: by a lock on one machine, by a sign of life on many."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dev.redis import empty
from dev.waiting import wait_until
from gateway.errors import StoreUnavailable
from gateway.ledger.owner import GRACE_S, FileOwner, Owner, RedisOwner
from gateway.stores.redis_server import RedisServer
from tests.clock import Clock

ANOTHER_PROCESS = """
import sys
from pathlib import Path
from gateway.ledger.owner import FileOwner
owner = FileOwner(Path(sys.argv[1]))
owner.start()
print(owner.take(), flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that holds a token, and the token."""
    command = [sys.executable, "-c", ANOTHER_PROCESS, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[FileOwner]:
    made = FileOwner(tmp_path / "owners")
    made.start()
    yield made
    made.stop()


def test_a_token_of_this_process_lives_until_it_is_dropped(owner: Owner):
    """Its thread may end without the process, and the work is for the next one then."""
    token = owner.take()
    assert owner.lives(token)
    owner.drop(token)
    owner.drop(token)
    assert not owner.lives(token)


def test_the_work_of_a_process_is_free_the_moment_it_dies(owner: FileOwner, tmp_path: Path):
    """F62: SIGKILL, which nobody can prepare for."""
    with another_process(tmp_path / "owners") as (process, token):
        assert owner.lives(token)
        process.kill()
        process.wait()
        assert not owner.lives(token)


def test_a_process_that_is_stopped_lives(owner: FileOwner, tmp_path: Path):
    """It goes on some day; until then its leases count."""
    with another_process(tmp_path / "owners") as (process, token):
        os.kill(process.pid, signal.SIGSTOP)
        assert owner.lives(token)
        process.kill()


def test_a_process_that_has_ended_in_order_does_not_live(owner: FileOwner, tmp_path: Path):
    """It removes its file. A second stop does nothing."""
    other = FileOwner(tmp_path / "owners")
    other.start()
    token = other.take()
    assert owner.lives(token)
    other.stop()
    other.stop()
    assert not owner.lives(token)


def test_what_dead_processes_have_left_is_removed_and_the_living_stay(owner: FileOwner, tmp_path: Path):
    """Each start looks; a folder that grows for ever would be the price of every crash."""
    with another_process(tmp_path / "owners") as (process, _):
        process.kill()
        process.wait()
    assert len(list((tmp_path / "owners").iterdir())) == 2
    another = FileOwner(tmp_path / "owners")
    another.start()
    assert {file.name for file in (tmp_path / "owners").iterdir()} == {owner.id, another.id}
    another.stop()


def test_a_process_whose_file_was_cleaned_away_makes_it_again(owner: FileOwner, tmp_path: Path):
    """For the others it would be dead, for good."""
    other = FileOwner(tmp_path / "owners")
    for file in (tmp_path / "owners").iterdir():
        file.unlink()
    assert other.lives(owner.take())


def test_a_token_knows_how_many_have_died_at_its_work(owner: FileOwner):
    """With its own process, if that is dead; a thread that ended without its process has killed nobody."""
    other = FileOwner(owner._folder)
    assert owner.deaths(owner.take()) == 0
    assert owner.deaths(owner.take(3)) == 3
    assert owner.deaths(other.take()) == 1
    assert owner.deaths(other.take(3)) == 4


def test_a_token_of_an_older_version_is_left_to_its_lease(owner: Owner):
    """It names no process, and may run beside us in a rolling deployment."""
    assert owner.lives("0123456789abcdef")


def test_a_folder_that_cannot_be_made_is_said_at_boot(tmp_path: Path):
    """With the setting that names it."""
    (tmp_path / "owners").write_text("a file is in the way")
    with pytest.raises(StoreUnavailable, match="See STATE_PATH"):
        FileOwner(tmp_path / "owners").start()


@pytest.fixture
def server(redis_url: str) -> Iterator[RedisServer]:
    empty(redis_url)
    with closing(RedisServer(redis_url)) as made:
        yield made


def test_a_process_far_away_is_dead_when_it_has_shown_no_life_for_a_while(server: RedisServer):
    """Once is not enough: after a silence of Redis nobody has, and all are alive."""
    clock = Clock()
    owner, other = RedisOwner(server, clock=clock), RedisOwner(server)
    other.start()
    token = other.take()
    assert owner.lives(token)
    other.stop()
    assert owner.lives(token)
    clock.advance(GRACE_S)
    assert not owner.lives(token)


def test_a_process_that_shows_life_again_was_not_dead(server: RedisServer):
    """And the next silence counts from its own beginning."""
    clock = Clock()
    owner, other = RedisOwner(server, clock=clock), RedisOwner(server)
    token = other.take()
    assert owner.lives(token)
    clock.advance(GRACE_S)
    other.start()
    assert owner.lives(token)
    other.stop()
    assert owner.lives(token)


def test_a_silence_of_long_ago_says_nothing_of_the_next_one(server: RedisServer):
    """Nobody asked in between; each silence has its grace."""
    clock = Clock()
    owner, other = RedisOwner(server, clock=clock), RedisOwner(server)
    token = other.take()
    assert owner.lives(token)
    clock.advance(1000)
    assert owner.lives(token)
    clock.advance(GRACE_S)
    assert not owner.lives(token)


def test_a_process_shows_life_again_and_again(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    """On a thread of its own, also when Redis was away in between."""
    shown: list[float] = []

    def show_life(_owner: str, life_s: float) -> None:
        shown.append(life_s)
        if len(shown) == 2:
            raise StoreUnavailable("away")

    monkeypatch.setattr("gateway.ledger.owner.BEAT_S", 0.01)
    monkeypatch.setattr(server, "show_life", show_life)
    owner = RedisOwner(server)
    owner.start()
    wait_until(lambda: len(shown) > 3, what="signs of life")
    owner.stop()
    assert shown[-1] == 0.0


def test_a_process_of_another_kind_of_store_is_left_to_its_lease():
    """What knows of no process judges none."""
    assert Owner().lives(Owner().take())
