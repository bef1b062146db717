"""`python -m console.keys`: the state of every key, and an end to a key's rest; see --help.

Exit codes: 0; 1 no key is usable, or no key has that name; 64 usage; 69 the store is away; 78 settings.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

from console.key_doctor import Finding, examine, learn_accounts
from gateway import exits
from gateway.errors import ProviderError, StoreUnavailable
from gateway.keys.pool import KeyPool
from gateway.keys.survey import Ask, retirement
from gateway.providers import provider_from
from gateway.providers.openrouter import OpenRouter
from gateway.resources import key_pool, open_stores
from gateway.secrets import ApiKey
from gateway.settings import Settings, SettingsError, load_settings

#: How long the provider has for each answer, in seconds.
DEADLINE_S = 10.0

COLUMNS = ("key", "label", "state", "reason", "back in", "used", "in flight", "credit left", "expires", "account")


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the keys, or clear one; errors are one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        stores = open_stores(settings)
    except SettingsError as error:
        return _complain(str(error), exits.SETTINGS)
    except StoreUnavailable as error:
        return _complain(str(error), exits.UNAVAILABLE)
    try:
        pool = key_pool(settings, stores.keys)
        with closing(provider_from(settings)) as provider:
            asked = provider if isinstance(provider, OpenRouter) and not options.offline else None
            if options.clear is not None:
                return _clear(pool, settings.keys, options.clear, _ask(asked))
            return _show(pool, settings, asked, json_wanted=options.json)
    except StoreUnavailable as error:
        return _complain(str(error), exits.UNAVAILABLE)
    finally:
        stores.close()


def _ask(provider: OpenRouter | None) -> Ask | None:
    return partial(provider.key_info, deadline_s=DEADLINE_S) if provider is not None else None


def _show(pool: KeyPool, settings: Settings, provider: OpenRouter | None, *, json_wanted: bool) -> int:
    findings = examine(pool, settings.keys, limit=settings.keys_max_per_minute, ask=_ask(provider))
    model = _about_the_model(provider) if provider is not None else None
    if json_wanted:
        print(json.dumps({"keys": [finding.as_json() for finding in findings], "model": model}, ensure_ascii=False))
    else:
        print("\n".join(_table(findings)))
        for finding in findings:
            if finding.trouble is not None:
                print(f"{finding.key}: {finding.trouble}")
        if model is not None:
            print(f"Model: {model}")
    if not any(finding.usable for finding in findings):
        return _complain("No key is usable.", exits.NOTHING)
    return 0


def _about_the_model(provider: OpenRouter) -> str | None:
    try:
        models = provider.models(deadline_s=DEADLINE_S)
    except ProviderError as error:
        return f"the provider's list could not be read: {error}"
    return retirement(provider.resolve_model(None), models, today=datetime.now(UTC).date())


def _clear(pool: KeyPool, keys: Sequence[ApiKey], wanted: str, ask: Ask | None) -> int:
    named = [key for key in keys if wanted == key.label or wanted.removeprefix("****") == str(key).removeprefix("****")]
    if not named:
        return _complain(f"No key is called {wanted}: give a label, or the last four characters.", exits.NOTHING)
    if len({key.label for key in named}) > 1 or (len(named) > 1 and wanted != named[0].label):
        return _complain(f"{wanted} could be any of {len(named)} keys: give a label.", exits.NOTHING)
    learn_accounts(pool, named, ask)
    for key in named:
        pool.clear(key.digest)
        print(f"{key}: its rest is over")
    return 0


def _table(findings: Sequence[Finding]) -> list[str]:
    rows = [COLUMNS, *(_row(finding) for finding in findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(finding: Finding) -> tuple[str, ...]:
    source = f" ({finding.source})" if finding.source else ""
    return (
        finding.key,
        finding.label or "-",
        finding.state,
        finding.reason or "-",
        f"{_span(finding.back_in_s)}{source}" if finding.back_in_s else "-",
        f"{finding.used}/{finding.limit}",
        str(finding.in_flight) if finding.in_flight else "-",
        f"${finding.credit_left:.2f}" if finding.credit_left is not None else "-",
        finding.expires or "-",
        finding.account or "-",
    )


def _span(seconds: float) -> str:
    """As people say it: 45 s, 12 min, 3.5 h."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{seconds:.0f} s"


def _complain(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m console.keys", description="The state of every API key.")
    parser.add_argument("--offline", action="store_true", help="do not ask the provider for credit, expiry and account")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--clear", metavar="KEY", help="end the rest of a key: its label, or its last four characters")
    return parser


if __name__ == "__main__":
    sys.exit(main())
