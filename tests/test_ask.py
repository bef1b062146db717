"""`gemini ask` without RabbitMQ: what it reads, where it prints, how it ends."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from console import ask, cli

LONG = {"request_id": "r", "status": "success", "content": "word " * 100, "model_used": "m"}


class Talk:
    """Answers each request with the next of `envelopes`; an exception is raised instead."""

    envelopes: tuple[Any, ...] = ()
    is_left = False

    def __init__(self, _settings: object) -> None:
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def send(self, request: dict[str, Any]) -> None:
        self._sent += 1

    def leave(self) -> None:
        type(self).is_left = True

    def answers(self, _timeout_s: float, **_how: object) -> Iterator[dict[str, Any]]:
        for envelope in self.envelopes:
            if isinstance(envelope, BaseException):
                raise envelope
            yield envelope


Asks = Callable[..., int]


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asks:
    """Asks about a line for each of these envelopes; the exit code."""
    monkeypatch.setenv("STATE_PATH", str(tmp_path / "state.sqlite3"))
    monkeypatch.setattr(ask, "Conversation", Talk)
    monkeypatch.setattr(Talk, "is_left", False)

    def asked(*envelopes: object, how: tuple[str, ...] = ()) -> int:
        monkeypatch.setattr(Talk, "envelopes", envelopes)
        file = tmp_path / "prompts.jsonl"
        file.write_text('"one"\n' * len(envelopes))
        return cli.main(["ask", *(how or ("--file", str(file)))])

    return asked


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Stderr, for somebody who looks at it. No fixture: pytest would take it back before the test."""
    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def test_envelopes_go_where_stdout_leads_and_the_bar_to_the_terminal(asks: Asks, monkeypatch: pytest.MonkeyPatch):
    """One whole line each: `gemini ask --file p.jsonl > out.jsonl`."""
    out, terminal = io.StringIO(), on_a_terminal(monkeypatch)
    monkeypatch.setattr(sys, "stdout", out)
    assert asks(LONG, LONG) == 0
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [LONG, LONG]
    shown = terminal.getvalue()
    assert [text in shown for text in ("word", "1/2", "2/2", "2 answered, 0 errors")] == [False, True, True, True]


def test_envelopes_on_the_same_terminal_as_the_bar_are_not_wrapped(asks: Asks, monkeypatch: pytest.MonkeyPatch):
    """They can be copied from there."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    terminal = on_a_terminal(monkeypatch)
    assert asks(LONG) == 0
    assert json.dumps(LONG) in terminal.getvalue()


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        ('"one\u2028still one"\n"two"', ["one\u2028still one", "two"]),
        ('\ufeff"one"\r\n"two"\r\n', ["one", "two"]),
        ('{"prompt": "a\u0085b"}\n', ["a\u0085b"]),
    ],
)
def test_a_line_ends_with_a_line_feed_and_nothing_else(tmp_path: Path, content: str, prompts: list[str]):
    """As JSON lines do; a BOM and Windows' line ends are no prompts."""
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content.encode())
    assert [one["prompt"] for one in ask._requests(file, None)] == prompts


@pytest.mark.parametrize(
    ("content", "says"),
    [(b'"\xff"\n', "no text in UTF-8"), (b"\n\n", "is empty"), (b"", "is empty"), (b"[" * 100_000, "line 1: give")],
)
def test_a_file_that_holds_no_requests_is_named_in_one_line(
    tmp_path: Path, asks: Asks, capsys: pytest.CaptureFixture[str], content: bytes, says: str
):
    """Exit code 64; nothing is sent."""
    file = tmp_path / "odd.jsonl"
    file.write_bytes(content)
    code = asks(how=("--file", str(file)))
    err = capsys.readouterr().err
    assert (code, err.count("\n"), says in err) == (64, 1, True)


def test_a_file_that_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, asks: Asks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """With the system's own reason."""

    def broken(_self: Path) -> bytes:
        raise OSError(os.EX_IOERR, "Input/output error")

    (tmp_path / "p.jsonl").touch()
    monkeypatch.setattr(Path, "read_bytes", broken)
    assert asks(how=("--file", str(tmp_path / "p.jsonl"))) == 64
    assert capsys.readouterr().err.endswith("p.jsonl cannot be read: Input/output error.\n")


@pytest.mark.parametrize("how", [("A question",), ()])
def test_ctrl_c_does_not_end_the_request_and_that_is_said(
    asks: Asks, capsys: pytest.CaptureFixture[str], how: tuple[str, ...]
):
    """The reply queue stays for the answer, as after --timeout."""
    assert asks(KeyboardInterrupt(), how=how) == 130
    assert "is on its way still" in capsys.readouterr().err
    assert Talk.is_left


def test_one_error_is_one_error(asks: Asks, capsys: pytest.CaptureFixture[str]):
    """Not `1 errors`."""
    assert asks({"request_id": "r", "status": "error", "error": "no"}) == 1
    assert "0 answered, 1 error, 0 not within" in capsys.readouterr().err
