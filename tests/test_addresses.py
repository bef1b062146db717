"""Connections to hosts: look-ups that many share, and addresses that do not answer."""

import gc
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from urllib3.util.connection import HAS_IPV6

from gateway.providers import addresses
from gateway.providers.addresses import Address, Addresses

AMPLE_S, SHORT_S = 60.0, 0.1

#: RFC 5737: nobody has this address.
NOWHERE = ("192.0.2.1", 9)


@pytest.fixture
def here() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@pytest.fixture
def refusing() -> Iterator[tuple[str, int]]:
    """An address that refuses connections, and that nobody else can take meanwhile: bound, and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()


@pytest.fixture(autouse=True)
def look_ups_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a thread stands still; a test that is about their end says so."""
    monkeypatch.setattr(addresses, "HELD_S", 3600.0)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Replaces the system's look-up by one that answers with these addresses; returns the names that are asked for."""

    def replace(*found: tuple[str, int] | Exception, until: threading.Event | None = None) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, *_: object, **__: object) -> list[Address]:
            asked.append(host)
            if until is not None:
                assert until.wait(AMPLE_S)
            for one in found:
                if isinstance(one, Exception):
                    raise one
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", one) for one in found if isinstance(one, tuple)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return replace


def test_many_who_ask_at_the_same_time_share_a_look_up(here: tuple[str, int], names: Callable[..., list[str]]):
    """Five hundred calls that begin together ask the name server once."""
    go = threading.Event()
    asked = names(here, until=go)
    shared = Addresses()
    with ThreadPoolExecutor(20) as pool:
        made = [pool.submit(shared.connect, "provider.test", here[1], timeout_s=AMPLE_S) for _ in range(20)]
        go.set()
        for one in made:
            one.result(AMPLE_S).close()
    assert asked == ["provider.test"]


def test_a_look_up_is_done_again_after_a_while(
    here: tuple[str, int], names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
):
    """A provider may move."""
    asked = names(here)
    shared = Addresses()
    shared.connect("provider.test", here[1], timeout_s=AMPLE_S).close()
    monkeypatch.setattr(addresses, "HELD_S", 0.0)
    shared.connect("provider.test", here[1], timeout_s=AMPLE_S).close()
    assert len(asked) == 2


def test_a_look_up_that_fails_is_not_kept(here: tuple[str, int], names: Callable[..., list[str]]):
    """The name server was away for a moment."""
    shared = Addresses()
    names(socket.gaierror(socket.EAI_AGAIN, "away"))
    with pytest.raises(socket.gaierror):
        shared.connect("provider.test", here[1], timeout_s=AMPLE_S)
    names(here)
    shared.connect("provider.test", here[1], timeout_s=AMPLE_S).close()


def test_an_address_that_nobody_answers_at_is_looked_up_again(
    here: tuple[str, int], refusing: tuple[str, int], names: Callable[..., list[str]]
):
    """It may have moved within the time that a look-up is kept for."""
    shared = Addresses()
    names(refusing)
    with pytest.raises(ConnectionRefusedError):
        shared.connect("provider.test", here[1], timeout_s=AMPLE_S)
    names(here)
    shared.connect("provider.test", here[1], timeout_s=AMPLE_S).close()


def test_an_address_that_hangs_leaves_time_for_the_next(
    here: tuple[str, int], names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
):
    """Each has its share of the time; the last one has what is left."""
    granted: list[float] = []
    connect = addresses._connect

    def hanging(address: Address, timeout_s: float, options: addresses.Options) -> socket.socket:
        granted.append(timeout_s)
        if address[4] == NOWHERE:
            raise TimeoutError
        return connect(address, timeout_s, options)

    monkeypatch.setattr(addresses, "_connect", hanging)
    monkeypatch.setattr(addresses, "time", SimpleNamespace(monotonic=lambda: 0.0))
    names(NOWHERE, NOWHERE, here)
    with Addresses().connect("provider.test", here[1], timeout_s=90.0) as sock:
        granted.append(sock.gettimeout() or 0.0)
    assert granted == [30.0, 45.0, 90.0, 90.0]


def test_nobody_waits_longer_for_a_look_up_than_it_wants_to(here: tuple[str, int], names: Callable[..., list[str]]):
    """It goes on by itself, and the others get what it finds."""
    go = threading.Event()
    asked = names(here, until=go)
    shared = Addresses()
    try:
        with pytest.raises(TimeoutError):
            shared.connect("provider.test", here[1], timeout_s=SHORT_S)
    finally:
        go.set()
    shared.connect("provider.test", here[1], timeout_s=AMPLE_S).close()
    assert len(asked) == 1


def test_who_failed_with_an_old_look_up_leaves_a_newer_one(
    here: tuple[str, int], names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
):
    """Many fail at about the same time, and only the first of them asks again."""
    asked = names(here)
    shared = Addresses()
    old = shared._look_up("provider.test", here[1])
    with monkeypatch.context() as patch:
        patch.setattr(addresses, "HELD_S", 0.0)
        shared._look_up("provider.test", here[1]).result(AMPLE_S)
    shared._forget("provider.test", here[1], old)
    shared.connect("provider.test", here[1], timeout_s=AMPLE_S).close()
    assert len(asked) == 2


def test_a_host_without_an_address_is_an_error_of_look_up(names: Callable[..., list[str]]):
    """An empty answer is as good as none."""
    names()
    with pytest.raises(socket.gaierror):
        Addresses().connect("provider.test", 80, timeout_s=AMPLE_S)


IPV6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=IPV6), pytest.param("[::1]", marks=IPV6)])
def test_a_literal_address_is_not_looked_up(names: Callable[..., list[str]], host: str):
    """Nor handed to a thread."""
    asked = names(NOWHERE)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host.strip("[]"), 0), family=family) as listener,
        Addresses().connect(host, listener.getsockname()[1], timeout_s=AMPLE_S) as sock,
    ):
        assert sock.family == family
    assert asked == []


def test_a_connection_has_its_options(here: tuple[str, int]):
    """They are set before it connects."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    with Addresses().connect(*here, timeout_s=AMPLE_S, options=options) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_thread_that_cannot_start_costs_its_own_call_only(
    here: tuple[str, int], names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
):
    """The next call looks up for itself: nobody waits for an answer that nobody works on."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    names(here)
    shared = Addresses()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError):
            shared.connect("provider.test", here[1], timeout_s=AMPLE_S)
    shared.connect("provider.test", here[1], timeout_s=AMPLE_S).close()


def test_an_address_that_failed_keeps_no_call_alive(
    here: tuple[str, int], refusing: tuple[str, int], names: Callable[..., list[str]]
):
    """A call holds a key and a prompt; a full garbage collection may be hours away."""
    names(refusing, here)

    class Prompt:
        pass

    def call() -> "weakref.ref[Prompt]":
        prompt = Prompt()
        Addresses().connect("provider.test", here[1], timeout_s=AMPLE_S).close()
        return weakref.ref(prompt)

    gc.collect()
    gc.disable()
    try:
        assert call()() is None
    finally:
        gc.enable()


def test_what_can_be_no_name_is_not_looked_up(names: Callable[..., list[str]]):
    """Under gevent the error of another thread would be printed by it."""
    asked = names()
    with pytest.raises(UnicodeError):
        Addresses().connect("a" * 64 + ".test", 80, timeout_s=AMPLE_S)
    assert asked == []
