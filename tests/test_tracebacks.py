"""Exceptions as text: telling, bounded, and without what was being worked on."""

import json
import socket
import sqlite3

import pytest
import requests
from dramatiq.errors import ConnectionClosed
from pika.exceptions import ChannelClosedByBroker

from gateway.errors import StoreUnavailable
from gateway.reporting.tracebacks import text_of, trace_of


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause  # noqa: TRY301 - to have been raised is the point
    except BaseException as caught:  # noqa: BLE001 - any kind is given
        return caught


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("telling"),
        OSError("telling"),
        socket.gaierror(-2, "telling"),
        TypeError("telling"),
        ChannelClosedByBroker(404, "telling"),
        sqlite3.OperationalError("telling"),
        ConnectionClosed("telling"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_about_code_and_services_keep_their_text(error: BaseException):
    """An operator needs it, and it holds no values."""
    assert "telling" in text_of(error)
    assert "telling" in trace_of(raised(error))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("canary"),
        KeyError("canary"),
        RuntimeError("canary"),
        Exception("canary"),
        AssertionError("canary"),
        json.JSONDecodeError("canary", "canary", 0),
        UnicodeEncodeError("ascii", "canary", 0, 1, "canary"),
        requests.ConnectionError("canary"),
        ExceptionGroup("canary", [ValueError("canary")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_may_quote_what_was_worked_on_lose_their_text(error: BaseException):
    """requests' errors are OSErrors as well: what counts is who wrote the text."""
    error.add_note("canary")
    assert "canary" not in text_of(error)
    shown = trace_of(raised(StoreUnavailable("gone"), error)).replace(error.__class__.__name__, "")
    assert "canary" not in shown


def test_an_error_without_a_text_shows_its_type():
    """An empty line helps nobody."""
    assert text_of(TimeoutError()) == "TimeoutError"


def test_a_chain_is_shown_from_the_outside_in():
    """What was raised comes first, because a long text is cut at its end."""
    shown = trace_of(raised(StoreUnavailable("gone"), raised(OSError("refused"))))
    assert shown.index("gateway.errors.StoreUnavailable: gone") < shown.index("caused by OSError: refused")
    assert "in raised" in shown


def test_a_chain_in_a_circle_ends():
    """Whoever made it."""
    first, second = raised(OSError("first")), raised(OSError("second"))
    first.__context__, second.__context__ = second, first
    assert trace_of(first).count("first") == 1


def test_a_deep_stack_is_cut_to_the_frames_inside():
    """Where it happened is at the end of a stack."""

    def dig(depth: int) -> None:
        if depth == 0:
            raise OSError("deep")
        bury(depth - 1)

    def bury(depth: int) -> None:
        dig(depth)

    with pytest.raises(OSError, match="deep") as caught:
        dig(100)
    shown = trace_of(caught.value)
    assert shown.count("in dig") + shown.count("in bury") == 20
    assert 'raise OSError("deep")' in shown
