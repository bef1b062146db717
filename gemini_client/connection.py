"""One connection of pika's and the thread that owns it: it serves heartbeats while nobody asks for anything."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pika
from pika.exceptions import AMQPError, NackError, UnroutableError

from gemini_client.errors import ClientError, NotSent

#: The thread looks at least so often whether it is to end, in seconds; a job wakes it at once.
LOOK_S = 1.0

#: RabbitMQ has so many seconds to let us in, and to take messages again when it has blocked us.
CONNECT_S, BLOCKED_S = 10.0, 30.0

Job = Callable[[Any], None]


class Connection:
    """Runs jobs on a channel with publisher confirms, in order, on one thread; connects at the next job after a loss.

    `opened` makes a new channel ready, `lost` is called when there was one and it is gone.
    """

    def __init__(self, url: str, *, opened: Job, lost: Callable[[], None]) -> None:
        self._parameters = pika.URLParameters(url)
        self._parameters.socket_timeout = self._parameters.stack_timeout = CONNECT_S
        self._parameters.blocked_connection_timeout = BLOCKED_S
        self._parameters.client_properties = {"connection_name": "gemini-client"}
        self._opened, self._lost = opened, lost
        self._jobs: deque[tuple[Job, Future[None]]] = deque()
        self._wanted = threading.Event()
        self._closing = self._ended = False
        self._connection: pika.BlockingConnection | None = None
        self._channel: Any = None
        self._thread = threading.Thread(target=self._run, name="gemini-client", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> "Future[None]":
        """The job's end; it fails with what the job raises, NotSent where there is no connection."""
        done: Future[None] = Future()
        self._jobs.append((job, done))
        self._wake()
        if self._ended:
            self._refuse(_closed())
        return done

    def close(self) -> None:
        """Idempotent. Returns when the connection is closed; not from the thread itself."""
        self._closing = True
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        self._wanted.set()
        if (connection := self._connection) is not None:
            with suppress(AMQPError):  # it has just ended, which wakes the thread as well
                connection.add_callback_threadsafe(lambda: None)

    def _run(self) -> None:
        while not self._closing:
            try:
                self._work()
            except (AMQPError, OSError):
                self._drop()
                self._lost()
                if self._jobs:
                    self._wanted.set()
        self._end()

    def _end(self) -> None:
        if self._connection is not None:
            with suppress(AMQPError, OSError):
                self._connection.process_data_events(time_limit=0)  # acks that are on the way
        self._drop()
        self._lost()
        self._ended = True
        self._refuse(_closed())

    def _work(self) -> None:
        if self._connection is None:
            self._wanted.wait()
            if self._closing or not self._is_connected():
                return
        self._wanted.clear()
        while self._jobs:
            self._do(*self._jobs.popleft())
        if self._connection is not None:
            self._connection.process_data_events(time_limit=LOOK_S)

    def _is_connected(self) -> bool:
        try:
            self._connection = pika.BlockingConnection(self._parameters)
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
            self._opened(self._channel)
        except (AMQPError, OSError, ClientError) as error:
            self._drop()
            self._wanted.clear()
            self._refuse(error if isinstance(error, ClientError) else _away(self._parameters, error))
            return False
        return True

    def _do(self, job: Job, done: "Future[None]") -> None:
        try:
            job(self._channel)
        except (ClientError, NackError, UnroutableError) as error:  # the channel is as it was
            done.set_exception(error)
        except BaseException as error:
            done.set_exception(error)
            raise
        else:
            done.set_result(None)

    def _refuse(self, why: ClientError) -> None:
        with suppress(IndexError):
            while True:
                self._jobs.popleft()[1].set_exception(why)

    def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with suppress(AMQPError, OSError):
                connection.close()


def _closed() -> NotSent:
    return NotSent("the client is closed")


def _away(parameters: pika.URLParameters, error: Exception) -> NotSent:
    """Names no user and no password."""
    return NotSent(f"RabbitMQ at {parameters.host}:{parameters.port} does not let us in ({type(error).__name__})")
