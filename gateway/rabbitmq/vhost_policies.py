"""Policies of the virtual host that would make our waits lossy: looked for once, where the management API answers."""

import logging
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pika
import requests

from gateway.reporting.redaction import escape_controls
from gateway.settings import Settings

#: What a policy may set on a queue that messages must not get lost in: they end them, or drop them.
LOSSY = ("message-ttl", "expires", "max-length", "max-length-bytes")

#: How long the management API has for an answer, in seconds.
TIMEOUT_S = 5.0

_OK = 200

logger = logging.getLogger(__name__)


def lossy(policies: Iterable[Mapping[str, Any]], queues: Iterable[str]) -> list[str]:
    """A sentence for each policy that would lose messages of `queues`; pure.

    `policies` are rows of `GET /api/policies/<vhost>`. One that only refuses what is too much (`overflow` is
    `reject-publish`) loses nothing: publishes wait then, and say so.
    """
    names = list(queues)
    return [text for policy in policies if (text := _complaint(policy, names)) is not None]


def look(amqp_url: str, management_url: str, queues: Iterable[str], *, ca_file: Path | None = None) -> list[str] | None:
    """A sentence for each policy that would lose messages; None where the API does not answer. Raises nothing.

    `ca_file` has the authority of its certificate, where no public one has signed it.
    """
    parameters = pika.URLParameters(amqp_url)
    vhost = quote(parameters.virtual_host, safe="")
    names = list(queues)
    found: list[str] = []
    for kind in ("policies", "operator-policies"):
        policies = _fetch(f"{management_url.rstrip('/')}/api/{kind}/{vhost}", parameters.credentials, ca_file)
        if policies is None:
            return None
        found += lossy(policies, names)
    return found


def warn(amqp_url: str, management_url: str, queues: Iterable[str], *, ca_file: Path | None = None) -> None:
    """Log what `look` has found."""
    for sentence in look(amqp_url, management_url, queues, ca_file=ca_file) or ():
        logger.warning("%s", sentence)


def look_in_background(settings: Settings, queues: Iterable[str]) -> None:
    """As `warn`, on a thread of its own, where the settings name a management API: nothing waits for it."""
    if settings.rabbitmq_management_url is not None:
        arguments = (settings.amqp_address, settings.rabbitmq_management_url, tuple(queues))
        terms = {"ca_file": settings.rabbitmq_ca_file}
        threading.Thread(target=warn, args=arguments, kwargs=terms, name="policies", daemon=True).start()


def _complaint(policy: Mapping[str, Any], queues: list[str]) -> str | None:
    definition, pattern = policy.get("definition"), policy.get("pattern")
    if not isinstance(definition, Mapping) or not isinstance(pattern, str) or policy.get("apply-to") == "exchanges":
        return None
    harm = [key for key in LOSSY if key in definition]
    if definition.get("overflow") == "reject-publish":
        harm = [key for key in harm if not key.startswith("max-length")]
    hit = [queue for queue in queues if _matches(pattern, queue)] if harm else []
    if not hit:
        return None
    name, example = escape_controls(str(policy.get("name")), 80), hit[0]
    return f"The policy {name} sets {', '.join(harm)} on {example} ({len(hit)} queues): messages can get lost there"


def _matches(pattern: str, queue: str) -> bool:
    try:
        return re.search(pattern, queue) is not None
    except re.error:  # of a dialect that is RabbitMQ's: compared as a text
        return pattern in queue


def _fetch(url: str, credentials: Any, ca_file: Path | None) -> list[Mapping[str, Any]] | None:
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(ca_file) if ca_file is not None else True
            answer = session.get(
                url, auth=(credentials.username, credentials.password), timeout=TIMEOUT_S, allow_redirects=False
            )
        rows = answer.json() if answer.status_code == _OK else None
    except (requests.RequestException, ValueError) as error:
        logger.info("Policies are not checked: the management API gives no answer (%s)", type(error).__name__)
        return None
    if not isinstance(rows, list):
        logger.info("Policies are not checked: the management API answered %d", answer.status_code)
        return None
    return [row for row in rows if isinstance(row, Mapping)]
