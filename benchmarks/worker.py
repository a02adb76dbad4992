"""One variant of the measured program: it reads what to do, line by line, and answers with CPU seconds.

Each variant is a process of its own, because instrumentations change whole processes. All of them take
turns in short rounds, so that whatever else the machine does falls on all of them.
"""

import asyncio
import contextlib
import os
import secrets
import sys
import time
from collections.abc import Iterator
from typing import cast

import aio_pika
import floor
import pika
from aio_pika.abc import AbstractIncomingMessage, HeadersType
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from pamqp.common import Arguments
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic, BasicProperties

import otel_waybill

BODY = b"x" * 200
URL = os.environ["AMQP_URL"]
QUEUE: Arguments = {"x-expires": 600_000}
"""Named, as a service's queue is, and still gone ten minutes after the last round."""


class Discard(SpanExporter):
    """Takes every span and keeps none: exporting is the same for all and is not what is measured."""

    def export(self, spans: object) -> SpanExportResult:
        """Say that all is well."""
        del spans
        return SpanExportResult.SUCCESS


class Count:
    """CPU seconds of this process between two moments."""

    seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Measure the block."""
        started = time.process_time()
        yield
        self.seconds = time.process_time() - started


def switch_on(variant: str) -> None:
    """Instrument this process as *variant* says."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Discard()))
    trace.set_tracer_provider(provider)
    if variant.startswith("ours"):
        otel_waybill.instrument(settings=otel_waybill.Settings(settle_spans=variant == "ours"))
    elif variant == "contrib":
        from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor  # noqa: PLC0415 - it patches
        from opentelemetry.instrumentation.pika import PikaInstrumentor  # noqa: PLC0415 - it patches

        PikaInstrumentor().instrument()
        AioPikaInstrumentor().instrument()


class Pika:
    """The program on pika."""

    def __init__(self, *, by_hand: bool) -> None:
        """Connect, and do telemetry *by hand* or leave it to whoever has instrumented this process."""
        self._by_hand = by_hand
        self._connection = pika.BlockingConnection(pika.URLParameters(URL))
        self._channel = self._connection.channel()
        self._queue = f"bench-{secrets.token_hex(4)}"
        self._channel.queue_declare(self._queue, durable=True, arguments=QUEUE)

    def publish(self, messages: int) -> float:
        """Publish and return the CPU seconds it took."""
        count = Count()
        with count.running():
            for _ in range(messages):
                self._publish()
        return count.seconds

    def consume(self, messages: int) -> float:
        """Consume what was published and return the CPU seconds it took."""
        handled, count = 0, Count()

        def handle(
            channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, _: bytes
        ) -> None:
            nonlocal handled
            handled += 1
            if not self._by_hand:
                channel.basic_ack(method.delivery_tag)
                return
            tag = method.delivery_tag
            with (
                floor.processing(self._queue, properties.headers or {}, tag),
                floor.settling(self._queue, tag),
            ):
                channel.basic_ack(tag)

        with count.running():
            tag = self._channel.basic_consume(self._queue, handle)
            while handled < messages:
                self._connection.process_data_events(time_limit=None)
            self._channel.basic_cancel(tag)
        return count.seconds

    def _publish(self) -> None:
        properties = BasicProperties(message_id="4711", headers={"tenant": "acme"})
        if not self._by_hand:
            self._channel.basic_publish("", self._queue, BODY, properties)
            return
        with floor.publishing(self._queue, properties.headers or {}) as headers:
            properties = BasicProperties(message_id="4711", headers=headers)
            self._channel.basic_publish("", self._queue, BODY, properties)


class AioPika:
    """The program on aio-pika."""

    def __init__(self, *, by_hand: bool) -> None:
        """Connect, and do telemetry *by hand* or leave it to whoever has instrumented this process."""
        self._by_hand = by_hand
        self._runner = asyncio.Runner()
        self._name = f"bench-{secrets.token_hex(4)}"
        self._runner.run(self._connect())

    async def _connect(self) -> None:
        connection = await aio_pika.connect(URL)
        channel = await connection.channel(publisher_confirms=False)
        self._exchange = channel.default_exchange
        self._queue = await channel.declare_queue(self._name, durable=True, arguments=QUEUE)

    def publish(self, messages: int) -> float:
        """Publish and return the CPU seconds it took."""
        return self._runner.run(self._publish(messages))

    async def _publish(self, messages: int) -> float:
        count = Count()
        with count.running():
            for _ in range(messages):
                message = aio_pika.Message(BODY, message_id="4711", headers={"tenant": "acme"})
                if not self._by_hand:
                    await self._exchange.publish(message, self._name)
                    continue
                with floor.publishing(self._name, message.headers) as headers:
                    message = aio_pika.Message(BODY, message_id="4711", headers=cast("HeadersType", headers))
                    await self._exchange.publish(message, self._name)
        return count.seconds

    def consume(self, messages: int) -> float:
        """Consume what was published and return the CPU seconds it took."""
        return self._runner.run(self._consume(messages))

    async def _consume(self, messages: int) -> float:
        handled, count, done = 0, Count(), asyncio.Event()

        async def handle(message: AbstractIncomingMessage) -> None:
            nonlocal handled
            if self._by_hand:
                tag = message.delivery_tag or 0
                with floor.processing(self._name, message.headers, tag), floor.settling(self._name, tag):
                    await message.ack()
            else:
                await message.ack()
            handled += 1
            if handled == messages:
                done.set()

        with count.running():
            tag = await self._queue.consume(handle)
            await done.wait()
            await self._queue.cancel(tag)
        return count.seconds


def main() -> None:
    """Serve until standard input ends."""
    variant = sys.argv[1]
    switch_on(variant)
    programs: dict[str, Pika | AioPika] = {
        "pika": Pika(by_hand=variant == "floor"),
        "aio-pika": AioPika(by_hand=variant == "floor"),
    }
    print("ready", flush=True)
    for line in sys.stdin:
        client, operation, messages = line.split()
        program = programs[client]
        seconds = program.publish(int(messages)) if operation == "publish" else program.consume(int(messages))
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
