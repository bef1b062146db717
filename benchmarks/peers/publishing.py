"""A confirmed publish from any thread: a connection for each, as pika's documentation recommends."""

import os
import threading

import pika

_local = threading.local()


def publish(queue: str, body: bytes, correlation_id: str) -> None:
    channel = getattr(_local, "channel", None)
    if channel is None or channel.is_closed:
        connection = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"]))
        channel = _local.channel = connection.channel()
        channel.queue_declare("gemini.responses", durable=True)
        channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=2, correlation_id=correlation_id)
    channel.basic_publish("", queue, body, properties, mandatory=True)
