"""`python -m bridge`: relay every request to the workers, until SIGTERM or SIGINT.

A worker takes requests by itself. This is for those who want the relay in a process of its own: it runs beside workers
without a switch, and may be stopped at any time.
"""

import logging
import math
import os
import signal
import sys
import time
from contextlib import closing

from dramatiq.errors import ConnectionClosed
from pika.exceptions import AMQPError

from bridge.consumer import Consumer, Doors, connect
from bridge.parked import Parked
from bridge.requests import RequestDoor
from gateway import exits
from gateway.errors import GatewayError
from gateway.heartbeat import Heartbeat, folder_of
from gateway.rabbitmq import vhost_policies
from gateway.reporting import logs, sentry
from gateway.resources import Resources
from gateway.settings import SettingsError, load_settings

#: How long the loop waits for RabbitMQ before it looks whether it should stop, in seconds.
TICK_S = 0.5

#: How long RabbitMQ may be away, and how long to wait after a lost connection, in seconds.
CONNECT_DEADLINE_S, RECONNECT_S = 60.0, 1.0

#: How long a stop waits for the confirms of what is on its way, in seconds. Under Heroku's 30.
DRAIN_S = 20.0

logger = logging.getLogger("bridge")


def main() -> int:
    """Run the bridge; the exit code is 0 after a stop, 78 for bad settings, 69 when RabbitMQ refuses or is away."""
    resources = Resources()
    heartbeat = Heartbeat(folder_of(os.environ), trouble=lambda: None)
    heartbeat.start()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: resources.stopping.set())
    try:
        settings = load_settings(need_keys=False)
        logs.configure(settings, stream=sys.stderr)
        sentry.configure(settings)
        resources.open_messaging(settings, name="bridge")
        vhost_policies.look_in_background(settings, resources.topology().ours)
        relay(resources)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - logging is not set up yet
        return exits.SETTINGS
    except GatewayError as error:
        asked_to_stop = resources.stopping.is_set()
        logger.log(logging.INFO if asked_to_stop else logging.CRITICAL, "%s", error)
        return 0 if asked_to_stop else exits.UNAVAILABLE
    finally:
        resources.close(timeout_s=5.0)
        heartbeat.stop()
        sentry.close(timeout_s=2.0)
    return 0


def relay(resources: Resources, *, connect_deadline_s: float = CONNECT_DEADLINE_S) -> None:
    """Relay until asked to stop, over as many connections as that takes.

    Raises TopologyError when RabbitMQ stays away for `connect_deadline_s` seconds.
    """
    settings, stopping = resources.settings(), resources.stopping
    doors = Doors(RequestDoor(resources.settings, resources.topology, resources.publisher, relay_all=True))
    while not stopping.is_set():
        try:
            consumer = connect(
                settings.amqp_address,
                resources.topology(),
                doors,
                name="bridge.consumer",
                deadline_s=connect_deadline_s,
                room=settings.worker_prefetch_count,
                idle_s=TICK_S,
                stopping=stopping,
                others=set(),
                parked=Parked(),
            )
            logger.info("Relaying %s", settings.request_queue)
            _serve(consumer)
        except (AMQPError, ConnectionClosed) as error:
            logger.warning("Connection to RabbitMQ lost: connecting again (%s)", error)
            stopping.wait(RECONNECT_S)
    logger.info("Stopped")


def _serve(consumer: Consumer) -> None:
    """Relay what arrives; when asked to stop, finish what is on its way."""
    until = math.inf
    with closing(consumer):
        for _ in consumer:
            if consumer.stopping.is_set():
                until = min(until, time.monotonic() + DRAIN_S)
                if consumer.intake.is_idle or time.monotonic() > until:
                    return


if __name__ == "__main__":
    sys.exit(main())
