"""Fixtures of the tests of one client."""

import asyncio
from collections.abc import Iterator

import aio_pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

import otel_waybill as waybill
from conformance.telemetry import Telemetry
from integration.aio_pika_recording import Tell, told
from integration.pika_recording import Recorded, Unique, opened, recording, send_bare
from otel_waybill import guard


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    """Pika, instrumented for one test."""
    with recording() as recorded:
        yield recorded


@pytest.fixture
def channel(amqp_url: str) -> Iterator[BlockingChannel]:
    """A channel of pika's, of a connection of its own."""
    with opened(amqp_url) as channel:
        yield channel


@pytest.fixture
def queue(amqp_url: str, unique: Unique) -> Iterator[str]:
    """A queue that goes with the test."""
    name = unique("q")
    with opened(amqp_url) as channel:
        channel.queue_declare(name)
        yield name
        channel.queue_delete(name)


@pytest.fixture
def policed(amqp_url: str, unique: Unique) -> Iterator[str]:
    """A queue with one message, where failures are to be parked; in the end both queues go."""
    name = unique("policed")
    with opened(amqp_url) as channel:
        channel.queue_declare(name, durable=True)
        send_bare(channel, name)
        yield name
        channel.queue_delete(name)
        channel.queue_delete(f"{name}.parked")


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """What an instrumented aio-pika records, with our own faults let through."""
    guard.reraise(on=True)
    yield Telemetry().instrument()
    waybill.uninstrument()
    guard.reraise(on=False)


@pytest.fixture(params=[aio_pika.connect, aio_pika.connect_robust], ids=["plain", "robust"])
def tell(request: pytest.FixtureRequest, telemetry: Telemetry, amqp_url: str, unique: Unique) -> Tell:
    """Runs a story on a connection of aio-pika's of either kind, and finds nothing current at its end."""
    return lambda story: asyncio.run(told(story, telemetry, request.param(amqp_url), unique("doors")))
