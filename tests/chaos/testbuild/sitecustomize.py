"""Makes a test build of the product: Python runs this file at start when its folder is on PYTHONPATH.

The product has no code for tests; here its functions are wrapped as their modules are loaded, so that each step

* adds a line to the journal, CHAOS_FOLDER/journal.jsonl, which outlives a SIGKILL;
* ends the process, as SIGKILL would, when CHAOS_FOLDER holds a failpoint for the step and this request.

A failpoint is a file `<step>@<request id>`, or `<step>@any`; taking it away is atomic, so it ends one process once.
Deadlines that only make a test longer are shorter here. With CHAOS_STOCK_SETTLEMENT the worker acks
whatever became of a message, as job systems do: a harness that finds nothing wrong with that would find nothing at all.
"""

import functools
import json
import os
import signal
import sys
import time
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path

FOLDER = os.environ.get("CHAOS_FOLDER", "")
PUBLISH_TIMEOUT_S = 3.0
LEASE_MARGIN_S = 1.0
STOCK_SETTLEMENT = "CHAOS_STOCK_SETTLEMENT" in os.environ


def step(name, request_id, **facts):
    """Note that the step was reached, then end here if a failpoint says so."""
    line = {"at": time.time(), "pid": os.getpid(), "step": name, "id": request_id, **facts}
    with Path(FOLDER, "journal.jsonl").open("ab", buffering=0) as journal:
        journal.write(json.dumps(line).encode() + b"\n")
    for target in (request_id, "any"):
        try:
            Path(FOLDER, f"{name}@{target}").unlink()
        except FileNotFoundError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)


def around(owner, name, *, before=None, after=None):
    """Call `before(*arguments)` and `after(result, *arguments)` around a function."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def wrapped(*arguments, **named):
        if before is not None:
            before(*arguments, **named)
        result = inner(*arguments, **named)
        if after is not None:
            after(result, *arguments, **named)
        return result

    setattr(owner, name, wrapped)


def id_of(attempt):
    if attempt.job is not None:
        return attempt.job.request_id
    return attempt.reply.request_id if attempt.reply is not None else None


def graceful_stop(module):
    from middleware.attempt import attempt_of

    def received(_self, _broker, message):
        step("received", id_of(attempt_of(message)))

    around(module.GracefulStop, "before_process_message", after=lambda _result, *rest: received(*rest))


def openrouter(module):
    def before(_self, request, key, **_named):
        step("before call", request.request_id)

    def after(_completion, _self, request, key, **_named):
        step("after call", request.request_id)

    around(module.OpenRouter, "complete", before=before, after=after)


def ledger(module):
    module.LEASE_MARGIN_S = LEASE_MARGIN_S

    def after(_result, _self, _work, attempt, reply):
        if attempt.stored:
            step("stored", id_of(attempt), message_id=reply.message_id)

    def noted(_result, _self, _work, attempt, *_rest):
        step("noted", id_of(attempt))

    around(module.LedgerMiddleware, "_store", after=after)
    around(module.LedgerMiddleware, "_give_back", after=noted)


def outbox(module):
    module.PUBLISH_TIMEOUT_S = PUBLISH_TIMEOUT_S


def callbacks(module):
    def confirmed(_self, attempt):
        step("confirmed", id_of(attempt), message_id=attempt.reply.message_id)

    def published(_result, _self, attempt):
        step("published", id_of(attempt), message_id=attempt.reply.message_id, outcome=attempt.outcome)

    around(module.Callbacks, "_mark_published", before=confirmed, after=published)


def retry_schedule(module):
    def scheduled(_result, _self, _message, attempt, *_rest):
        step("copy confirmed", id_of(attempt))

    around(module.RetrySchedule, "_schedule", after=scheduled)


def confirm_channel(module):
    def sent(_result, _self, outgoing):
        body = outgoing.body
        if outgoing.queue.startswith("gemini.generate.delay") or outgoing.queue.startswith("gemini.generate.backoff"):
            step("copy sent", json.loads(body)["args"][0]["request"]["request_id"])
        elif not outgoing.queue.startswith(("gemini.generate", "gemini.callbacks", "gemini.requests")):
            properties = outgoing.properties
            step("envelope sent", properties.correlation_id, message_id=properties.message_id)

    around(module.ConfirmChannel, "send", after=sent)


def publisher(module):
    module.Publisher.submit.__kwdefaults__["timeout_s"] = PUBLISH_TIMEOUT_S


def delivery(module):
    def before(self):
        if self._open and module.attempt_of(self).outcome is not None:
            step("before ack", id_of(module.attempt_of(self)), outcome=module.attempt_of(self).outcome)

    def after(_result, self):
        if module.attempt_of(self).outcome is not None:
            step("ack asked", id_of(module.attempt_of(self)))

    around(module.Delivery, "settle", before=before, after=after)
    if STOCK_SETTLEMENT:
        settle = module._settle
        module._settle = lambda channel, tag, *, confirmed: settle(channel, tag, confirmed=True)


def relay(module):
    def relayed(_result, _self, request, **_named):
        step("bridge: relayed", request.request_id)

    def received(_self, _channel, _method, properties, _body):
        step("bridge: received", properties.message_id)

    def settle(_self, _channel, _tag, *, confirmed):
        if confirmed:
            step("bridge: before ack", None)

    around(module.Relay, "_on_message", before=received)
    around(module.Relay, "_relay", after=relayed)
    around(module.Relay, "_settle", before=settle, after=lambda _result, *_rest, **_named: step("bridge: acked", None))


CHANGES = {
    "middleware.graceful_stop": graceful_stop,
    "middleware.ledger": ledger,
    "middleware.outbox": outbox,
    "middleware.callbacks": callbacks,
    "middleware.retry_schedule": retry_schedule,
    "gateway.providers.openrouter": openrouter,
    "gateway.confirm_channel": confirm_channel,
    "gateway.publisher": publisher,
    "actors.delivery": delivery,
    "bridge.relay": relay,
}


class Changing(Loader):
    """Loads a module as ever, then changes it."""

    def __init__(self, inner, change):
        self.inner = inner
        self.change = change

    def create_module(self, spec):
        return self.inner.create_module(spec)

    def exec_module(self, module):
        self.inner.exec_module(module)
        self.change(module)


class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in CHANGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        spec.loader = Changing(spec.loader, CHANGES[name])
        return spec


if FOLDER:
    sys.meta_path.insert(0, Finder())
