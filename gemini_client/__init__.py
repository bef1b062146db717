"""Asks the worker over RabbitMQ: `gemini_client.sync.Client` with pika, `gemini_client.aio.AsyncClient` with aio-pika.

Of the worker it imports the list of error codes, which needs nothing.
"""
