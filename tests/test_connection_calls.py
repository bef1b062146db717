"""Calls into the thread of a connection: in order, in bursts, none left behind."""

from collections.abc import Callable
from typing import cast

import pika
import pytest
from pika.exceptions import ConnectionWrongStateError

from gateway.rabbitmq.connection_calls import LINGER_S, ConnectionCalls


class Connection:
    """Processes events as pika does: what came from another thread ends the wait."""

    def __init__(self) -> None:
        self.woken: list[Callable[[], object]] = []
        self.waits: list[float] = []
        self.during: list[Callable[[], object]] = []
        self.is_open = True

    def add_callback_threadsafe(self, callback: Callable[[], object]) -> None:
        if not self.is_open:
            raise ConnectionWrongStateError("closed")
        self.woken.append(callback)

    def process_data_events(self, time_limit: float) -> None:
        self.waits.append(time_limit)
        if self.during:
            self.during.pop(0)()
        while self.woken:
            self.woken.pop()()


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def calls(connection: Connection) -> ConnectionCalls:
    return ConnectionCalls(cast("pika.BlockingConnection", connection))


def test_a_burst_wakes_the_thread_once(connection: Connection, calls: ConnectionCalls):
    """Every wake-up is a system call there, and a timer here."""
    for _ in range(10):
        calls.call_soon(int)
    assert len(connection.woken) == 1


def test_calls_run_in_order(calls: ConnectionCalls):
    """An ack that was asked for first goes first."""
    ran: list[int] = []
    for number in range(5):
        calls.call_soon(lambda number=number: ran.append(number))
    calls.serve(1.0)
    assert ran == [0, 1, 2, 3, 4]


def test_the_first_of_a_burst_waits_for_the_others(connection: Connection, calls: ConnectionCalls):
    """For a moment, and together they wake the thread once."""
    ran: list[str] = []
    connection.during = [
        lambda: calls.call_soon(lambda: ran.append("first")),
        lambda: calls.call_soon(lambda: ran.append("second")),
    ]
    calls.serve(1.0)
    assert connection.waits == [1.0, LINGER_S]
    assert ran == ["first", "second"]
    assert not connection.woken


def test_nobody_waits_for_a_burst_in_a_hurry(connection: Connection, calls: ConnectionCalls):
    """A delivery that has arrived is handed out first."""
    ran: list[str] = []
    connection.during = [lambda: calls.call_soon(lambda: ran.append("call"))]
    calls.serve(1.0, hurry=lambda: True)
    assert connection.waits == [1.0]
    assert ran == ["call"]


def test_an_idle_thread_does_not_linger(connection: Connection, calls: ConnectionCalls):
    calls.serve(1.0)
    assert connection.waits == [1.0]


def test_a_call_that_comes_while_others_run_is_run_too(connection: Connection, calls: ConnectionCalls):
    """At the latest by the next turn, for which it wakes the thread."""
    ran: list[str] = []
    calls.call_soon(lambda: calls.call_soon(lambda: ran.append("inner")))
    calls.serve(1.0)
    calls.serve(1.0)
    assert ran == ["inner"]


def test_a_connection_that_has_ended_takes_no_calls(connection: Connection, calls: ConnectionCalls):
    """The caller hears of it: RabbitMQ gives back what was not acked."""
    connection.is_open = False
    with pytest.raises(ConnectionWrongStateError):
        calls.call_soon(int)
