"""Celery with the same job: late acks, confirmed enqueues, a pool of threads, since the job waits for the network."""

import os
import time

import requests
from celery import Celery
from envelope import HEADERS, URL, envelope, question
from publishing import publish

CONFIRM = "PEER_UNCONFIRMED" not in os.environ
app = Celery("celery_worker", broker=os.environ["RABBITMQ_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={"confirm_publish": CONFIRM},
    worker_hijack_root_logger=False,
    task_default_queue="generate",
)

session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=64))


@app.task(name="generate", max_retries=3)
def generate(body):
    started = time.monotonic()
    request, asked = question(body)
    answer = session.post(URL, json=asked, headers=HEADERS, timeout=120).json()
    publish("gemini.responses", envelope(request, answer, started), request["request_id"])


def enqueue(body):
    generate.delay(body)


def park(body, seconds):
    generate.apply_async((body,), countdown=seconds)
