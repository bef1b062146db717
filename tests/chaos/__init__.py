"""Faults of many kinds, injected into the real thing: RabbitMQ, the Procfile's processes, a provider over HTTP."""
