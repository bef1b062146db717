"""What a process opens at its boot and shares between its threads.

Each resource is made closed, so that it can be handed to who uses it before there are any settings, and is opened once.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from gateway.costs.books import Books
from gateway.costs.budget import Budget
from gateway.costs.sqlite import SqliteCostStore
from gateway.costs.store import CostStore
from gateway.errors import GatewayError
from gateway.keys.pool import KeyPool
from gateway.keys.probe import DEADLINE_S, Prober
from gateway.keys.reload import KeyReload
from gateway.keys.sqlite import SqliteKeyStore
from gateway.keys.store import KeyStore
from gateway.keys.survey import Survey, names_of
from gateway.ledger.owner import BEAT_TIMEOUT_S, FileOwner, Owner, RedisOwner
from gateway.ledger.sqlite import SqliteLedger
from gateway.ledger.store import Ledger, NullLedger
from gateway.providers import Provider, provider_from
from gateway.rabbitmq import amqp
from gateway.rabbitmq.declare import declare, declare_missing
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import Topology
from gateway.reporting import logs, sentry
from gateway.secrets import ApiKey
from gateway.settings import Settings
from gateway.stores.state_file import StateFile
from gateway.usage.sqlite import SqliteUsageStore
from gateway.usage.store import UsageStore

#: How much longer than a call a lease may be in flight, in seconds: the way to the provider's client and back.
LEASE_MARGIN_S = 15.0

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Resource(Generic[T]):
    """One thing that exists from the boot of the process on; calling the resource gives it.

    Raises LookupError before that.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thing: T | None = None

    def __call__(self) -> T:
        if self._thing is None:
            raise LookupError(f"no {self._name}: it is opened when the worker boots")
        return self._thing

    @property
    def is_open(self) -> bool:
        return self._thing is not None

    def open(self, thing: T) -> T:
        """From now on there is `thing`; returns it."""
        self._thing = thing
        return thing


class Resources:
    """All of one process. Who uses one of them is given that one; who opens and closes them has this.

    `stopping` is set as soon as the process is asked to stop: whoever waits for anything waits on it too.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.settings = Resource[Settings]("settings")
        self.topology = Resource[Topology]("topology")
        self.publisher = Resource[Publisher]("publisher")
        self.pool = Resource[KeyPool]("key pool")
        self.ledger = Resource[Ledger]("ledger")
        self.owner = Resource[Owner]("owner")
        self.provider = Resource[Provider]("provider")
        self.prober = Resource[Prober]("prober")
        self.survey = Resource[Survey]("survey")
        self.usage = Resource[UsageStore]("store of reports")
        self.books = Resource[Books]("books")
        self.key_reload = Resource[KeyReload]("reader of keys")
        self._stores = Resource[Stores]("stores")

    def open_messaging(self, settings: Settings, *, name: str, deadline_s: float = 60.0) -> None:
        """Declare the queues and start the publisher.

        Raises TopologyError, with one line for an operator, when RabbitMQ refuses us or cannot be reached in
        `deadline_s` seconds.
        """
        self.settings.open(settings)
        topology = self.topology.open(Topology(settings))
        url = settings.amqp_address
        declare(topology, amqp.parameters(url, name=f"{name}.setup"), deadline_s=deadline_s, stop=self.stopping)
        redeclare = partial(declare_missing, topology, amqp.parameters(url, name=f"{name}.setup"))
        self.publisher.open(
            Publisher(url, name=f"{name}.publisher", redeclare=redeclare, waits_for=topology.needs)
        ).start()

    def open_provider(self) -> None:
        """Open the stores and the provider's client. Raises StoreUnavailable."""
        settings = self.settings()
        stores = self._stores.open(open_stores(settings))
        pool = self.pool.open(key_pool(settings, stores.keys))
        self.ledger.open(stores.ledger)
        self.usage.open(stores.usage)
        self.books.open(Books(stores.costs, Budget(stores.costs, settings.budget_usd_per_day))).start()
        self.books().name_keys({key.digest: key.name for key in settings.keys})
        self.owner.open(stores.owner).start()
        provider = self.provider.open(provider_from(settings))
        ask = partial(provider.key_info, deadline_s=DEADLINE_S)
        self.prober.open(Prober(pool, ask))
        survey = Survey(
            pool,
            keys=settings.keys,
            models=sorted({provider.resolve_model(name) for name in (None, *settings.model_aliases)}),
            ask=ask,
            ask_models=partial(provider.models, deadline_s=DEADLINE_S),
            names=names_of(settings),
        )
        self.survey.open(survey)

    def follow_keys(self, load: Callable[[], Settings]) -> None:
        """From now on a change of the file of keys is followed. `load` reads all settings; only its keys are used."""
        settings = self.settings()
        if settings.keys_file is None:
            return

        def keys() -> Sequence[ApiKey]:
            found = load()
            if found.uses_gemini != settings.uses_gemini:
                raise GatewayError("they are another provider's, which takes a restart")
            return found.keys

        self.key_reload.open(KeyReload(settings.keys_file, keys, self.use_keys)).start()

    def use_keys(self, keys: Sequence[ApiKey]) -> None:
        """From now on calls are made with these, and those that run end with theirs."""
        before = {(key.digest, key.label) for key in self.pool().keys}
        new = [key for key in keys if (key.digest, key.label) not in before]
        gone = before - {(key.digest, key.label) for key in keys}
        if not new and not gone:
            return
        # First what must not be repeated anywhere: an error of the first call with a key may hold it.
        secrets = [key.reveal() for key in new]
        logs.mask_also(secrets)
        sentry.mask_also(secrets)
        self.provider.open(self.provider().with_keys(keys))
        self.pool().use(keys)
        if self.survey.is_open:
            self.survey().also(new)
        self.books().name_keys({key.digest: key.name for key in new})
        logger.info("The keys were read again: %d new, %d gone, %d in use", len(new), len(gone), len(keys))

    def suspect(self, key: ApiKey, reason: str) -> None:
        """Have a key that rests for `reason`, by a guess, asked about."""
        if self.prober.is_open:
            self.prober().suspect(key, reason)

    def close(self, timeout_s: float) -> None:
        """Close what was opened, the publisher after its last confirm or `timeout_s` seconds. Idempotent."""
        if self.publisher.is_open:
            self.publisher().stop(timeout_s)
        for thread in (self.prober, self.survey):
            if thread.is_open:
                thread().stop(timeout_s=1.0)
        if self.provider.is_open:
            self.provider().close()
        for late in (self.key_reload, self.books):
            if late.is_open:
                late().stop(timeout_s=1.0)
        if self.owner.is_open:
            self.owner().stop()
        if self._stores.is_open:
            self._stores().close()


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
        reserve=settings.interactive_reserve,
    )


@dataclass(frozen=True)
class Stores:
    """The stores of one process; `close()` is idempotent."""

    keys: KeyStore
    ledger: Ledger
    owner: Owner
    usage: UsageStore
    costs: CostStore
    close: Callable[[], None]


def open_stores(settings: Settings) -> Stores:
    """Redis where it is set, else a SQLite file; tried once. Raises StoreUnavailable when they cannot be used."""
    if settings.redis_address is not None:
        return _in_redis(settings.redis_address, settings)
    return _in_a_file(StateFile(settings.state_path), settings)


def _in_redis(url: str, settings: Settings) -> Stores:
    # Here: the client costs 6 MB and a tenth of the imports, and who runs on one machine has no Redis.
    from gateway.costs.redis import RedisCostStore  # noqa: PLC0415
    from gateway.keys.redis import RedisKeyStore  # noqa: PLC0415
    from gateway.ledger.redis import RedisLedger  # noqa: PLC0415
    from gateway.stores.redis_server import RedisServer  # noqa: PLC0415
    from gateway.usage.redis import RedisUsageStore  # noqa: PLC0415

    server = RedisServer(url)
    server.ping()
    ttl_s, max_bytes = settings.ledger_ttl_seconds, settings.ledger_max_bytes
    costs = RedisCostStore(server)
    ledger = RedisLedger(server, ttl_s=ttl_s, max_bytes=max_bytes) if ttl_s > 0 else NullLedger(costs.book)
    signs_of_life = RedisServer(url, timeout_s=BEAT_TIMEOUT_S)

    def close() -> None:
        server.close()
        signs_of_life.close()

    return Stores(RedisKeyStore(server), ledger, RedisOwner(signs_of_life), RedisUsageStore(server), costs, close)


def _in_a_file(file: StateFile, settings: Settings) -> Stores:
    with file.snapshot():
        pass  # opening it was the try
    owners = file.path.with_name(f"{file.path.name}-owners")
    ttl_s, max_bytes = settings.ledger_ttl_seconds, settings.ledger_max_bytes
    costs = SqliteCostStore(file)
    ledger = SqliteLedger(file, ttl_s=ttl_s, max_bytes=max_bytes) if ttl_s > 0 else NullLedger(costs.book)
    return Stores(SqliteKeyStore(file), ledger, FileOwner(owners), SqliteUsageStore(file), costs, file.close)
