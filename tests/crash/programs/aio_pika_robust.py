"""A consumer on aio-pika that settles by itself, its policy given by name; aio-pika connects it again."""

import asyncio
import logging

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from opentelemetry.sdk.trace import TracerProvider

import otel_waybill as waybill
from crash.programs.work import Orders


async def main(orders: Orders) -> None:
    """Consume until killed."""
    waybill.instrument(tracer_provider=TracerProvider(), policies={orders.queue: orders.policy})

    async def handle(message: AbstractIncomingMessage) -> None:
        async with message.process():
            orders.begin(message.body)
            await asyncio.sleep(0.0005)
            orders.end(message.body)

    connection = await aio_pika.connect_robust(orders.url, reconnect_interval=0.1, timeout=4)
    queue = await (await connection.channel()).get_queue(orders.queue)
    await queue.consume(handle)
    await asyncio.Event().wait()


if __name__ == "__main__":
    for name in ("aio_pika", "aiormq"):  # which are loud about broken connections
        logging.getLogger(name).setLevel(logging.CRITICAL)
    asyncio.run(main(Orders.given()))
