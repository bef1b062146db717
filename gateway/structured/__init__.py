"""Answers that have to hold a JSON schema: whether a schema can be used, and whether an answer holds it."""

from gateway.structured.answers import admit, hold

__all__ = ["admit", "hold"]
