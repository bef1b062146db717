"""What is known of each key: its state in the store, and what the provider says of it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from gateway.errors import AuthenticationFailed, ProviderError
from gateway.keys.pool import KeyPool, KeyStatus
from gateway.keys.survey import Ask, account_name
from gateway.providers.openrouter_responses import KeyInfo
from gateway.reporting.redaction import escape_controls
from gateway.secrets import ApiKey

#: How many keys are asked about at a time.
ASKED_AT_ONCE = 8


@dataclass(frozen=True)
class Finding:
    """One key, fit to show. Times in seconds, credit in US dollars; None where it is not known or there is no limit."""

    key: str
    label: str | None
    state: str  # ready, window full, limited, refused, or invalid when the provider has just said so
    reason: str | None
    source: str | None  # of the length of its rest: stated by the provider, or guessed
    back_in_s: float
    used: int
    limit: int
    in_flight: int
    credit_left: float | None
    expires: str | None
    account: str | None
    trouble: str | None  # why the provider could not be asked

    @property
    def usable(self) -> bool:
        """Whether it can be used now, or will be when its window or its rest is over."""
        return self.state not in {"refused", "invalid"}

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "usable": self.usable}


def examine(pool: KeyPool, keys: Sequence[ApiKey], *, limit: int, ask: Ask | None) -> list[Finding]:
    """A finding for each key, in the same order. `ask` fetches the provider's facts and may raise ProviderError."""
    answers = learn_accounts(pool, keys, ask)
    return [_finding(status, limit, answers[status.key.digest]) for status in pool.status()]


def learn_accounts(pool: KeyPool, keys: Sequence[ApiKey], ask: Ask | None) -> dict[str, KeyInfo | ProviderError | None]:
    """Ask about the keys, and have the pool know their accounts: a rest of an account is one of all its keys.

    The answers by the digest of the key. Without `ask` nobody is asked, and there are none.
    """
    if ask is None:
        return dict.fromkeys(key.digest for key in keys)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        answers = list(threads.map(partial(_asked, ask), keys))
    names = {
        key.digest: account_name(info) for key, info in zip(keys, answers, strict=True) if isinstance(info, KeyInfo)
    }
    pool.learn({digest: name for digest, name in names.items() if name is not None})
    return {key.digest: answer for key, answer in zip(keys, answers, strict=True)}


def _asked(ask: Ask, key: ApiKey) -> KeyInfo | ProviderError:
    try:
        return ask(key)
    except ProviderError as error:
        return error


def _finding(status: KeyStatus, limit: int, answer: KeyInfo | ProviderError | None) -> Finding:
    info = answer if isinstance(answer, KeyInfo) else None
    rest = status.rest
    return Finding(
        key=str(status.key),
        label=escape_controls(status.key.label, 60) if status.key.label else None,
        state="invalid" if isinstance(answer, AuthenticationFailed) else _state(status),
        reason=escape_controls(rest.reason, 80) if rest is not None else None,
        source=str(rest.source) if rest is not None else None,
        back_in_s=round(status.ready_in_s, 1),
        used=status.used,
        limit=limit,
        in_flight=status.in_flight,
        credit_left=info.limit_remaining if info is not None else None,
        expires=info.expires_at if info is not None else None,
        account=info.creator_user_id if info is not None else None,
        trouble=str(answer) if isinstance(answer, ProviderError) else None,
    )


def _state(status: KeyStatus) -> str:
    if status.rest is not None:
        return str(status.rest.kind)
    return "window full" if status.ready_in_s > 0 else "ready"
