"""Log lines: one format for everything in the process, the request id on each, and no secret on any.

    2025-01-01 00:00:01 - bridge.requests - INFO - [<request_id>] Received request (retry_count=0)

Times are UTC. With LOG_FORMAT=json each line is an object of the same facts: time, logger, level, request_id,
message, exception; and lines about a request have those that `facts` has been given as fields.
"""

import contextlib
import functools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

from gateway.reporting.redaction import escape_controls, redact
from gateway.reporting.tracebacks import text_of, trace_of

if TYPE_CHECKING:
    from gateway.settings import Settings

#: The request that the current thread works on; every log line carries it.
request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)

#: The most that is kept of one log text, in characters.
LONGEST_TEXT = 4000

#: Loggers that would print frames, bodies or arguments at DEBUG, or repeat what we say better; their lowest level.
FLOORS = {
    "dramatiq": logging.INFO,
    "pika": logging.CRITICAL,  # our own lines say what happened to a connection
    "urllib3": logging.WARNING,
    "sentry_sdk": logging.WARNING,
    "sentry_sdk.errors": logging.WARNING,
}

#: Where our own code is. Only that may speak at DEBUG: Dramatiq, for one, prints an actor's arguments there, through a
#: logger that it names after the actor's module, so that no list of loggers would catch it.
_OUR_FOLDERS = tuple(
    f"{Path(__file__).resolve().parents[2] / package}{os.sep}"
    for package in ("actors", "bridge", "console", "gateway", "middleware")
)

#: What logging needs to find out which line of code has logged.
_SRCFILE = logging._srcfile  # noqa: SLF001

_logger = logging.getLogger(__name__)


def configure(settings: "Settings", stream: TextIO) -> None:
    """Send every log line of the process to `stream`, in the configured format, and from nowhere else.

    What ends the process or a thread is logged, too: Python's own report of it is not masked.
    """
    form = JsonFormatter if settings.log_format == "json" else TextFormatter
    handler = _Handler(stream)
    handler.setFormatter(form(settings.secrets()))
    handler.addFilter(_is_ours_or_above_debug)
    logging.captureWarnings(capture=True)
    # No format of ours shows these, and looking them up costs as much as the rest of a record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # Nor does any show which line of code has logged: at DEBUG it is asked where a record comes from, see below.
    logging._srcfile = _SRCFILE if settings.log_level == "DEBUG" else None  # noqa: SLF001 - https://docs.python.org/3/howto/logging.html#optimization
    _take_over()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name, floor in FLOORS.items():
        logging.getLogger(name).setLevel(max(floor, root.level))
    sys.excepthook = _report
    threading.excepthook = _report_thread


def mask_also(secrets: Iterable[str]) -> None:
    """From now on these are on no line either."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler) and isinstance(handler.formatter, _Lines):
            handler.setFormatter(type(handler.formatter)((*handler.formatter.secrets, *secrets)))


def facts(event: str, **fields: object) -> dict[str, Any]:
    """The `extra` of a log call: what the line says, as fields of its JSON form; those that are None are left out."""
    return {"facts": {"event": event, **fields}}


class _Lines(logging.Formatter):
    """What both formats share: the texts of a record, masked and on one line."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self.secrets = tuple(dict.fromkeys(secrets))
        self._spellings = {spelling for secret in self.secrets for spelling in (secret, quote(secret, safe=""))}
        # A request has several lines, one after the other.
        self._shown_id = functools.lru_cache(maxsize=1024)(lambda name: escape_controls(self._masked(name)))

    def _request_id(self) -> str | None:
        request_id = request_id_var.get()
        return self._shown_id(request_id) if request_id else None

    def _message(self, record: logging.LogRecord) -> str:
        return self._masked(_interpolated(record))

    def _exception(self, record: logging.LogRecord) -> str | None:
        if record.exc_info is None or record.exc_info[1] is None:
            return None
        return self._masked(trace_of(record.exc_info[1]))

    def _masked(self, text: str) -> str:
        # Cut twice: first what bounds the work, then, behind every secret that the first cut may have halved, the rest.
        text = text[: 2 * LONGEST_TEXT]
        for spelling in self._spellings:
            if spelling in text:
                return redact(text, self.secrets)[:LONGEST_TEXT]
        return redact(text)[:LONGEST_TEXT]  # most lines hold none of the secrets, and finding that out is cheap


class TextFormatter(_Lines):
    """`time - logger - LEVEL - [request_id] message | exception`; one record is one line, whatever is in it."""

    @staticmethod
    @functools.lru_cache(maxsize=4)  # a second has many lines
    def _at(second: int) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second))

    def format(self, record: logging.LogRecord) -> str:
        request_id = self._request_id()
        shown = f"[{request_id}] " if request_id else ""
        exception = self._exception(record)
        tail = f" | {exception}" if exception else ""
        at = self._at(int(record.created))
        return f"{at} - {record.name} - {record.levelname} - {shown}{self._message(record)}{tail}"


class JsonFormatter(_Lines):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {
            "time": at,
            "logger": record.name,
            "level": record.levelname,
            "request_id": self._request_id(),
            "message": self._message(record),
            "exception": self._exception(record),
            **{name: self._masked_value(value) for name, value in getattr(record, "facts", {}).items()},
        }
        return json.dumps({name: value for name, value in line.items() if value is not None}, ensure_ascii=False)

    def _masked_value(self, value: object) -> object:
        return value if value is None or isinstance(value, int | float) else self._masked(str(value))


class _Handler(logging.StreamHandler[TextIO]):
    """Makes a line before it takes the lock: many threads log at once, and most of the work is in the line."""

    def handle(self, record: logging.LogRecord) -> bool:
        passed = bool(self.filter(record))
        if passed:
            try:
                line = self.format(record) + self.terminator
                with self.lock or contextlib.nullcontext():
                    self.stream.write(line)
                    self.stream.flush()
            except Exception:  # noqa: BLE001 - as logging does
                self.handleError(record)
        return passed

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say where a line was lost; logging itself would print its arguments, and with them whatever they hold."""
        where = f"{record.name} at {record.filename}:{record.lineno}" if record.lineno else record.name
        with contextlib.suppress(OSError, ValueError):  # of a stream that is closed: nobody is there to be told
            self.stream.write(f"A log line of {where} could not be written\n")


def _is_ours_or_above_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG or record.pathname.startswith(_OUR_FOLDERS)


def _interpolated(record: logging.LogRecord) -> str:
    """The record's message; of an exception among its arguments only what is fit to show."""
    if isinstance(record.msg, BaseException):
        return text_of(record.msg)
    if not isinstance(record.args, tuple) or not any(isinstance(arg, BaseException) for arg in record.args):
        return record.getMessage()
    return str(record.msg) % tuple(text_of(arg) if isinstance(arg, BaseException) else arg for arg in record.args)


def _take_over() -> None:
    """Make every logger that exists hand its records to the root."""
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    _logger.critical("The process ends: nothing has caught this", exc_info=(kind, error, trace))


def _report_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread is not None else "?"
        exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
        _logger.critical("The thread %s ends: nothing has caught this", name, exc_info=exc_info)
