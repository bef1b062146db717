"""The one broker, with its middleware in order. The only module with an effect at import: it sets Dramatiq's broker."""

import dramatiq

from actors.boot import Boot
from bridge.rabbitmq_broker import RabbitmqBroker
from bridge.wire import StrictEncoder
from gateway.runtime import Runtime
from middleware.callbacks import Callbacks
from middleware.cooldown import Cooldown
from middleware.graceful_stop import GracefulStop
from middleware.key_selection import KeySelection
from middleware.ledger import LedgerMiddleware
from middleware.log_context import LogContext
from middleware.publishing import Publishing
from middleware.retry_schedule import RetrySchedule
from middleware.watchdog import Watchdog

runtime = Runtime()
cooldown = Cooldown(runtime)
publishing = Publishing()

#: Before-hooks run from the top, after-hooks from the bottom.
MIDDLEWARE: list[dramatiq.Middleware] = [
    Watchdog(runtime),  # above all: its exit code is the last word, after everything is closed
    GracefulStop(runtime),  # before Boot, which may wait for RabbitMQ, and before anything is done for a delivery
    Boot(runtime),  # before all that follow: opens what they use, and closes it after them
    LogContext(),  # before all that log about the delivery; its after-hook reports the outcome, so it runs last
    Callbacks(runtime, publishing),  # above the ledger: an answer is stored first, then published
    LedgerMiddleware(
        runtime, publishing
    ),  # before a key is taken: answered work needs none; after the schedule: it stores its reply
    RetrySchedule(runtime),  # above the keys: their lease has ended when it decides what becomes of the attempt
    cooldown,  # above key selection: it rotates what that has leased
    KeySelection(runtime),  # last: nothing stands between the lease and the call
]

broker = RabbitmqBroker(runtime, middleware=MIDDLEWARE)
dramatiq.set_encoder(StrictEncoder())
dramatiq.set_broker(broker)
