"""`gemini keys`: the state of every key, and an end to a key's rest."""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer

from console.key_doctor import Finding, examine, learn_accounts
from console.opened import Opened, opened
from console.screen import Json, give_up, print_json, screen, span, table
from gateway import exits
from gateway.errors import ProviderError
from gateway.keys.pool import KeyPool
from gateway.keys.survey import Ask, names_of, retirement
from gateway.providers import Provider, provider_from
from gateway.secrets import ApiKey

#: How long the provider has for each answer, in seconds.
DEADLINE_S = 10.0

COLUMNS = (
    "key",
    "label",
    "state",
    "reason",
    "back in",
    "used",
    "in flight",
    "credit left",
    "expires",
    "account",
)


def keys(
    *,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the provider for credit, expiry and account.")
    ] = False,
    clear: Annotated[
        str | None,
        typer.Option("--clear", metavar="KEY", help="End the rest of a key: its label, or its last four characters."),
    ] = None,
    json_wanted: Json = False,
) -> None:
    """Every key: its window, its rest and until when, its credit.

    Exit code 1 when no key is usable, or none has that name.
    """
    with opened(need_keys=True) as here, closing(provider_from(here.settings)) as provider:
        asked = None if offline else provider
        if clear is not None:
            _clear(here.pool, here.settings.keys, clear, _ask(asked))
        else:
            _show(here, asked, json_wanted=json_wanted)


def _ask(provider: Provider | None) -> Ask | None:
    return partial(provider.key_info, deadline_s=DEADLINE_S) if provider is not None else None


def _show(here: Opened, provider: Provider | None, *, json_wanted: bool) -> None:
    settings = here.settings
    findings = examine(here.pool, settings.keys, limit=settings.keys_max_per_minute, ask=_ask(provider))
    model = _about_the_model(provider, names_of(settings).other_model) if provider is not None else None
    if json_wanted:
        print_json({"keys": [finding.as_json() for finding in findings], "model": model})
    else:
        _draw(findings, model)
    if not any(finding.usable for finding in findings):
        give_up("No key is usable: see what gemini doctor says of them.", exits.NOTHING)


def _draw(findings: Sequence[Finding], model: str | None) -> None:
    out = screen()
    out.print(table(COLUMNS, map(_row, findings), right=("back in", "used", "in flight", "credit left")))
    for finding in findings:
        if finding.trouble is not None:
            out.print(f"{finding.key}: {finding.trouble}")
    if model is not None:
        out.print(f"Model: {model}")


def _about_the_model(provider: Provider, remedy: str) -> str | None:
    try:
        models = provider.models(deadline_s=DEADLINE_S)
    except ProviderError as error:
        return f"the provider's list could not be read: {error}"
    return retirement(provider.resolve_model(None), models, today=datetime.now(UTC).date(), remedy=remedy)


def _clear(pool: KeyPool, keys: Sequence[ApiKey], wanted: str, ask: Ask | None) -> None:
    named = [key for key in keys if wanted == key.label or wanted.removeprefix("****") == str(key).removeprefix("****")]
    if not named:
        give_up(f"No key is called {wanted}: give a label, or the last four characters.", exits.NOTHING)
    if len({key.label for key in named}) > 1 or (len(named) > 1 and wanted != named[0].label):
        give_up(f"{wanted} could be any of {len(named)} keys: give a label.", exits.NOTHING)
    learn_accounts(pool, named, ask)
    resting = {status.key.digest for status in pool.status() if status.rest is not None}
    for key in named:
        pool.clear(key.digest)
        print(f"{key}: {'its rest is over' if key.digest in resting else 'it did not rest'}")


def _row(finding: Finding) -> tuple[object, ...]:
    source = f" ({finding.source})" if finding.source else ""
    return (
        finding.key,
        finding.label,
        finding.state,
        finding.reason,
        f"{span(finding.back_in_s)}{source}" if finding.back_in_s else None,
        f"{finding.used}/{finding.limit}",
        finding.in_flight or None,
        f"${finding.credit_left:.2f}" if finding.credit_left is not None else None,
        finding.expires,
        finding.account,
    )
