"""Beside OpenTelemetry's own instrumentations: whatever the order, each message has one span of each kind."""

from collections.abc import Callable, Iterator

import pytest
from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor as ContribAioPika
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.instrumentation.pika import PikaInstrumentor as ContribPika
from opentelemetry.trace import SpanKind

import otel_waybill as waybill
from conformance.broker import Broker
from conformance.clients.aio_pika_robust import AioPikaRobust
from conformance.clients.pika_blocking import PikaBlocking
from conformance.protocol import PATIENCE, Client, Received, idle, publish, until
from conformance.telemetry import Telemetry
from integration.pika_recording import opened

KINDS = [SpanKind.PRODUCER, SpanKind.CONSUMER]


@pytest.fixture(
    params=[(PikaBlocking, ContribPika), (AioPikaRobust, ContribAioPika)], ids=["pika", "aio-pika"]
)
def pair(request: pytest.FixtureRequest, amqp_url: str) -> Iterator[tuple[Client, BaseInstrumentor]]:
    """A client, and the other instrumentation of it."""
    make, other = request.param
    client, contrib = make(amqp_url), other()
    yield client, contrib
    client.close()
    waybill.uninstrument()
    if contrib.is_instrumented_by_opentelemetry:
        contrib.uninstrument()


@pytest.fixture
def queue(amqp_url: str, unique: Callable[[str], str]) -> Iterator[str]:
    """A queue."""
    broker, name = Broker(amqp_url), unique("contrib")
    broker.declare(name)
    yield name
    broker.delete(name)
    broker.close()


def switch_on(contrib: BaseInstrumentor, telemetry: Telemetry) -> None:
    """Instrument by *contrib*, even if it says that it does not know this version of the client."""
    contrib.instrument(tracer_provider=telemetry.provider, skip_dep_check=True)


def kinds(client: Client, telemetry: Telemetry, queue: str) -> list[SpanKind]:
    """Send one message and return the kinds of the spans of publishing and handling it, sorted."""
    seen = len(telemetry.spans())
    handled = []

    async def handle(message: Received) -> None:
        handled.append(message.body)
        await message.ack()

    client.consume(queue, client.native(handle))
    publish(client, queue)
    until(client, lambda: handled)
    idle(client)
    found = [span.kind for span in telemetry.spans()[seen:] if span.kind in KINDS]
    return sorted(found, key=lambda kind: kind.value)


@pytest.mark.parametrize("ours_first", [False, True], ids=["contrib first", "ours first"])
def test_one_span_of_each_kind_whatever_the_order(
    pair: tuple[Client, BaseInstrumentor],
    telemetry: Telemetry,
    queue: str,
    caplog: pytest.LogCaptureFixture,
    *,
    ours_first: bool,
) -> None:
    """Ours traces and contrib's does not."""
    client, contrib = pair
    if ours_first:
        telemetry.instrument()
    switch_on(contrib, telemetry)
    telemetry.instrument()

    assert sorted(KINDS, key=lambda kind: kind.value) == kinds(client, telemetry, queue)
    told = [record for record in caplog.records if record.name == "otel_waybill"]
    assert len(told) <= 1, "once in a process"


def test_channel_that_contrib_is_asked_to_instrument_alone_has_our_spans_only(
    telemetry: Telemetry, amqp_url: str, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that calls `instrument_channel` can be instrumented without a change, and is told."""
    telemetry.instrument()
    with opened(amqp_url) as channel:
        ContribPika.instrument_channel(channel, telemetry.provider)
        channel.basic_consume(queue, lambda on, method, *_: on.basic_ack(method.delivery_tag))
        channel.basic_publish("", queue, b"")
        channel.connection.process_data_events(PATIENCE)
        ContribPika.uninstrument_channel(channel)
    waybill.uninstrument()

    assert ["publish", "process", "ack"] == [span.name.split()[0] for span in telemetry.spans()]
    told = [record for record in caplog.records if record.name == "otel_waybill"]
    assert len(told) <= 1, "once in a process"


def test_contrib_can_be_used_again_afterwards(
    pair: tuple[Client, BaseInstrumentor], telemetry: Telemetry, queue: str
) -> None:
    """Uninstrumenting ours takes the gag off contrib's."""
    client, contrib = pair
    telemetry.instrument()
    switch_on(contrib, telemetry)
    contrib.uninstrument()
    waybill.uninstrument()
    switch_on(contrib, telemetry)

    assert SpanKind.PRODUCER in kinds(client, telemetry, queue)
    scopes = {scope.name for span in telemetry.spans() if (scope := span.instrumentation_scope)}
    assert "otel-waybill" not in scopes


def test_ours_works_again_after_theirs(
    pair: tuple[Client, BaseInstrumentor], telemetry: Telemetry, queue: str
) -> None:
    """Turning both off and ours on again leaves one span of each kind."""
    client, contrib = pair
    switch_on(contrib, telemetry)
    telemetry.instrument()
    waybill.uninstrument()
    telemetry.instrument()

    assert sorted(KINDS, key=lambda kind: kind.value) == kinds(client, telemetry, queue)


@pytest.fixture
def telemetry() -> Telemetry:
    """Where spans go."""
    return Telemetry()
