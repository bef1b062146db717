"""The provider as we reach it, our keys as it sees them, the models, and what time it is there."""

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial

from console import key_doctor
from console.doctor.finding import Finding, ok
from console.opened import Opened
from console.screen import span
from gateway.errors import AuthenticationFailed, ProviderError
from gateway.keys.survey import OF_OPENROUTER, Names, names_of, retirement
from gateway.providers import Provider, provider_from
from gateway.providers.openrouter import OpenRouter

PROVIDER, CLOCK, KEYS, MODELS = "provider", "clock", "keys", "models"

#: How long it has for each answer, in seconds.
DEADLINE_S = 10.0

#: How far our clock may be from that of the provider, in seconds; an answer's way counts as well.
CLOCK_MAY_BE_OFF_S = 30.0

#: How long before its end a key is reported.
EXPIRES_SOON = timedelta(days=14)

#: What to do when the provider cannot be used, by the `reason` of the error.
REMEDIES = {
    "network": "check {base_url} and the way out: DNS, firewall, or set HTTP_PROXY",
    "proxy": "check HTTP_PROXY, with its user and password",
    "deadline": "check the way out: a firewall that drops, or a proxy that is needed (HTTP_PROXY)",
}
OTHERWISE = "check {base_url}: the default is {usual_url}"


def check(here: Opened) -> Iterator[Finding]:
    """Asks what is free of charge. No call is paid."""
    with closing(provider_from(here.settings)) as provider:
        names = names_of(here.settings)
        try:
            there = provider.clock_s(deadline_s=DEADLINE_S) if isinstance(provider, OpenRouter) else None
            models = provider.models(deadline_s=DEADLINE_S)
        except ProviderError as error:
            yield Finding(PROVIDER, "failed", str(error), remedy_of(error, names))
            return
        yield ok(PROVIDER, f"{here.settings.provider_base_url} answers")
        yield judge_clock(time.time(), there)
        for model in sorted({provider.resolve_model(name) for name in (None, *here.settings.model_aliases)}):
            trouble = retirement(model, models, today=datetime.now(UTC).date(), remedy=names.other_model)
            yield judge_model(model, trouble, otherwise=names.other_model)
        yield from _keys(here, provider)  # last: it needs the store


def remedy_of(error: ProviderError, names: Names) -> str:
    """What to do when the provider cannot be asked."""
    if isinstance(error, AuthenticationFailed):
        return f"check {names.keys}"
    return REMEDIES.get(error.reason, OTHERWISE).format(base_url=names.base_url, usual_url=names.usual_url)


def judge_clock(here_s: float, there_s: float | None) -> Finding:
    """Whether both mean the same time: limits end when the provider says so."""
    if there_s is None:
        return Finding(CLOCK, "unknown", "the provider does not say what time it is")
    off_s = here_s - there_s
    if abs(off_s) <= CLOCK_MAY_BE_OFF_S:
        return ok(CLOCK, "as that of the provider")
    how = f"{span(abs(off_s))} {'ahead of' if off_s > 0 else 'behind'} that of the provider"
    return Finding(CLOCK, "failed", how, "set the clock of this machine (NTP): keys would rest too long or too short")


def judge_model(model: str, trouble: str | None, *, otherwise: str = OF_OPENROUTER.other_model) -> Finding:
    if trouble is None:
        return ok(MODELS, f"{model} is there")
    what, _, remedy = trouble.partition(": ")
    is_there = "retires on" in trouble
    return Finding(MODELS, "warning" if is_there else "failed", what, remedy or otherwise)


def _keys(here: Opened, provider: Provider) -> Iterator[Finding]:
    ask = partial(provider.key_info, deadline_s=DEADLINE_S)
    settings = here.settings
    found = key_doctor.examine(here.pool, settings.keys, limit=settings.keys_max_per_minute, ask=ask)
    for key in found:
        yield from judge_key(key, datetime.now(UTC), keys=names_of(settings).keys)
    usable = sum(key.usable for key in found)
    if found and not usable:
        yield Finding(KEYS, "failed", "no key is usable: requests end with an error", "see the lines before")
    elif found:
        yield ok(KEYS, f"{usable} of {len(found)} can be used")


def judge_key(key: key_doctor.Finding, now: datetime, *, keys: str = OF_OPENROUTER.keys) -> Iterator[Finding]:
    """What is wrong with one key; nothing for one that is well."""
    name = f"{key.key} ({key.label})" if key.label else key.key
    if key.state == "invalid":
        advice = f"take it out of {keys} or put a new one in, and restart"
        yield Finding(KEYS, "failed", f"{name} is refused: {key.trouble}", advice)
    elif key.trouble is not None:
        yield Finding(KEYS, "unknown", f"{name} could not be asked about: {key.trouble}", "try again")
    if key.credit_left is not None and key.credit_left <= 0:
        yield Finding(KEYS, "failed", f"{name} has no credit left", "add credit, or raise the limit of the key")
    if key.expires and (end := _moment(key.expires)) is not None and end - now < EXPIRES_SOON:
        yield Finding(KEYS, "warning", f"{name} expires on {end:%Y-%m-%d}", "make a new key in time")
    if key.reason is not None:
        what = f"{name} rests for {span(key.back_in_s)} ({key.reason})"
        yield Finding(KEYS, "warning", what, f"wait, or: gemini keys --clear {key.label or key.key[-4:]}")


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
