"""The shop (aio-pika): publishes what its customers order, under a request id and a deadline.

The customers stand at standard input: one order a line, as JSON.
"""

import asyncio
import json
import signal
import sys

import aio_pika
from aio_pika.abc import AbstractExchange
from common import URL, note, queue

import otel_waybill as waybill


async def sell(exchange: AbstractExchange, line: bytes) -> None:
    """Publish one order; everything done on its behalf inherits what is left of its deadline."""
    order = json.loads(line)
    with waybill.request(id=order["id"], deadline=order["deadline"]):
        message = aio_pika.Message(
            line, message_id=order["id"], delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        await exchange.publish(message, routing_key=queue("orders"))
    # The channel uses publisher confirms: only now is the order safe with the broker.
    note("shop", "published", order=order["id"])


async def main() -> None:
    """Sell until the customers or SIGTERM end it."""
    loop = asyncio.get_running_loop()
    customers = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(customers), sys.stdin)
    loop.add_signal_handler(signal.SIGTERM, customers.feed_eof)
    async with await aio_pika.connect_robust(URL) as connection:
        channel = await connection.channel()
        note("shop", "ready")
        async for line in customers:
            await sell(channel.default_exchange, line)


asyncio.run(main())
