"""The cashier (aio-pika): charges a flaky gateway, behind a circuit breaker, and asks for a receipt."""

import asyncio
import json
import signal

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from common import URL, note, queue
from gateway import Gateway

import otel_waybill as waybill

# Small numbers, so that the story fits into half a minute.
breaker = waybill.CircuitBreaker(
    "gateway", window=2.0, minimum_calls=4, failure_rate=0.5, open_for=1.2, open_ceiling=4.0, probes=1
)
policy = waybill.Policy(
    retry=waybill.Retry(attempts=8, backoff=waybill.Backoff(first=0.7, ceiling=3.0, jitter="none")),
    breaker=breaker,
)


async def main() -> None:
    """Consume until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    gateway = Gateway()
    async with await aio_pika.connect_robust(URL) as connection:
        channel = await connection.channel()

        async def handle(message: AbstractIncomingMessage) -> None:
            order = json.loads(message.body)
            await gateway.charge(order["id"], timeouts=order["timeouts"])
            receipt = aio_pika.Message(
                message.body, message_id=message.message_id, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
            )
            await channel.default_exchange.publish(receipt, routing_key=queue("receipts"))

        payments = await channel.get_queue(queue("payments"))
        tag = await payments.consume(policy.wrap(handle))
        note("payments", "ready")
        await stop.wait()
        await payments.cancel(tag)


asyncio.run(main())
