"""Policies of the virtual host under which messages get lost."""

from collections.abc import Iterator, Sequence

from console.doctor.finding import Finding, Level, ok
from gateway.rabbitmq import vhost_policies
from gateway.rabbitmq.topology import Topology
from gateway.settings import Settings

AREA = "policies"

NO_MANAGEMENT = "check RABBITMQ_MANAGEMENT_URL, and give the user the tag `policymaker` or `monitoring`"


def check(settings: Settings, *, was_refused: bool) -> Iterator[Finding]:
    """Asks the management API, where one is set; `was_refused`: RabbitMQ itself has refused us already."""
    management_url = settings.rabbitmq_management_url
    if management_url is None:
        yield Finding(AREA, "unknown", "not looked at", "set RABBITMQ_MANAGEMENT_URL to have them checked")
        return
    is_well = True
    for names, level, advice in _groups(settings):
        found = vhost_policies.look(settings.amqp_address, management_url, names, ca_file=settings.rabbitmq_ca_file)
        if found is None:
            hint = "see the lines before" if was_refused else NO_MANAGEMENT
            yield Finding(AREA, "unknown", "the management API gives no answer", hint)
            return
        yield from (Finding(AREA, level, sentence, advice) for sentence in found)
        is_well = is_well and not found
    if is_well:
        yield ok(AREA, "none loses messages")


def _groups(settings: Settings) -> Iterator[tuple[Sequence[str], Level, str]]:
    """Queues, how bad it is to lose messages of them, and what to do about it."""
    yield list(Topology(settings).ours), "failed", "change its pattern so that it leaves gemini.* alone"
    shared = [settings.request_queue, settings.response_queue]
    yield shared, "warning", "change its pattern, unless requests and answers may get lost: nobody is told"
