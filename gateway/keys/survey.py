"""What the provider knows about our settings: asked after the start, slowly, while the worker works.

Keys that one user has made share that user's limits, so they are one account even where no label says so. What cannot
work, and only the provider can know, is said as a warning with a remedy, once: a key that it refuses, a model that is
unknown or about to retire, an address at which somebody else answers.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from typing import Final

from gateway.errors import AuthenticationFailed, ProviderError, StoreUnavailable, UpstreamFailed
from gateway.keys.pool import KeyPool
from gateway.keys.store import LEARNED
from gateway.providers.openrouter_responses import KeyInfo
from gateway.secrets import ApiKey
from gateway.settings import Settings

#: Seconds between two questions, and from a round in which some key had no answer to the next one.
PAUSE_S, AGAIN_S = 1.0, 3600.0

#: How long before its end a model is reported.
RETIRES_SOON = timedelta(days=90)

#: By what no provider of ours has such a list: a web server, a proxy, a page to log in.
_ELSEWHERE: Final = frozenset({"invalid_answer", "redirect", "too_large"})
_NO_SUCH_PATH: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE})
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})

logger = logging.getLogger(__name__)

Ask = Callable[[ApiKey], KeyInfo]


@dataclass(frozen=True, slots=True)
class Names:
    """What a provider, and the settings about it, are called."""

    provider: str
    keys: str
    model: str
    base_url: str
    usual_url: str

    @property
    def other_model(self) -> str:
        """What to do about a model."""
        return f"set {self.model} or MODEL_ALIASES"


OF_OPENROUTER: Final = Names(
    "OpenRouter", "OPENROUTER_API_KEYS", "OPENROUTER_MODEL", "OPENROUTER_BASE_URL", "https://openrouter.ai/api/v1"
)
OF_GEMINI: Final = Names(
    "Gemini", "GEMINI_API_KEYS", "GEMINI_MODEL_TEXT", "GEMINI_BASE_URL", "https://generativelanguage.googleapis.com"
)


def names_of(settings: Settings) -> Names:
    """Those of the provider in use."""
    return OF_GEMINI if settings.uses_gemini else OF_OPENROUTER


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
        names: Names = OF_OPENROUTER,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._pool = pool
        self._unknown = list(keys)
        self._refused: set[ApiKey] = set()
        self._models = models
        self._ask = ask
        self._ask_models = ask_models
        self._names = names
        self._pause_s = pause_s
        self._stopping, self._changed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="key-survey", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def also(self, keys: Iterable[ApiKey]) -> None:
        """Ask about these as well, where it has started."""
        self._unknown += keys
        self._changed.set()

    def stop(self, timeout_s: float) -> bool:
        """Ask no more; whether the thread has ended within `timeout_s` seconds. Idempotent."""
        self._stopping.set()
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._look_at_models()
        accounts: dict[str, str] = {}
        while not self._stopping.is_set():
            self._changed.clear()
            for key in list(self._unknown):
                if self._stopping.wait(self._pause_s):
                    return
                info = self._look_at_key(key)
                if info is None:
                    continue
                self._unknown.remove(key)
                found = account_name(info) if key.label is None else None  # the operator has said whose it is
                if found is not None:
                    accounts[key.digest] = found
            self._learn(accounts)
            if accounts:
                logger.info("Keys without a label: %d, of %d accounts", len(accounts), len(set(accounts.values())))
            self._changed.wait(AGAIN_S if self._unknown else None)

    def _learn(self, accounts: Mapping[str, str]) -> None:
        try:
            self._pool.learn(accounts)
        except StoreUnavailable as error:
            logger.warning("The accounts of the keys are not remembered: %s", error)

    def _look_at_key(self, key: ApiKey) -> KeyInfo | None:
        try:
            info = self._ask(key)
        except AuthenticationFailed as error:
            if key not in self._refused:
                self._refused.add(key)
                remedy = f"correct it in {self._names.keys}, or wait if {self._names.provider} has an outage"
                logger.warning("Key %s is refused, %s (%s)", key, remedy, error)
            return None
        except ProviderError as error:
            logger.info("Key %s could not be asked about: %s", key, error)
            return None
        if (trouble := unusable(info)) is not None:
            logger.warning("Key %s %s", key, trouble)
        return info

    def _look_at_models(self) -> None:
        try:
            known = self._ask_models()
        except ProviderError as error:
            self._tell_of_the_way(error)
            return
        today = datetime.now(UTC).date()
        for model in self._models:
            trouble = retirement(model, known, today=today, remedy=self._names.other_model)
            if trouble is not None:
                logger.warning("%s", trouble)

    def _tell_of_the_way(self, error: ProviderError) -> None:
        names = self._names
        if is_somebody_else(error):
            logger.warning(
                "%s: %s does not answer there: give an address like %s, with no more and no less of a path, "
                "and look at proxies and firewalls on the way (%s)",
                *(names.base_url, names.provider, names.usual_url, error),
            )
        elif error.reason == "proxy":
            logger.warning("HTTP_PROXY: correct it, or name the provider's host in NO_PROXY (%s)", error)
        else:
            logger.info("The provider's models could not be read: %s", error)


def is_somebody_else(error: ProviderError) -> bool:
    """Whether a failed question shows that the address is not the provider's, and not that it has trouble."""
    refused = isinstance(error, UpstreamFailed) and (error.status or 0) // 100 == 4 and error.status not in _PASSING  # noqa: PLR2004 - a class of statuses
    page = error.reason == "not_the_provider" and (error.status or 0) // 100 == 2  # noqa: PLR2004 - a class of statuses
    return page or refused or error.reason in _ELSEWHERE or error.status in _NO_SUCH_PATH


def unusable(info: KeyInfo) -> str | None:
    """Why a key that is accepted makes no calls all the same; None when it does."""
    if info.manages:
        return "is a management key, which makes no calls: give a key for the API"
    if info.limit_remaining is not None and info.limit_remaining <= 0:
        return "has used up its own limit: raise it at OpenRouter"
    return None


def retirement(
    model: str, models: Mapping[str, str | None], *, today: date, remedy: str = OF_OPENROUTER.other_model
) -> str | None:
    """What an operator should know of a model: that it is unknown, gone, or about to retire; None when all is well."""
    model = model.partition("@")[0]  # a preset is the account's own, and in no list
    if not model:
        return None
    bare = model.partition(":")[0]  # a variant, such as `:free`, is listed by its own name or not at all
    if model not in models and bare not in models:
        alike = sorted(known for known in models if known.rpartition("/")[2] == bare.rpartition("/")[2])
        return f"{model} is not among the provider's models{f', {alike[0]} is' if alike else ''}: {remedy}"
    try:
        end = date.fromisoformat((models.get(model) or models.get(bare) or "")[:10])
    except ValueError:
        return None
    if end <= today:
        return f"{model} has retired on {end}: {remedy}"
    return f"{model} retires on {end}: {remedy}" if end - today <= RETIRES_SOON else None


def account_name(info: KeyInfo) -> str | None:
    """A name for the user who made the key, the same for all keys of that user; None where the provider is silent."""
    user = info.creator_user_id
    return None if user is None else LEARNED + hashlib.sha256(user.encode()).hexdigest()[:16]
