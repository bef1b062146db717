"""The wiring of a worker, on one screen. The only module with an effect at import: it sets Dramatiq's broker."""

import threading

import dramatiq

from actors.boot import Boot
from bridge.cancels import CancelDoor
from bridge.consumer import Doors
from bridge.rabbitmq_broker import RabbitmqBroker
from bridge.requests import RequestDoor
from bridge.waiting import WaitingDoor
from bridge.wire import StrictEncoder
from bridge.work import WorkDoor
from gateway.resources import Resources
from middleware.callbacks import Callbacks
from middleware.cooldown import Cooldown
from middleware.costs import Costs
from middleware.deltas import PartialAnswers
from middleware.heartbeat import Heartbeat
from middleware.held_replies import HeldReplies
from middleware.keeper import Keeper
from middleware.key_selection import KeySelection
from middleware.ledger import Ledger
from middleware.log_context import LogContext
from middleware.outbox import Outbox
from middleware.process import Process
from middleware.publisher_ready import PublisherReady
from middleware.retry_schedule import RetrySchedule
from middleware.stream_cancels import StreamCancels
from middleware.tracing import Tracing
from middleware.usage import Usage
from middleware.wanted import Wanted

#: Closed until the boot: importing this connects nowhere and asks for no settings.
resources = Resources()
settings, topology, publisher = resources.settings, resources.topology, resources.publisher
pool, ledger, provider, books = resources.pool, resources.ledger, resources.provider, resources.books
stopping = resources.stopping

#: Set when a request waits for a key, as far as this process knows; at first it does not, and looks.
requests_wait = threading.Event()
requests_wait.set()

#: Where deliveries come in: requests of others, work of ours, early those that wait for a key, and cancels.
doors = Doors(
    requests=RequestDoor(settings, topology, publisher),
    work=WorkDoor(settings, publisher),
    waiting=WaitingDoor(settings, pool, provider, topology, publisher, books=books, requests_wait=requests_wait),
    cancels=CancelDoor(ledger, publisher),
)

process = Process(stopping, settings)
costs = Costs(books, settings)
usage = Usage(resources.usage, process, publisher, costs)
outbox = Outbox(publisher, stopping)
partial_answers = PartialAnswers(outbox, StreamCancels(ledger))
held_replies = HeldReplies(outbox, topology)
key_selection = KeySelection(pool, provider, resources.suspect)
cooldown = Cooldown(key_selection, pool, resources.suspect)

#: First halves run from the top to the actor, second halves and verdicts from the bottom.
MIDDLEWARE: list[dramatiq.Middleware] = [
    Keeper(stopping),  # before anything is opened: it forks, and what was open then would belong to two processes
    process,  # above all: a stopping worker starts nothing; its exit code is the last word
    Heartbeat(process),  # before the boot, which may wait for RabbitMQ: a process that starts is well
    Boot(resources),  # before all that follow: opens what they use, and closes it after them
    LogContext(),  # before all that log about the delivery; its second half reports the outcome, so it runs last
    Tracing(),  # above all that is to be in the span of a delivery, its publishing too
    usage,  # above all that decide: it counts what has come out; below the boot: its last report needs the store
    Callbacks(held_replies, ledger, stopping),  # above the ledger: an answer is stored first, then published
    held_replies,  # its kind of delivery has nothing to do with what follows
    PublisherReady(publisher),  # before anything is started that is to be published
    Ledger(ledger, resources.owner, settings, outbox, costs),  # before a key is taken: answered work needs none
    RetrySchedule(settings, topology, outbox, requests_wait),  # below the ledger, which stores what it decides
    Wanted(),  # below the ledger: what is answered goes out, late or not; before a key is taken
    costs,  # below the schedule, which decides who waits for tomorrow; before a key is taken
    cooldown,  # above key selection: it rotates what that has leased
    key_selection,  # last: nothing stands between the lease and the call
]

broker = RabbitmqBroker(
    doors, settings=settings, topology=topology, publisher=publisher, stopping=stopping, middleware=MIDDLEWARE
)
dramatiq.set_encoder(StrictEncoder())
dramatiq.set_broker(broker)
