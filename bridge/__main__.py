"""`python -m bridge`: relay requests to the workers until SIGTERM or SIGINT."""

import logging
import signal
import sys

import dramatiq

from bridge.relay import Relay
from bridge.wire import StrictEncoder
from gateway.errors import GatewayError
from gateway.rabbitmq import vhost_policies as policies
from gateway.reporting import logs, sentry
from gateway.resources import Resources
from gateway.settings import SettingsError, load_settings

#: Exit codes from sysexits.h: EX_CONFIG, EX_UNAVAILABLE.
EXIT_SETTINGS = 78
EXIT_UNAVAILABLE = 69

logger = logging.getLogger("bridge")


def main() -> int:
    """Run the bridge; the exit code is 0 after a stop, 78 for bad settings, 69 when RabbitMQ refuses or is away."""
    resources = Resources()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: resources.stopping.set())
    try:
        settings = load_settings(need_keys=False)
        logs.configure(settings, stream=sys.stderr)
        sentry.configure(settings)
        resources.open_messaging(settings, name="bridge")
        if settings.rabbitmq_management_url is not None:
            url = settings.rabbitmq_url.get_secret_value()
            policies.look_in_background(url, settings.rabbitmq_management_url, resources.topology().ours)
        dramatiq.set_encoder(StrictEncoder())
        Relay(resources).run()
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - logging is not set up yet
        return EXIT_SETTINGS
    except GatewayError as error:
        asked_to_stop = resources.stopping.is_set()
        logger.log(logging.INFO if asked_to_stop else logging.CRITICAL, "%s", error)
        return 0 if asked_to_stop else EXIT_UNAVAILABLE
    finally:
        resources.close(timeout_s=5.0)
        sentry.close(timeout_s=2.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
