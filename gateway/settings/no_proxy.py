"""Which hosts are called without a proxy, as NO_PROXY says it. Pure.

There is no standard, so this takes what curl and the libraries of most languages take:
https://about.gitlab.com/blog/we-need-to-talk-no-proxy/
"""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

_PORTS: Final = {"http": 80, "https": 443}

#: A host or `[address]`, with a port or without.
_ENTRY: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:]+)(:(?P<port>\d+))?")


def is_direct(url: str, no_proxy: str | None) -> bool:
    """Whether `no_proxy` covers the host of `url`: by its name or a domain above it, by address, network or `*`."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    return any(_covers(entry, host, port) for entry in re.split(r"[,\s]+", (no_proxy or "").lower()) if entry)


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    parts = _ENTRY.fullmatch(entry)
    name, wanted = (parts["host"], parts["port"]) if parts else (entry, None)  # an address without brackets
    if wanted is not None and int(wanted) != port:
        return False
    try:
        network = ipaddress.ip_network(name.strip("[]"), strict=False)
    except ValueError:
        domain = name.removeprefix("*").removeprefix(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False
