"""Closing a channel of aio-pika on which deliveries are under way."""

import asyncio
from collections.abc import Callable, Iterator

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

import otel_waybill as waybill
from conformance.telemetry import Telemetry
from otel_waybill import Policy, guard


@pytest.fixture(params=[True, False], ids=["instrumented", "uninstrumented"])
def telemetry(request: pytest.FixtureRequest) -> Iterator[Telemetry]:
    """An aio-pika with and without patches, with our own faults let through."""
    guard.reraise(on=True)
    yield Telemetry().instrument() if request.param else Telemetry()
    waybill.uninstrument()
    guard.reraise(on=False)


@pytest.mark.usefixtures("telemetry")
def test_closing_a_channel_leaves_the_connection_to_the_others(
    amqp_url: str, unique: Callable[[str], str]
) -> None:
    """A handler that is stopped by it gives nothing back on it: RabbitMQ would close the whole connection."""

    async def story() -> None:
        started = asyncio.Event()

        async def handle(_: AbstractIncomingMessage) -> None:
            started.set()
            await asyncio.sleep(60)

        async with await aio_pika.connect(amqp_url) as connection:
            closing, staying = await connection.channel(), await connection.channel()
            queue = await closing.declare_queue(unique("closing"), durable=True)
            await queue.consume(Policy(settle="return").wrap(handle, queue=queue.name))
            await staying.default_exchange.publish(aio_pika.Message(b"order"), queue.name)
            await started.wait()
            await closing.close()

            back = await (await staying.get_queue(queue.name)).get(timeout=5)
            assert b"order" == back.body
            await back.ack()
            await staying.queue_delete(queue.name)

    asyncio.run(story())
