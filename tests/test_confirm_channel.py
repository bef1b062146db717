"""When messages can be sent: connected, in confirm mode and no alarm, in whichever order these come."""

import threading
from collections import deque
from types import SimpleNamespace

import pika
import pytest
from pika.exceptions import ConnectionClosedByBroker

from gateway.rabbitmq import amqp
from gateway.rabbitmq.confirm_channel import ConfirmChannel, Settled
from gateway.rabbitmq.in_flight import Outgoing


class Owner:
    """Counts how often it may send."""

    def __init__(self) -> None:
        self.turns = 0

    def on_ready(self) -> None:
        self.turns += 1

    def on_settled(self, outgoing: Outgoing, settled: Settled) -> None:
        raise AssertionError

    def on_lost(self, lost: list[Outgoing], blame: str | None) -> None:
        assert lost == []


class Connection:
    """An open connection that notes which channels were asked for."""

    is_open = True

    def __init__(self) -> None:
        self.channels = 0

    def channel(self, on_open_callback: object) -> None:
        self.channels += 1


@pytest.fixture
def channel() -> ConfirmChannel:
    parameters = amqp.parameters("amqp://guest:guest@127.0.0.1:1/", name="test")
    found = ConfirmChannel(parameters, Owner(), stopping=threading.Event())
    found._connection = Connection()
    found._loop = SimpleNamespace(call_later=lambda _seconds, _call: None)
    return found


class Closed:
    """Why RabbitMQ closed a channel."""

    reply_code, reply_text = 406, "PRECONDITION_FAILED"


def test_a_channel_that_opens_during_an_alarm_is_not_ready(channel: ConfirmChannel):
    """Only the end of the alarm makes it so."""
    channel._on_blocked(None, None)
    channel._on_confirm_mode(object())
    assert not channel.ready.is_set()
    channel._on_unblocked(None, None)
    assert channel.ready.is_set()
    assert channel._owner.turns == 1


def test_an_alarm_that_ends_while_there_is_no_channel_leaves_it_not_ready(channel: ConfirmChannel):
    """Only the new channel makes it so."""
    channel._on_confirm_mode(object())
    channel._on_blocked(None, None)
    channel._on_channel_closed(None, Closed())
    channel._on_unblocked(None, None)
    assert not channel.ready.is_set()
    channel._on_confirm_mode(object())
    assert channel.ready.is_set()


def test_an_alarm_of_the_last_connection_says_nothing_about_the_next(channel: ConfirmChannel):
    """It may be over, and nobody would say so."""
    channel._on_blocked(None, None)

    class Fresh(Connection):
        _transport = SimpleNamespace(_tx_buffers=deque())

        def add_on_connection_blocked_callback(self, callback: object) -> None: ...
        def add_on_connection_unblocked_callback(self, callback: object) -> None: ...

    channel._on_open(Fresh())
    channel._on_confirm_mode(object())
    assert channel.ready.is_set()


def test_a_closed_channel_is_opened_again(channel: ConfirmChannel):
    """The connection is fine."""
    channel._on_confirm_mode(object())
    channel._on_channel_closed(None, Closed())
    assert not channel.ready.is_set()
    assert channel._connection.channels == 1


def test_pauses_between_connections_grow_to_a_limit(channel: ConfirmChannel):
    """From a fifth of a second to five, give or take a quarter."""
    pauses = [channel.next_pause_s() for _ in range(10)]
    assert pauses[0] <= amqp.FIRST_PAUSE_S * 1.25
    assert amqp.LONGEST_PAUSE_S * 0.75 <= pauses[-1] <= amqp.LONGEST_PAUSE_S * 1.25


class Waiting:
    """An owner that takes back what is lost."""

    def __init__(self) -> None:
        self.lost: list[Outgoing] = []

    def on_ready(self) -> None:
        """It sends nothing by itself."""

    def on_settled(self, outgoing: Outgoing, settled: Settled) -> None:
        raise AssertionError

    def on_lost(self, lost: list[Outgoing], blame: str | None) -> None:
        self.lost += lost


@pytest.mark.parametrize("ends", ["_on_connection_lost", "abandon"])
def test_a_direct_reply_that_is_asked_about_comes_back_once_when_the_connection_goes(ends: str):
    """It is sent over the next one, after the question was asked again there."""
    owner = Waiting()
    parameters = amqp.parameters("amqp://guest:guest@127.0.0.1:1/", name="test")
    channel = ConfirmChannel(parameters, owner, stopping=threading.Event())
    channel._connection, channel._loop = Connection(), SimpleNamespace(call_later=lambda *_: None)
    outgoing = Outgoing("amq.rabbitmq.reply-to.x", b"", pika.BasicProperties(), 0.0)
    assert channel.send(outgoing)
    assert (channel.unanswered, outgoing.sent) == ([outgoing], False)
    if ends == "abandon":
        channel.abandon()
    else:
        channel._on_connection_lost(None, ConnectionClosedByBroker(320, "CONNECTION_FORCED"))
    channel.abandon()
    assert (channel.unanswered, owner.lost) == ([], [outgoing])
