"""Connections to RabbitMQ: how, and a connect that waits for a server but not for a wrong password."""

import logging
import random
import socket
import ssl
import threading
import time

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from gateway.errors import TopologyError
from gateway.rabbitmq.coalesced import coalesce
from gateway.reporting.redaction import redact
from gateway.settings.remarks import LONGEST_HEARTBEAT_S, SHORTEST_HEARTBEAT_S

#: Where the URL asks for none.
HEARTBEAT_S = LONGEST_HEARTBEAT_S

#: Pauses between tries to connect grow from the first to the second, in seconds.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0

#: AMQP reply codes of a server that will not change its mind by itself.
ACCESS_REFUSED, NOT_ALLOWED = 403, 530

logger = logging.getLogger(__name__)


def parameters(url: str, *, name: str) -> pika.URLParameters:
    """Connection parameters for a URL; `name` is what an operator sees in RabbitMQ's list of connections."""
    found = pika.URLParameters(url)
    found.heartbeat = _heartbeat_s(found.heartbeat)
    found.connection_attempts = 1  # who connects tries again, and can be stopped in between
    found.socket_timeout = 5.0
    found.stack_timeout = 10.0
    # An alarm may last for hours and is waited out; publishes have deadlines of their own.
    found.blocked_connection_timeout = None
    found.client_properties = {"connection_name": f"gemini-{name}"}
    return found


def _heartbeat_s(wanted: int | None) -> int:
    """What the URL asks for, within the limits; 0 would be none."""
    if wanted is None or not SHORTEST_HEARTBEAT_S <= wanted <= LONGEST_HEARTBEAT_S:
        return HEARTBEAT_S
    return wanted


def connect(
    found: pika.URLParameters, *, deadline_s: float, stop: threading.Event | None = None
) -> pika.BlockingConnection:
    """A connection, after as many tries as fit into `deadline_s` seconds or until `stop` is set.

    Raises TopologyError with one line for an operator: at once when RabbitMQ refuses user or virtual host, else when
    the time is up.
    """
    stop = stop or threading.Event()
    deadline = time.monotonic() + deadline_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            connection = pika.BlockingConnection(found)
        except (AMQPError, AMQPConnectorException, OSError) as error:
            if (refused := _refusal(found, error)) is not None:
                raise TopologyError(refused) from None
            where = f"RabbitMQ at {found.host}:{found.port} cannot be reached ({_cause(error)})"
        else:
            coalesce(connection)
            return connection
        if stop.is_set() or time.monotonic() + pause_s > deadline:
            raise TopologyError(f"{where}: is it running, and is RABBITMQ_URL right?")
        logger.warning("%s: trying again", where)
        stop.wait(backoff_s(pause_s))
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def server_version(connection: pika.BlockingConnection) -> str:
    """What RabbitMQ says of itself when it greets; empty when it does not."""
    said = getattr(connection._impl, "server_properties", None) or {}  # noqa: SLF001 - pika shows it nowhere else
    version = said.get("version", "")
    return version.decode(errors="replace") if isinstance(version, bytes) else str(version)


def backoff_s(pause_s: float) -> float:
    """`pause_s` give or take a quarter, so that many workers do not come back at the same moment."""
    return pause_s * random.uniform(0.75, 1.25)


def _refusal(found: pika.URLParameters, error: BaseException) -> str | None:
    """The line for a server that refuses us and will go on doing so; None when it may let us in later."""
    where = f"RabbitMQ at {found.host}:{found.port}"
    user = redact(str(found.credentials.username))
    code = error.reply_code if isinstance(error, ConnectionClosedByBroker) else None
    # pika takes any end during the handshake for a refusal, but a server that goes down says nothing, or has no place.
    if any(passing in str(error) for passing in ("StreamLostError", "connection limit", "CONNECTION_FORCED")):
        return None
    if isinstance(error, AuthenticationError | ProbableAuthenticationError) or code == ACCESS_REFUSED:
        return f"{where} refuses the user {user}: check user and password in RABBITMQ_URL"
    if isinstance(_root(error), ssl.SSLCertVerificationError):
        return f"The certificate of {where} is not trusted: name its authority in RABBITMQ_CA_FILE"
    if isinstance(error, ProbableAccessDeniedError) or code == NOT_ALLOWED:
        vhost = redact(found.virtual_host)
        return f"{where} refuses {user} the virtual host {vhost}: check the end of RABBITMQ_URL"
    return None


def _cause(error: BaseException) -> str:
    """The last thing that went wrong, by its type."""
    if "connection limit" in str(error):
        return "its limit of connections is reached"
    inner = _root(error)
    if isinstance(inner, ssl.SSLError):
        return "no TLS on that port, or another version"
    return "host name not found" if isinstance(inner, socket.gaierror) else type(inner).__name__


def _root(error: BaseException) -> object:
    """What was first: pika's own texts are wrapped three times and empty."""
    inner: object = error
    while isinstance(inner, BaseException) and inner.args and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    return getattr(inner, "exception", inner)
