"""Deadlines that end a connection from outside."""

import socket
import threading

import pytest

from gateway.providers.deadlines import Call, Deadlines

pytestmark = pytest.mark.timeout(120)
FAR_S = 1000.0


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    theirs.settimeout(60)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def deadlines():
    deadlines = Deadlines()
    yield deadlines
    assert deadlines.stop(timeout_s=60)


def is_open(ours: socket.socket, theirs: socket.socket) -> bool:
    try:
        ours.sendall(b"x")
        return theirs.recv(1) == b"x"
    except BrokenPipeError:
        return False


def test_a_call_at_its_deadline_wakes_who_waits_on_its_socket(pair, deadlines):
    """A blocking read without a timeout of its own ends."""
    ours, _ = pair
    call = Call(0.01)
    call.attach(ours)
    deadlines.watch(call)

    assert ours.recv(1) == b""
    assert call.expired


def test_an_earlier_deadline_added_later_is_kept(pair, deadlines):
    """The thread is woken out of the longer wait."""
    ours, _ = pair
    asleep = threading.Event()

    class Announced(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            asleep.set()
            return super().wait(timeout)

    deadlines._changed = Announced()
    deadlines.watch(Call(FAR_S))
    assert asleep.wait(60)
    call = Call(0.01)
    call.attach(ours)
    deadlines.watch(call)

    assert ours.recv(1) == b""


def test_a_call_that_is_over_keeps_its_connection(pair):
    """It belongs to the pool, or to another call, by then."""
    call = Call(FAR_S)
    call.attach(pair[0])
    call.finish()
    call.expire()

    assert not call.expired
    assert is_open(*pair)


def test_a_call_that_expires_before_it_has_a_connection_loses_the_one_it_gets(pair):
    """The connect took longer than the deadline."""
    call = Call(FAR_S)
    call.expire()
    call.attach(pair[0])

    assert not is_open(*pair)


def test_a_connection_keeps_its_handle_when_the_call_is_over(pair):
    """It is for the next call on it, too."""
    call = Call(FAR_S)
    call.attach(pair[0])
    call.finish()

    assert pair[0].fileno() != -1


def test_a_call_closes_the_handle_of_a_connection_that_was_closed_before_it(pair):
    """A call leaks nothing, finished once or twice."""
    call = Call(FAR_S)
    call.attach(pair[0])
    assert call.adopt(pair[0])
    assert pair[0].fileno() != -1

    call.finish()
    call.finish()

    assert pair[0].fileno() == -1
    assert not call.adopt(pair[0])


def test_a_peer_that_was_faster_is_no_error(pair):
    """Shutting down a connection that is gone does nothing."""
    call = Call(FAR_S)
    call.attach(pair[0])
    pair[0].shutdown(socket.SHUT_RDWR)
    pair[1].close()

    call.expire()

    assert call.expired


def test_a_forgotten_call_never_expires(deadlines):
    """Not even when its watcher ends."""
    call = Call(FAR_S)
    deadlines.watch(call)
    deadlines.forget(call)
    deadlines.stop(timeout_s=60)

    assert not call.expired


def test_stopping_expires_what_is_still_running(deadlines):
    """A shutdown does not wait for a provider."""
    call = Call(FAR_S)
    deadlines.watch(call)

    assert deadlines.stop(timeout_s=60)
    assert call.expired


def test_stopping_twice_or_before_the_first_call_is_fine():
    """The handle is idempotent."""
    deadlines = Deadlines()

    assert deadlines.stop(timeout_s=0)
    assert deadlines.stop(timeout_s=0)


def test_stopped_deadlines_are_watched_again(pair, deadlines):
    """As after a fork, which leaves the object without its thread."""
    deadlines.watch(Call(FAR_S))
    deadlines.stop(timeout_s=60)
    call = Call(0.01)
    call.attach(pair[0])
    deadlines.watch(call)

    assert pair[0].recv(1) == b""
