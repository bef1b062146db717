"""Stock Dramatiq in our shape: a bridge, an actor, an `on_success` actor; default middleware, confirmed enqueues."""

import os
import time

import dramatiq
import requests
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from envelope import HEADERS, URL, envelope, question
from publishing import publish

CONFIRM = "PEER_UNCONFIRMED" not in os.environ
dramatiq.set_broker(RabbitmqBroker(url=os.environ["RABBITMQ_URL"], confirm_delivery=CONFIRM))

session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=64))


@dramatiq.actor(queue_name="generate", max_retries=3)
def generate(body):
    started = time.monotonic()
    request, asked = question(body)
    answer = session.post(URL, json=asked, headers=HEADERS, timeout=120).json()
    return [request["request_id"], envelope(request, answer, started).decode()]


@dramatiq.actor(queue_name="callbacks")
def publish_success(_message, result):
    request_id, reply = result
    publish("gemini.responses", reply.encode(), request_id)


def enqueue(body):
    generate.send_with_options(args=(body,), on_success=publish_success)


def park(body, seconds):
    generate.send_with_options(args=(body,), on_success=publish_success, delay=1000 * seconds)
