"""One variant of the measured program: it reads what to do, line by line, and answers with CPU seconds.

Each variant is a process of its own, because instrumentations change whole processes.
"""

import asyncio
import contextlib
import contextvars
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
from otel_waybill import CircuitBreaker, Policy, RateLimit, Retry, RetryBudget

BODY = b"x" * 200
QUEUE: Arguments = {"x-expires": 600_000}
"""Named, as a service's queue is, and still gone ten minutes after the last round."""
PREFETCH = 100
DEADLINE = 600.0
"""Seconds that a request has, so many that nothing is ever late."""


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
        settle_spans = variant != "ours without settle spans"
        otel_waybill.instrument(settings=otel_waybill.Settings(settle_spans=settle_spans))
    elif variant == "contrib":
        from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor  # noqa: PLC0415 - it patches
        from opentelemetry.instrumentation.pika import PikaInstrumentor  # noqa: PLC0415 - it patches

        PikaInstrumentor().instrument()
        AioPikaInstrumentor().instrument()


def full_policy() -> Policy:
    """Return a policy with everything that it can ask of a delivery, all of which is always granted."""
    return Policy(
        retry=Retry(budget=RetryBudget()),
        breaker=CircuitBreaker(f"bench-{secrets.token_hex(4)}"),
        rate=RateLimit(1_000_000),
        concurrency=PREFETCH,
    )


class Pika:
    """The program on pika."""

    def __init__(self, *, by_hand: bool, policy: Policy | None) -> None:
        """Connect.

        Args:
            by_hand: whether the program writes its telemetry itself; else that is left to whoever has
                instrumented this process.
            policy: what it handles its messages under, if anything.
        """
        self._by_hand = by_hand
        self._policy = policy
        self._connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
        self._channel = self._connection.channel()
        self._channel.basic_qos(prefetch_count=PREFETCH)
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
            tag = method.delivery_tag
            if self._policy is not None:
                return  # which acknowledges
            if not self._by_hand:
                channel.basic_ack(tag)
                return
            with (
                floor.processing(self._queue, properties.headers or {}, tag),
                floor.settling(self._queue, tag),
            ):
                channel.basic_ack(tag)

        handler = handle if self._policy is None else self._policy.wrap(handle)
        with count.running():
            tag = self._channel.basic_consume(self._queue, handler)
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

    def __init__(self, *, by_hand: bool, policy: Policy | None) -> None:
        """Connect; the arguments are those of the program on pika."""
        self._by_hand = by_hand
        self._policy = policy
        self._runner = asyncio.Runner()
        self._name = f"bench-{secrets.token_hex(4)}"
        self._runner.run(self._connect())

    async def _connect(self) -> None:
        connection = await aio_pika.connect(os.environ["AMQP_URL"])
        channel = await connection.channel(publisher_confirms=False)
        await channel.set_qos(prefetch_count=PREFETCH)
        self._exchange = channel.default_exchange
        self._queue = await channel.declare_queue(self._name, durable=True, arguments=QUEUE)

    def publish(self, messages: int) -> float:
        """Publish and return the CPU seconds it took."""
        # The runner has a context of its own, in which no block of the caller is open.
        return self._runner.run(self._publish(messages), context=contextvars.copy_context())

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
            if self._policy is not None:
                pass  # it acknowledges
            elif self._by_hand:
                tag = message.delivery_tag or 0
                with floor.processing(self._name, message.headers, tag), floor.settling(self._name, tag):
                    await message.ack()
            else:
                await message.ack()
            handled += 1
            if handled == messages:
                done.set()

        handler = handle if self._policy is None else self._policy.wrap(handle)
        with count.running():
            tag = await self._queue.consume(handler)
            await done.wait()
            await self._queue.cancel(tag)
        return count.seconds


def turn(program: Pika | AioPika, operation: str, messages: int) -> float:
    """Have *program* do what *operation* says, and return the CPU seconds it took."""
    if operation == "consume":
        return program.consume(messages)
    if operation == "publish":
        return program.publish(messages)
    with otel_waybill.request(deadline=DEADLINE):
        return program.publish(messages)


def main() -> None:
    """Serve until standard input ends."""
    variant = sys.argv[1]
    switch_on(variant)
    by_hand, policy = variant == "floor", full_policy() if "policy" in variant else None
    programs: dict[str, Pika | AioPika] = {
        "pika": Pika(by_hand=by_hand, policy=policy),
        "aio-pika": AioPika(by_hand=by_hand, policy=policy),
    }
    print("ready", flush=True)
    for line in sys.stdin:
        client, operation, messages = line.split()
        print(turn(programs[client], operation, int(messages)), flush=True)


if __name__ == "__main__":
    main()
