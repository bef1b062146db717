"""The plain asyncio worker: aio-pika and aiohttp in one process, confirmed publish, then ack; no ledger."""

import asyncio
import logging
import os
import time

import aio_pika
import aiohttp
from envelope import HEADERS, URL, envelope, question

PREFETCH = int(os.environ.get("PEER_PREFETCH", "100"))


async def main() -> None:
    logging.basicConfig(level=logging.INFO)
    logger = logging.getLogger("worker")
    connection = await aio_pika.connect_robust(os.environ["RABBITMQ_URL"])
    channel = await connection.channel(publisher_confirms=True)
    await channel.set_qos(prefetch_count=PREFETCH)
    requests = await channel.declare_queue("gemini.requests", durable=True)
    await channel.declare_queue("gemini.responses", durable=True)
    limit = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=limit, headers=HEADERS) as session:

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            started = time.monotonic()
            request, asked = question(message.body)
            async with session.post(URL, json=asked) as response:
                answer = await response.json()
            reply = aio_pika.Message(
                envelope(request, answer, started),
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                correlation_id=request["request_id"],
            )
            await channel.default_exchange.publish(reply, "gemini.responses")
            await message.ack()
            logger.info("[%s] answered", request["request_id"])

        await requests.consume(handle)
        print("ready", flush=True)
        await asyncio.Future()


asyncio.run(main())
