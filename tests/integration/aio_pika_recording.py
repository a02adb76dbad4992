"""What the tests of aio-pika's doors share: a queue, and the spans of those who work with it."""

from collections.abc import Awaitable, Callable, Coroutine

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from opentelemetry.sdk.trace import ReadableSpan

import otel_waybill as waybill
from conformance.telemetry import Telemetry, here


class Doors:
    """A queue, somebody who fills it, and the spans of those who fetch from it."""

    def __init__(self, telemetry: Telemetry, channel: AbstractChannel, queue: AbstractQueue) -> None:
        self.telemetry = telemetry
        self.channel = channel
        self.exchange = channel.default_exchange
        self.queue = queue

    async def fill(self, *requests: str) -> None:
        """Publish one message for each request."""
        for request in requests:
            with waybill.request(id=request):
                await self.send(aio_pika.Message(request.encode()))

    async def send(self, message: aio_pika.abc.AbstractMessage) -> None:
        """Publish *message* to the queue."""
        await self.exchange.publish(message, self.queue.name)

    def spans(self, operation: str) -> list[ReadableSpan]:
        """Return the ended spans of one operation on the queue, by their start."""
        return [span for span in self.telemetry.spans() if span.name == f"{operation} {self.queue.name}"]


Story = Callable[[Doors], Coroutine[object, object, None]]
Tell = Callable[[Story], None]


async def told(
    story: Story, telemetry: Telemetry, connecting: Awaitable[AbstractConnection], name: str
) -> None:
    """Run *story* with a queue called *name* on a connection of its own."""
    async with await connecting as connection:
        channel = await connection.channel()
        await channel.set_qos(10)
        queue = await channel.declare_queue(name, durable=True)
        await story(Doors(telemetry, channel, queue))
        await queue.delete(if_unused=False, if_empty=False)
        assert not here().is_valid
        assert waybill.Waybill() == waybill.current()
