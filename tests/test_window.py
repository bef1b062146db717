"""The bound on what a publisher holds."""

import threading
from concurrent.futures import ThreadPoolExecutor

from gateway.rabbitmq.window import Window


def test_messages_are_counted():
    """The one too many stays outside until another leaves."""
    window = Window(messages=2, size=100)
    assert window.enter(1, 0)
    assert window.enter(1, 0)
    assert not window.enter(1, 0)
    window.leave(1)
    assert window.enter(1, 0)


def test_bytes_are_counted():
    """Few large messages fill it as well as many small ones."""
    window = Window(messages=100, size=10)
    assert window.enter(6, 0)
    assert not window.enter(5, 0)
    assert window.enter(4, 0)


def test_a_message_larger_than_the_window_enters_alone():
    """Else it would wait for ever."""
    window = Window(messages=100, size=10)
    assert window.enter(1, 0)
    assert not window.enter(11, 0)
    window.leave(1)
    assert window.enter(11, 0)


def test_who_waits_enters_when_there_is_a_place():
    """Woken by the one who leaves."""
    window = Window(messages=1, size=10)
    assert window.enter(1, 0)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(window.enter, 1, 60.0)
        window.leave(1)
        assert waiting.result(60)


def test_a_closed_window_lets_nobody_in():
    """And turns away who waits, at once."""
    window = Window(messages=1, size=10)
    assert window.enter(1, 0)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(window.enter, 1, 60.0)
        window.close()
        assert not waiting.result(60)
    assert not Window.enter(window, 1, 0)


def test_empty_means_that_all_have_left():
    """What a stop waits for."""
    window = Window(messages=2, size=10)
    assert window.wait_empty(0)
    window.enter(1, 0)
    assert not window.wait_empty(0)
    threading.Timer(0, window.leave, (1,)).start()
    assert window.wait_empty(60)
