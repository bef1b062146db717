"""Log lines: their form, and what never stands on one."""

import io
import json
import logging
import re
import subprocess
import sys
import threading
import time
import warnings
from types import SimpleNamespace

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from gateway.reporting import logs
from gateway.reporting.logs import request_id_var

KEY = "sk-or-v1-canary-key-1111"
PASSWORD = "canary/password"
PROMPT = "canary-prompt: tell me about queues"
#: A line of the text format: time, logger, level, and the rest.
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - (\S+) - ([A-Z]+) - (.*)")


class Log:
    """What one configuration of the process's logging has written."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().split("\n")[:-1]

    @property
    def line(self) -> str:
        (line,) = self.lines
        return line

    @property
    def facts(self) -> dict[str, str]:
        return json.loads(self.line)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch):
    """Configures the logging of this process, for one test."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    names = [*logs.FLOORS, "py.warnings"]
    levels = {name: logging.getLogger(name).level for name in ["", *names]}

    def configure(*, log_format: str = "text", log_level: str = "DEBUG") -> Log:
        log = Log()
        settings = SimpleNamespace(log_format=log_format, log_level=log_level, secrets=lambda: [KEY, PASSWORD])
        logs.configure(settings, stream=log.stream)
        return log

    yield configure
    logging.captureWarnings(capture=False)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def text(configured) -> Log:
    return configured()


@pytest.fixture(params=["text", "json"])
def log(request: pytest.FixtureRequest, configured) -> Log:
    """Once in each format: what follows holds for both."""
    return configured(log_format=request.param)


@pytest.fixture
def working_on():
    """Sets the request that this thread works on."""
    tokens = []
    yield lambda request_id: tokens.append(request_id_var.set(request_id))
    for token in reversed(tokens):
        request_id_var.reset(token)


def broken(work: str) -> ValueError:
    """An exception of Python that quotes what was being worked on, and has been raised."""
    try:
        int(work)
    except ValueError as error:
        return error
    raise AssertionError


# Form


def test_a_line_has_time_logger_level_and_request(text: Log, working_on):
    """The documented text format."""
    working_on("r-1")
    logging.getLogger("bridge.requests").info("Received request (retry_count=%d)", 0)
    assert LINE.fullmatch(text.line)
    assert text.line.endswith(" - bridge.requests - INFO - [r-1] Received request (retry_count=0)")


def test_a_line_without_a_request_has_no_brackets(text: Log):
    """As at boot."""
    logging.getLogger("bridge").info("Stopping")
    assert text.line.endswith(" - bridge - INFO - Stopping")


def test_times_are_utc(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Wherever the machine stands, in both formats."""
    request.addfinalizer(time.tzset)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        record = logging.LogRecord("a", logging.INFO, "a.py", 1, "text", None, None)
        record.created = 1_735_689_601.25
        text, facts = logs.TextFormatter().format(record), json.loads(logs.JsonFormatter().format(record))
    assert text == "2025-01-01 00:00:01 - a - INFO - text"
    assert facts["time"] == "2025-01-01T00:00:01.250Z"


def test_json_has_what_a_line_says_as_fields(configured, working_on):
    """Masked like all that is logged; what has no value is left out."""
    log = configured(log_format="json")
    logging.getLogger("a").info("Waiting", extra=logs.facts("waiting", wait_s=60.0, cost_usd=None, model=f"m-{KEY}"))
    assert (log.facts["event"], log.facts["wait_s"]) == ("waiting", 60.0)
    assert "cost_usd" not in log.facts
    assert KEY not in log.line


def test_json_has_the_same_facts(configured, working_on):
    """One object a line; what has no value is left out."""
    log = configured(log_format="json")
    working_on("r-1")
    logging.getLogger("bridge.requests").warning("Größe %d", 1)
    facts = log.facts
    assert facts.pop("time").endswith("Z")
    assert facts == {"logger": "bridge.requests", "level": "WARNING", "request_id": "r-1", "message": "Größe 1"}


def test_each_thread_has_a_request_of_its_own(text: Log, working_on):
    """One worker thread never writes another's id."""
    working_on("r-1")
    other = threading.Thread(target=logging.getLogger("actors").info, args=("Idle",))
    other.start()
    other.join()
    assert "r-1" not in text.line


def test_lines_below_the_level_are_not_written(configured):
    """LOG_LEVEL."""
    log = configured(log_level="WARNING")
    logging.getLogger("bridge").info("Stopping")
    assert log.lines == []


def test_everything_in_the_process_goes_through_one_handler(text: Log):
    """Libraries with handlers of their own, warnings, whatever was configured before."""
    stray = io.StringIO()
    library = logging.getLogger("some.library")
    library.addHandler(logging.StreamHandler(stray))
    library.propagate = False
    log = Log()
    logs.configure(SimpleNamespace(log_format="text", log_level="INFO", secrets=list), stream=log.stream)
    library.info("one")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("two", UserWarning, stacklevel=1)
    assert stray.getvalue() == ""
    assert text.lines == []
    assert log.lines[0].endswith(" - some.library - INFO - one")
    assert " - py.warnings - WARNING - " in log.lines[1]


# Forgery


@pytest.mark.parametrize("end", ["\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x1b[2K\r", "\x00"])
def test_no_value_can_forge_a_line(log: Log, working_on, end: str):
    """S6: one record is one line of visible characters, whatever stands in request id, argument or exception."""
    forged = f"x{end}2025-01-01 00:00:00 - bridge - INFO - Stopping"
    working_on(forged)
    logging.getLogger("bridge").error("Refused %s", forged, exc_info=OSError(forged))
    assert end not in log.line
    assert len(log.line.splitlines()) == 1


def test_a_long_request_id_is_cut(text: Log, working_on):
    """A producer chooses it."""
    working_on("r" * 1000)
    logging.getLogger("bridge").info("Received request")
    assert len(text.line) < 400


def test_a_long_text_is_cut(log: Log):
    """A line stays something that a person can read and a platform takes."""
    logging.getLogger("bridge").info("%s", "word " * 100_000)
    assert len(log.line) < logs.LONGEST_TEXT + 200


# Secrets


def test_a_secret_is_masked_wherever_it_stands(log: Log, working_on):
    """S3: message, argument, request id, exception; also percent-encoded, as in a URL."""
    working_on(f"id-{KEY}")
    logging.getLogger("bridge").error("%s %s", KEY, "canary%2Fpassword", exc_info=OSError(f"no {PASSWORD}"))
    assert "canary" not in log.line
    assert "****" in log.line


def test_a_uuid_is_shown_as_it_is_unless_it_is_a_secret(working_on):
    """What ids are by habit takes a short cut; a password can look like one."""
    usual, password = "7f8d1a52-3c1e-4f0b-9a57-0d1f2b3c4d5e", "00000000-3c1e-4f0b-9a57-0d1f2b3c4d5e"
    form = logs.TextFormatter([password])
    record = logging.LogRecord("a", logging.INFO, "a.py", 1, "text", None, None)
    for request_id, shown in ((usual, usual), (password, "****")):
        working_on(request_id)
        assert form.format(record).endswith(f" - [{shown}] text")


def test_a_cut_never_leaves_half_a_secret(log: Log):
    """Half a password does not look like one."""
    for before in range(logs.LONGEST_TEXT - 2 * len(PASSWORD), logs.LONGEST_TEXT + 2):
        logging.getLogger("bridge").info("%s%s", "x" * before, PASSWORD)
    assert not [line for line in log.lines if "can" in line]


def test_a_foreign_exception_is_logged_without_its_text(log: Log):
    """P4: it may quote what was being worked on; its type and the place are what helps."""
    logging.getLogger("actors").error("Failed", exc_info=broken(PROMPT))
    assert "canary" not in log.line
    assert "ValueError (text withheld)" in log.line
    assert "in broken" in log.line


def test_a_foreign_exception_as_an_argument_is_logged_without_its_text(log: Log):
    """`logger.error("…: %s", error)` is the other way that one gets there."""
    logging.getLogger("actors").error("Failed: %s", broken(PROMPT))
    logging.getLogger("actors").error(broken(PROMPT))
    assert "canary" not in "".join(log.lines)
    assert all("ValueError (text withheld)" in line for line in log.lines)


@pytest.fixture
def stock_encoder():
    """Dramatiq's own: ours, which another test may have set, takes messages of our actors only."""
    ours = dramatiq.get_encoder()
    dramatiq.set_encoder(dramatiq.JSONEncoder())
    yield
    dramatiq.set_encoder(ours)


@pytest.mark.usefixtures("stock_encoder")
def test_dramatiq_never_prints_arguments_at_debug(log: Log):
    """P4: it logs what an actor is called with, through a logger named after the actor's own module."""
    broker = StubBroker(middleware=[])
    called: list[str] = []
    actor = dramatiq.Actor(called.append, broker=broker, actor_name="a", queue_name="q", priority=0, options={})
    broker.declare_actor(actor)
    actor.send(PROMPT)
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=50)
    worker.start()
    broker.join("q", timeout=60_000)
    worker.stop()
    assert called == [PROMPT]
    assert "canary" not in "".join(log.lines)


def test_our_own_lines_at_debug_are_written(configured):
    """That is what LOG_LEVEL=DEBUG is for."""
    log = configured()
    record = logging.LogRecord("a", logging.DEBUG, logs.__file__, 1, "ours", None, None)
    logging.getLogger("gateway.reporting.logs").handle(record)
    logging.getLogger("somebody.else").debug("theirs")
    assert log.line.endswith("ours")


def test_a_line_that_cannot_be_written_does_not_print_its_arguments(text: Log, capsys: pytest.CaptureFixture[str]):
    """Python's logging shows them on stderr, unmasked."""
    (handler,) = [one for one in logging.getLogger().handlers if getattr(one, "stream", None) is text.stream]
    handler.handle(logging.LogRecord("bridge", logging.INFO, __file__, 1, "%d of %s", (PROMPT,), None))
    assert text.line.startswith("A log line of bridge at test_logs.py:1 ")
    assert "canary" not in text.line + "".join(capsys.readouterr())


def test_what_ends_a_thread_is_logged(log: Log):
    """Python would print the exception's text to stderr."""
    thread = threading.Thread(target=int, args=(PROMPT,), name="publisher")
    thread.start()
    thread.join()
    assert "The thread publisher ends" in log.line
    assert "canary" not in log.line


def test_what_ends_the_process_is_logged():
    """In a process of its own, from which nothing unmasked comes out."""
    program = """if True:
        import sys
        from types import SimpleNamespace
        from gateway.reporting import logs
        logs.configure(SimpleNamespace(log_format="text", log_level="INFO", secrets=list), stream=sys.stderr)
        int("can" + "ary")
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "The process ends" in ended.stderr
    assert "canary" not in ended.stderr + ended.stdout
