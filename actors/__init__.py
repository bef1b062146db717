"""The Dramatiq side: `dramatiq actors` runs this package.

The broker comes first: an actor that is declared before it would silently create a second, default broker.
"""

from actors.broker import broker

# isort: split
from actors.callbacks import publish_error, publish_success
from actors.generate import generate

__all__ = ["broker", "generate", "publish_error", "publish_success"]
