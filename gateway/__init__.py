"""Plain Python that knows the providers, the keys and our own messages; never Dramatiq."""
