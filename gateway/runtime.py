"""What a process opens once and shares between its threads: settings, publisher, keys, ledger, provider."""

import threading
from functools import partial

import pika

from gateway.errors import GatewayError
from gateway.keys.pool import KeyPool
from gateway.keys.probe import DEADLINE_S, Prober
from gateway.keys.store import KeyStore
from gateway.keys.survey import Survey
from gateway.ledger.store import Ledger
from gateway.providers import Provider, provider_from
from gateway.providers.openrouter import OpenRouter
from gateway.rabbitmq import amqp
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import Topology
from gateway.resources import Stores, open_stores
from gateway.settings import Settings

#: How long a queue stays missing before it is declared again, in seconds: its consumers are told in the meantime.
REDECLARE_PAUSE_S = 1.0

#: How much longer than a call a lease may be in flight, in seconds: the way to the provider's client and back.
LEASE_MARGIN_S = 15.0


class Runtime:
    """The shared resources of one process; an attribute exists from `open()` to the end of the process.

    `stopping` is set as soon as the process is asked to stop: whoever waits for anything waits on it too.
    """

    settings: Settings
    topology: Topology
    publisher: Publisher
    pool: KeyPool
    ledger: Ledger
    provider: Provider

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.requests_wait = threading.Event()  # for a key, as far as this process knows
        self.prober: Prober | None = None  # for a provider that can be asked about a key
        self.survey: Survey | None = None
        self._stores: Stores | None = None

    def open_messaging(self, settings: Settings, *, name: str, deadline_s: float = 60.0) -> None:
        """Declare the queues and start the publisher.

        Raises TopologyError, with one line for an operator, when RabbitMQ refuses us or cannot be reached in
        `deadline_s` seconds.
        """
        self.settings = settings
        self.topology = Topology(settings)
        url = settings.rabbitmq_url.get_secret_value()
        declare(self.topology, amqp.parameters(url, name=f"{name}.setup"), deadline_s=deadline_s, stop=self.stopping)
        redeclare = partial(declare_queue, self.topology, amqp.parameters(url, name=f"{name}.setup"))
        self.publisher = Publisher(url, name=f"{name}.publisher", redeclare=redeclare)
        self.publisher.start()

    def open_provider(self) -> None:
        """Open the stores and the provider's client. Raises StoreUnavailable."""
        self._stores = open_stores(self.settings)
        self.pool = key_pool(self.settings, self._stores.keys)
        self.ledger = self._stores.ledger
        self.provider = provider_from(self.settings)
        if isinstance(self.provider, OpenRouter):
            ask = partial(self.provider.key_info, deadline_s=DEADLINE_S)
            self.prober = Prober(self.pool, ask)
            self.survey = Survey(
                self.pool,
                keys=self.settings.keys,
                models=sorted({self.settings.openrouter_model, *self.settings.model_aliases.values()}),
                ask=ask,
                ask_models=partial(self.provider.models, deadline_s=DEADLINE_S),
            )

    def close(self, timeout_s: float) -> None:
        """Close what was opened, the publisher after its last confirm or `timeout_s` seconds. Idempotent."""
        if hasattr(self, "publisher"):
            self.publisher.stop(timeout_s)
        if self.prober is not None:
            self.prober.stop(timeout_s=1.0)
        if self.survey is not None:
            self.survey.stop(timeout_s=1.0)
        if hasattr(self, "provider"):
            self.provider.close()
        if self._stores is not None:
            self._stores.close()
            self._stores = None


def key_pool(settings: Settings, store: KeyStore) -> KeyPool:
    """The pool of the configured keys. No I/O."""
    return KeyPool(
        settings.keys,
        store,
        max_per_window=settings.keys_max_per_minute,
        window_s=settings.keys_window_seconds,
        cooldown_s=settings.keys_cooldown_seconds,
        max_in_flight=settings.keys_max_in_flight,
        max_lease_s=settings.request_timeout_seconds + LEASE_MARGIN_S,
    )


def declare(
    topology: Topology, parameters: pika.URLParameters, *, deadline_s: float, stop: threading.Event | None = None
) -> None:
    """Assert every queue over a connection of its own, waiting for RabbitMQ up to `deadline_s` seconds."""
    connection = amqp.connect(parameters, deadline_s=deadline_s, stop=stop)
    try:
        topology.declare(connection)
    finally:
        if connection.is_open:
            connection.close()


def declare_queue(topology: Topology, parameters: pika.URLParameters, queue: str) -> bool:
    """Declare one queue that has gone missing; False when it may not be, or RabbitMQ does not let us.

    Not at once: when a quorum queue is deleted and declared again within milliseconds, RabbitMQ 3.10 does not tell its
    consumers. They stay attached to the queue that is gone, and no message ever reaches them.
    """
    threading.Event().wait(REDECLARE_PAUSE_S)
    try:
        connection = amqp.connect(parameters, deadline_s=5.0, stop=None)
    except GatewayError:
        return False
    try:
        return topology.declare_one(connection, queue)
    except GatewayError:
        return False
    finally:
        if connection.is_open:
            connection.close()
