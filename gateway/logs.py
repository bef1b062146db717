"""Log lines: one format for everything in the process, the request id on each, and no secret on any.

    2025-01-01 00:00:01 - bridge.relay - INFO - [<request_id>] Received request (retry_count=0)

Times are UTC. With LOG_FORMAT=json each line is an object of the same facts: time, logger, level, request_id,
message, exception.
"""

import json
import logging
import time
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from gateway.redaction import escape_controls, redact

if TYPE_CHECKING:
    from gateway.settings import Settings

#: The request that the current thread works on; every log line carries it.
request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)

#: The most that is kept of one log text, in characters.
LONGEST_TEXT = 4000

#: Loggers that would print frames, bodies or arguments at DEBUG, or repeat what we say better; their lowest level.
FLOORS = {
    "pika": logging.CRITICAL,  # our own lines say what happened to a connection
    "urllib3": logging.WARNING,
    "sentry_sdk": logging.WARNING,
    "sentry_sdk.errors": logging.WARNING,
}


def configure(settings: "Settings", stream: TextIO) -> None:
    """Send every log line of the process to `stream`, in the configured format, and from nowhere else."""
    handler = logging.StreamHandler(stream)
    form = JsonFormatter if settings.log_format == "json" else TextFormatter
    handler.setFormatter(form(settings.secrets()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    logging.captureWarnings(capture=True)
    for name, floor in FLOORS.items():
        logging.getLogger(name).setLevel(max(floor, root.level))


class TextFormatter(logging.Formatter):
    """`time - logger - LEVEL - [request_id] message`; one record is one line, whatever is in it."""

    default_time_format = "%Y-%m-%d %H:%M:%S"
    default_msec_format = None

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self.converter = time.gmtime
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        request_id = request_id_var.get()
        shown = f"[{escape_controls(request_id)}] " if request_id else ""
        text = _text(record, self._secrets)
        if (exception := _exception(self, record, self._secrets)) is not None:
            text = f"{text} | {exception}"
        return f"{self.formatTime(record)} - {record.name} - {record.levelname} - {shown}{text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, str] = {"time": at, "logger": record.name, "level": record.levelname}
        if request_id := request_id_var.get():
            line["request_id"] = escape_controls(request_id)
        line["message"] = _text(record, self._secrets)
        if (exception := _exception(self, record, self._secrets)) is not None:
            line["exception"] = exception
        return json.dumps(line, ensure_ascii=False)


def _text(record: logging.LogRecord, secrets: tuple[str, ...]) -> str:
    return redact(record.getMessage()[:LONGEST_TEXT], secrets)


def _exception(formatter: logging.Formatter, record: logging.LogRecord, secrets: tuple[str, ...]) -> str | None:
    if record.exc_info is None or record.exc_info[0] is None:
        return None
    return redact(formatter.formatException(record.exc_info)[-LONGEST_TEXT:], secrets)
