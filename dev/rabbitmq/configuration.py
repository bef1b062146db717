"""What a private RabbitMQ is told: its files, and its environment, which leads to no other server's."""

import os
import secrets
from pathlib import Path
from typing import NamedTuple

CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management_port}
# The default of 50 MB, in absolute terms; the demo and the tests need little.
disk_free_limit.absolute = 50MB
log.file.level = warning
"""


class Ports(NamedTuple):
    """Of RabbitMQ, its management API, Erlang's name server, and Erlang's distribution."""

    amqp: int
    management: int
    names: int
    distribution: int


def write(folder: Path, ports: Ports) -> None:
    """The files that the environment names; those that are optional may have been put there by others."""
    (folder / "rabbitmq.conf").write_text(CONFIG.format(port=ports.amqp, management_port=ports.management))
    (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
    cookie = folder / ".erlang.cookie"
    if not cookie.exists():
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)


def environment(folder: Path, ports: Ports) -> dict[str, str]:
    """Of the server, and of its `rabbitmqctl`."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
    return others | {
        "HOME": str(folder),  # where Erlang looks for its cookie
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin",
        "ERL_EPMD_PORT": str(ports.names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_NODENAME": f"gemini-{ports.amqp}@localhost",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
        "RABBITMQ_PID_FILE": str(folder / "rabbitmq.pid"),
    }
