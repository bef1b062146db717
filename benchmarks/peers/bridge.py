"""Relays `gemini.requests` into a job system: one confirmed enqueue a message, then the ack.

python bridge.py dramatiq|celery
"""

import importlib
import os
import sys

import pika

enqueue = importlib.import_module(f"{sys.argv[1]}_worker").enqueue
connection = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"]))
channel = connection.channel()
channel.queue_declare("gemini.requests", durable=True)
channel.basic_qos(prefetch_count=100)


def on_message(channel, method, _properties, body):
    enqueue(body.decode())
    channel.basic_ack(method.delivery_tag)


channel.basic_consume("gemini.requests", on_message)
print("ready", flush=True)
channel.start_consuming()
