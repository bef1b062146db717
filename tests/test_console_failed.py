"""`gemini failed` without RabbitMQ: which letters are meant, and what is said when none is."""

import json
from collections.abc import Callable, Iterator
from typing import Self

import pika
import pytest

from console import cli, failed
from console.dead.letter import DeadLetter
from console.dead.queues import HeldLetter
from gateway.rabbitmq.topology import DEAD_REQUESTS

LONG = "request-" + "9" * 120


def letter(name: str) -> DeadLetter:
    return DeadLetter(DEAD_REQUESTS, b"{}", pika.BasicProperties(message_id=f"letter-{name}", correlation_id=name))


class Queues:
    """Holds two letters."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def count(self, queue: str) -> int:
        return 2 if queue == DEAD_REQUESTS else 0

    def letters(self, queue: str, wanted: Callable[[DeadLetter], bool], _limit: int) -> Iterator[HeldLetter]:
        letters = [letter("one"), letter(LONG)] if queue == DEAD_REQUESTS else []
        yield from (HeldLetter(one, 1) for one in letters if wanted(one))

    def remove(self, _tag: int) -> None:
        raise AssertionError("nothing is to be dropped")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr(failed, "_dead_queues", Queues)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["failed", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.mark.parametrize("arguments", [["--json"], ["--json", "--id", "one"], ["--json", "--queue", DEAD_REQUESTS]])
def test_without_a_command_the_options_are_those_of_list(run: Run, arguments: list[str]):
    assert run(*arguments) == run("list", *arguments)
    assert len(json.loads(run(*arguments)[1])["letters"]) == (1 if "--id" in arguments else 2)


@pytest.mark.parametrize("option", [["--id", "one"], ["--code", "x"], ["--queue", DEAD_REQUESTS], ["--limit", "1"]])
def test_options_in_front_of_a_command_are_not_lost(run: Run, option: list[str]):
    """`--id` there would be forgotten, and every letter sent again."""
    code, out, err = run(*option, "redrive", "--all", "--yes")
    assert (code, out, "give options behind redrive" in err) == (64, "", True)


def test_a_letter_is_found_by_the_whole_id_of_its_request(run: Run):
    """Also by what a screen shows of a long one."""
    for name in (LONG, json.loads(run("show", "--id", LONG)[1])["request_id"]):
        assert run("show", "--id", name)[0] == 0
    assert run("show", "--id", LONG[:-1])[0] == 1


@pytest.mark.parametrize("typed", ["yes", ""])
def test_a_drop_that_is_answered_by_no_number_says_what_to_type(run: Run, monkeypatch: pytest.MonkeyPatch, typed: str):
    """Nothing is dropped."""
    monkeypatch.setattr("builtins.input", lambda _question: typed)
    code, _, err = run("drop", "--all")
    assert (code, "Type 2 to drop these, or give --count 2" in err) == (64, True)
