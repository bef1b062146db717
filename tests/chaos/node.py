"""A RabbitMQ that is as impatient as it can be made, with a user of the product's own."""

import secrets
from pathlib import Path
from typing import Any

from dev.rabbitmq import Node, vhost_of

USER = "product"

#: What RabbitMQ does in minutes by default, in seconds: acks that are overdue, dead letters that are not confirmed.
ADVANCED = """\
[{rabbit, [
  {channel_tick_interval, 1000},
  {consumer_timeout, 5000},
  {quorum_tick_interval, 300},
  {collect_statistics_interval, 200},
  {dead_letter_worker_publisher_confirm_timeout, 2000}
]}].
"""

_OURS = ("gemini.generate", "gemini.batch", "gemini.callbacks", "gemini.requests")


class ChaosNode(Node):
    """A server of the harness's own, to be hurt."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.password = f"canary-{secrets.token_hex(8)}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "advanced.config").write_text(ADVANCED)

    def add_user(self) -> str:
        """The product's user, as "name:password"."""
        self.api("PUT", f"users/{USER}", {"password": self.password, "tags": ""})
        return f"{USER}:{self.password}"

    def queues(self, url: str) -> dict[str, int]:
        """Every queue with its messages, those under way included."""
        rows: list[dict[str, Any]] = self.api(
            "GET", f"queues/{vhost_of(url)}?disable_stats=true&enable_queue_totals=true"
        )
        return {row["name"]: int(row.get("messages", 0)) for row in rows}

    def ours(self, url: str) -> dict[str, int]:
        """The queues through which work goes, those that hold any; what is dead does not count."""
        queues = self.queues(url).items()
        return {
            name: count for name, count in queues if count and name.startswith(_OURS) and not name.endswith(".dead")
        }
