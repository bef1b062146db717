"""What the provider knows about our keys and our models: asked after the start, slowly, while the worker works.

Keys that one user has made share that user's limits, so they are one account even where no label says so. A model that
is unknown or about to retire is said once.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

from gateway.errors import ProviderError
from gateway.keys.pool import KeyPool
from gateway.keys.store import LEARNED
from gateway.providers.openrouter_responses import KeyInfo
from gateway.secrets import ApiKey

#: Seconds between two questions, and from a round in which some key had no answer to the next one.
PAUSE_S, AGAIN_S = 1.0, 3600.0

#: How long before its end a model is reported.
RETIRES_SOON = timedelta(days=90)

logger = logging.getLogger(__name__)

Ask = Callable[[ApiKey], KeyInfo]


class Survey:
    """Asks on a thread of its own; what the provider does not answer is left as it is.

    `ask(key)` and `ask_models()` (each model with the day on which it retires, or None) may raise ProviderError.
    """

    def __init__(  # noqa: PLR0913 - what it asks, and whom, all by name
        self,
        pool: KeyPool,
        *,
        keys: Iterable[ApiKey],
        models: Collection[str],
        ask: Ask,
        ask_models: Callable[[], Mapping[str, str | None]],
        pause_s: float = PAUSE_S,
    ) -> None:
        self._pool = pool
        self._unknown = [key for key in keys if key.label is None]
        self._models = models
        self._ask = ask
        self._ask_models = ask_models
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key-survey", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ask no more; whether the thread has ended within `timeout_s` seconds. Idempotent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._look_at_models()
        accounts: dict[str, str] = {}
        while True:
            for key in list(self._unknown):
                if self._stopping.wait(self._pause_s):
                    return
                try:
                    found = account_name(self._ask(key))
                except ProviderError as error:
                    logger.debug("Key %s: its account could not be read: %s", key, error)
                    continue
                self._unknown.remove(key)
                if found is not None:
                    accounts[key.digest] = found
            self._pool.learn(accounts)
            logger.info("Keys without a label: %d, of %d accounts", len(accounts), len(set(accounts.values())))
            if not self._unknown or self._stopping.wait(AGAIN_S):
                return

    def _look_at_models(self) -> None:
        try:
            known = self._ask_models()
        except ProviderError as error:
            logger.debug("The provider's models could not be read: %s", error)
            return
        today = datetime.now(UTC).date()
        for model in self._models:
            trouble = retirement(model, known, today=today)
            if trouble is not None:
                logger.warning("%s", trouble)


def retirement(model: str, models: Mapping[str, str | None], *, today: date) -> str | None:
    """What an operator should know of a model: that it is unknown, gone, or about to retire; None when all is well."""
    bare = model.partition(":")[0]  # a variant, such as `:free`, is listed by its own name or not at all
    if model not in models and bare not in models:
        return f"{model} is not among the provider's models"
    try:
        end = date.fromisoformat((models.get(model) or models.get(bare) or "")[:10])
    except ValueError:
        return None
    if end <= today:
        return f"{model} has retired on {end}: set OPENROUTER_MODEL or MODEL_ALIASES"
    return f"{model} retires on {end}: set OPENROUTER_MODEL or MODEL_ALIASES" if end - today <= RETIRES_SOON else None


def account_name(info: KeyInfo) -> str | None:
    """A name for the user who made the key, the same for all keys of that user; None where the provider is silent."""
    user = info.creator_user_id
    return None if user is None else LEARNED + hashlib.sha256(user.encode()).hexdigest()[:16]
