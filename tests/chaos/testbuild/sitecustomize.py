"""Makes a test build of the product: Python runs this file at start when its folder is on PYTHONPATH.

The product has no code for tests; here public ports are wrapped as their modules are loaded, those of the product and
of the libraries below it, so that each step

* adds a line to the journal, CHAOS_FOLDER/journal.jsonl, which outlives a SIGKILL;
* ends the process, as SIGKILL would, when CHAOS_FOLDER holds a failpoint for the step and this request.

A failpoint is a file `<step>@<request id>.<number>`, or `<step>@any.<number>`, with a number from 1 to FAILPOINTS for
each process that shall end there. Taking one away is atomic, so it ends one process once.

    port                         steps
    dramatiq.Middleware          received
    OpenRouter.complete          before call, after call
    SqliteLedger, RedisLedger    stored, published, noted (given back: abandoned, or its copy waits)
    pika.channel.Channel         envelope sent, copy sent, relayed
    Publisher.publish            confirmed, copy confirmed, held
    Delivery                     arrived (a request), relay: before ack, relay: ack asked
    Delivered.settle             before ack, ack asked, given back, parked

The lease of a dead process ends sooner here than it does in production, and with CHAOS_PUBLISH_TIMEOUT_S so does the
patience with a confirm. With CHAOS_STOCK_SETTLEMENT the worker acks whatever became of a message, as job systems do: a
harness that finds nothing wrong with that would find nothing at all.
"""

import functools
import json
import math
import os
import signal
import sys
import time
import weakref
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path

FOLDER = os.environ.get("CHAOS_FOLDER", "")
STOCK_SETTLEMENT = "CHAOS_STOCK_SETTLEMENT" in os.environ
PUBLISH_TIMEOUT_S = float(os.environ.get("CHAOS_PUBLISH_TIMEOUT_S", "inf"))
LEASE_MARGIN_S = 1.0

#: How many failpoints there can be for one step of one request.
FAILPOINTS = 2


def note(name, request_id, **facts):
    """Write down that the step was reached."""
    line = {"at": time.time(), "pid": os.getpid(), "step": name, "id": request_id, **facts}
    with Path(FOLDER, "journal.jsonl").open("ab", buffering=0) as journal:
        journal.write(json.dumps(line).encode() + b"\n")


def end_here(name, request_id):
    """End the process if a failpoint says so."""
    for target in (request_id, "any"):
        for number in range(1, FAILPOINTS + 1):
            try:
                Path(FOLDER, f"{name}@{target}.{number}").unlink()
            except FileNotFoundError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)


def step(name, request_id, **facts):
    note(name, request_id, **facts)
    end_here(name, request_id)


def around(owner, name, *, before=None, after=None):
    """Call `before(*arguments)` and `after(result, *arguments)` around a public function."""
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


def id_in(value):
    """The request's id, wherever it is in a message of ours."""
    if isinstance(value, dict):
        if "request_id" in value:
            return value["request_id"]
        value = list(value.values())
    found = (id_in(one) for one in value) if isinstance(value, list) else ()
    return next((one for one in found if one is not None), None)


def kind_of(queue):
    """What a message to this queue is; None for what no step is about."""
    if queue == "gemini.generate":
        return "relayed"
    if queue.startswith(("gemini.generate.delay.", "gemini.generate.backoff.")):
        return "copy"
    if queue.startswith("gemini.callbacks.delay."):
        return "held"
    return None if queue.startswith(("gemini.generate", "gemini.callbacks", "gemini.requests")) else "envelope"


def dramatiq_broker(module):
    def set_broker(broker):
        from dramatiq import Middleware

        class Received(Middleware):
            def before_process_message(self, broker, message):
                step("received", getattr(message.args[0], "request_id", None))

        broker.add_middleware(Received(), before=type(broker.middleware[0]))

    around(module, "set_broker", before=set_broker)


def openrouter(module):
    def before(_self, request, key, **_named):
        step("before call", request.request_id)

    def after(_completion, _self, request, key, **_named):
        step("after call", request.request_id)

    around(module.OpenRouter, "complete", before=before, after=after)


def ledger(owner):
    def stored(_result, _self, work, _token, *, message_id, **_named):
        step("stored", work.request_id, message_id=message_id)

    def published(_result, _self, work):
        step("published", work.request_id)

    def noted(_result, _self, work, *_rest, **_named):
        step("noted", work.request_id)

    around(owner, "answer", after=stored)
    around(owner, "published", after=published)
    around(owner, "scheduled", after=noted)
    around(owner, "abandon", after=noted)


def ledger_middleware(module):
    module.LEASE_MARGIN_S = LEASE_MARGIN_S


def publisher(module):
    def confirmed(_result, _self, queue, body, properties, **_named):
        match kind_of(queue):
            case "copy":
                step("copy confirmed", id_in(json.loads(body)))
            case "held":
                step("held", id_in(json.loads(body)))
            case "envelope":
                step("confirmed", properties.correlation_id, message_id=properties.message_id)

    submit = module.Publisher.submit

    @functools.wraps(submit)
    def impatient(*arguments, timeout_s=math.inf, **named):
        shorter = {"timeout_s": min(timeout_s, PUBLISH_TIMEOUT_S)}
        return submit(*arguments, **named, **(shorter if shorter["timeout_s"] < math.inf else {}))

    module.Publisher.submit = impatient
    around(module.Publisher, "publish", after=confirmed)


def departure(queue, body, properties):
    """The step at which a message leaves, the id of its request, and what else is to be noted; None for no step."""
    if properties.type == "gemini.delta":
        return None  # nothing is promised of it
    match kind_of(queue):
        case "relayed":
            return "relayed", id_in(json.loads(body)), {}
        case "copy":
            return "copy sent", id_in(json.loads(body)), {}
        case "envelope":
            return "envelope sent", properties.correlation_id, {"message_id": properties.message_id}
    return None


class Unconfirmed:
    """The messages of a channel that RabbitMQ has not confirmed, by the tags that it counts for them."""

    def __init__(self):
        self.last_tag = 0
        self.steps = {}

    def sent(self, left):
        self.last_tag += 1
        self.steps[self.last_tag] = left

    def confirmed(self, tag, *, multiple):
        tags = [one for one in self.steps if one <= tag] if multiple else [tag]
        found = [self.steps.pop(one, None) for one in tags]
        return [left for left in found if left is not None]


def channel(module):
    """A departure is noted before it, and ends the process when RabbitMQ has the message and the product does not know.

    At the departure itself nothing would be certain: the bytes wait in the process for the next turn of its loop.
    """
    unconfirmed = confirm_mode(module)

    def leaves(_channel, _exchange, queue, body, properties, **_named):
        left = departure(queue, body, properties)
        if left is not None:
            name, request_id, facts = left
            note(name, request_id, **facts)

    def left(_result, channel, _exchange, queue, body, properties, **_named):
        if channel in unconfirmed:
            unconfirmed[channel].sent(departure(queue, body, properties))

    around(module.Channel, "basic_publish", before=leaves, after=left)


def confirm_mode(module):
    """Hears of every confirm before the product does; what is unconfirmed, by channel."""
    from pika.spec import Basic

    channels = weakref.WeakKeyDictionary()
    confirm_delivery = module.Channel.confirm_delivery

    @functools.wraps(confirm_delivery)
    def confirming(channel, ack_nack_callback, *rest, **named):
        unconfirmed = channels[channel] = Unconfirmed()

        def heard(frame):
            left = unconfirmed.confirmed(frame.method.delivery_tag, multiple=frame.method.multiple)
            for name, request_id, _facts in left if isinstance(frame.method, Basic.Ack) else ():
                end_here(name, request_id)
            ack_nack_callback(frame)

        confirm_delivery(channel, heard, *rest, **named)

    module.Channel.confirm_delivery = confirming
    return channels


def id_of(body):
    """The id of a request as a producer sent it; None for what is no request."""
    try:
        return id_in(json.loads(body))
    except ValueError:
        return None


#: Deliveries that their message settles; those that are left are settled when their relay is confirmed.
OF_A_MESSAGE = weakref.WeakSet()


def delivery(module):
    arrivals_and_relays(module.Delivery)
    settlements(module.Delivered)


def arrivals_and_relays(owner):
    arrive, settle = owner.__init__, owner.settle

    @functools.wraps(arrive)
    def arrived(delivery, **facts):
        arrive(delivery, **facts)
        if delivery.queue == "gemini.requests":
            step("arrived", id_of(delivery.body), redelivered=delivery.redelivered)

    @functools.wraps(settle)
    def settled(delivery, *, confirmed, **named):
        is_relay = confirmed and delivery.queue == "gemini.requests" and delivery not in OF_A_MESSAGE
        if is_relay:
            step("relay: before ack", id_of(delivery.body))
        settle(delivery, confirmed=confirmed, **named)
        if is_relay:
            step("relay: ack asked", id_of(delivery.body))

    owner.__init__, owner.settle = arrived, settled


def settlements(owner):
    from middleware.attempt import attempt_of

    settle = owner.settle

    @functools.wraps(settle)
    def settled(message):
        attempt, first = attempt_of(message), not message.delivery.is_settled
        OF_A_MESSAGE.add(message.delivery)
        if STOCK_SETTLEMENT:
            attempt.outcome = attempt.outcome or "whatever"
        request_id = getattr(message.args[0], "request_id", None)
        if first and attempt.outcome is not None:
            step("before ack", request_id, outcome=attempt.outcome)
        settle(message)
        if first and not message.delivery.is_settled:
            step("parked", request_id)
        elif first:
            step("ack asked" if attempt.outcome is not None else "given back", request_id)

    owner.settle = settled


CHANGES = {
    "dramatiq.broker": dramatiq_broker,
    "pika.channel": channel,
    "gateway.providers.openrouter": openrouter,
    "gateway.ledger.sqlite": lambda module: ledger(module.SqliteLedger),
    "gateway.ledger.redis": lambda module: ledger(module.RedisLedger),
    "gateway.rabbitmq.publisher": publisher,
    "middleware.ledger": ledger_middleware,
    "bridge.delivery": delivery,
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
