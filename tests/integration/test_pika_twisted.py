"""The doors of pika's Twisted adapter, on a real broker; the reactor runs in a thread of its own."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pika
import pytest
from opentelemetry.trace import SpanKind, StatusCode
from pika.adapters.twisted_connection import TwistedChannel, TwistedProtocolConnection
from pika.exceptions import ChannelClosedByBroker, ConsumerCancelled, NackError, UnroutableError
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import blockingCallFromThread

import otel_waybill as waybill
from conformance.telemetry import links, parent
from integration.pika_recording import Recorded, Unique, attributes, identity, recording
from otel_waybill.errors import InvalidPolicy

Scenario = Callable[[TwistedChannel], Coroutine[Deferred[Any], Any, None]]

reactor: Any = _reactor  # Any: Twisted puts the real one there at run time
connect: Any = connectProtocol  # Any: it has no annotations


@pytest.fixture(scope="module", autouse=True)
def _reactor_thread() -> Iterator[None]:
    """The one reactor of the process, which can run only once."""
    thread = threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False})
    thread.start()
    yield
    reactor.callFromThread(reactor.stop)
    thread.join()


def play(url: str, scenario: Scenario) -> None:
    """Run *scenario* on a channel of a connection of its own."""

    async def run() -> None:
        parameters = pika.URLParameters(url)
        endpoint = TCP4ClientEndpoint(reactor, parameters.host, parameters.port)
        # Elsewhere than Twisted connects: pika's parameters are not what tells where.
        said = pika.ConnectionParameters(
            "said.example", 1234, parameters.virtual_host, parameters.credentials
        )
        connection = await connect(endpoint, TwistedProtocolConnection(said))
        await connection.ready
        closed = connection.closed
        try:
            await scenario(await connection.channel())
        finally:
            closed.addErrback(lambda _: None)
            connection.close()
            await closed
            # The transport is closed in a later turn of the reactor.
            await deferLater(reactor, 0.05)

    call: Any = blockingCallFromThread  # Any: as annotated it takes no Deferred of None
    call(reactor, lambda: Deferred.fromCoroutine(run()))


# --------------------------------------------------------------------- P3: publish


def test_a_publish_ends_with_its_confirm(recorded: Recorded, amqp_url: str, queue: str) -> None:
    """One span, which its Deferred ends; it says where Twisted connected to."""
    ended: list[int] = []

    async def scenario(channel: TwistedChannel) -> None:
        await channel.confirm_delivery()
        sent = channel.basic_publish("", queue, b"")
        ended.append(len(recorded.of("publish")))
        await sent
        ended.append(len(recorded.of("publish")))

    play(amqp_url, scenario)

    span, address = recorded.one("publish"), pika.URLParameters(amqp_url)
    assert [0, 1] == ended
    assert SpanKind.PRODUCER is span.kind
    assert address.host == attributes(span)["server.address"]
    assert address.port == attributes(span)["network.peer.port"]


def test_unroutable_and_nacked_messages_are_errors_of_their_publishes(
    recorded: Recorded, amqp_url: str, unique: Unique
) -> None:
    """The program gets the failures that it would get, and each span has its own."""
    full = unique("full")

    async def scenario(channel: TwistedChannel) -> None:
        await channel.queue_declare(
            full, exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        await channel.confirm_delivery()
        with pytest.raises(UnroutableError):
            await channel.basic_publish("", unique("nowhere"), b"", mandatory=True)
        await channel.basic_publish("", full, b"fits")
        with pytest.raises(NackError):
            await channel.basic_publish("", full, b"does not")

    play(amqp_url, scenario)

    errors = [attributes(span).get("error.type") for span in recorded.of("publish")]
    assert ["UnroutableError", None, "NackError"] == errors


def test_a_publish_without_confirms_ends_with_its_call(recorded: Recorded, amqp_url: str, queue: str) -> None:
    """Its Deferred has fired already."""
    ended: list[int] = []

    async def scenario(channel: TwistedChannel) -> None:
        channel.basic_publish("", queue, b"")
        ended.append(len(recorded.of("publish")))

    play(amqp_url, scenario)

    assert [1] == ended
    assert StatusCode.UNSET is recorded.one("publish").status.status_code


# --------------------------------------------------- P10 and P11: consume and get


def test_what_is_fetched_from_a_consumer_has_a_receive_span(
    recorded: Recorded, amqp_url: str, queue: str
) -> None:
    """The one that is taken out of the queue object has one, those that wait in it have none."""
    bodies: list[bytes] = []

    async def scenario(channel: TwistedChannel) -> None:
        with recorded.tracer.start_as_current_span("sender"):
            for number in range(3):
                channel.basic_publish("", queue, str(number).encode())
        messages, _ = await channel.basic_consume(queue)
        with recorded.tracer.start_as_current_span("fetcher"):
            message = await messages.get()
        while len(messages.pending) < 2:
            await deferLater(reactor, 0.01)
        bodies.append(message.body)
        channel.basic_ack(message.method.delivery_tag)

    play(amqp_url, scenario)

    receive, publish = recorded.one("receive"), recorded.of("publish")[0]
    (fetcher,) = [span for span in recorded.spans if span.name == "fetcher"]
    assert [b"0"] == bodies
    assert SpanKind.CLIENT is receive.kind
    assert f"receive {queue}" == receive.name
    assert identity(fetcher) == parent(receive)
    assert [identity(publish)] == links(receive)
    assert f"ack {queue}" == recorded.one("ack").name
    assert 1 == recorded.count("messaging.client.consumed.messages")
    assert [] == recorded.of("process")


def test_a_waiting_fetch_belongs_to_whoever_waits(recorded: Recorded, amqp_url: str, queue: str) -> None:
    """Asked for before the message came: the context of the call counts, not that of the reactor."""

    async def scenario(channel: TwistedChannel) -> None:
        messages, _ = await channel.basic_consume(queue)
        with recorded.tracer.start_as_current_span("fetcher"):
            waiting = messages.get()
        channel.basic_publish("", queue, b"")
        await waiting

    play(amqp_url, scenario)

    (fetcher,) = [span for span in recorded.spans if span.name == "fetcher"]
    assert identity(fetcher) == parent(recorded.one("receive"))


def test_a_consumer_that_is_cancelled_is_no_message(recorded: Recorded, amqp_url: str, queue: str) -> None:
    """The program gets ConsumerCancelled, and nothing is recorded."""

    async def scenario(channel: TwistedChannel) -> None:
        messages, tag = await channel.basic_consume(queue)
        waiting = messages.get()
        channel.basic_cancel(tag)
        with pytest.raises(ConsumerCancelled):
            await waiting

    play(amqp_url, scenario)

    assert [] == recorded.operations


def test_a_consumer_from_before_is_instrumented(amqp_url: str, queue: str) -> None:
    """Its queue is looked up when a message is taken, so nothing needs to start again."""
    names: list[str] = []

    async def scenario(channel: TwistedChannel) -> None:
        messages, _ = await channel.basic_consume(queue, auto_ack=True)
        with recording() as recorded:
            channel.basic_publish("", queue, b"")
            await messages.get()
            names.extend(span.name for span in recorded.of("receive"))

    play(amqp_url, scenario)

    assert [f"receive {queue}"] == names


def test_a_get_has_a_receive_span_and_an_empty_one_none(
    recorded: Recorded, amqp_url: str, queue: str
) -> None:
    """From the request to the answer, linked to the publish."""
    got: list[object] = []
    asked: list[int] = []

    async def scenario(channel: TwistedChannel) -> None:
        got.append(await channel.basic_get(queue))
        channel.basic_publish("", queue, b"there")
        with recorded.tracer.start_as_current_span("fetcher"):
            getting = channel.basic_get(queue)
        asked.append(time.time_ns())
        message = await getting
        got.append(message.body)
        channel.basic_ack(message.method.delivery_tag)

    play(amqp_url, scenario)

    receive = recorded.one("receive")
    (fetcher,) = [span for span in recorded.spans if span.name == "fetcher"]
    assert [None, b"there"] == got
    assert identity(fetcher) == parent(receive)
    assert [identity(recorded.one("publish"))] == links(receive)
    assert receive.start_time is not None
    assert receive.start_time <= asked[0]
    assert f"ack {queue}" == recorded.one("ack").name


def test_a_get_that_fails_is_an_error(recorded: Recorded, amqp_url: str, unique: Unique) -> None:
    """The program gets its failure, the span says which."""

    async def scenario(channel: TwistedChannel) -> None:
        with pytest.raises(ChannelClosedByBroker):
            await channel.basic_get(unique("missing"))

    play(amqp_url, scenario)

    assert "ChannelClosedByBroker" == attributes(recorded.one("receive"))["error.type"]


def test_a_policy_says_that_it_cannot_run_here(recorded: Recorded, amqp_url: str, queue: str) -> None:
    """`Policy.run` and `wrap` refuse before they call the handler."""

    async def scenario(channel: TwistedChannel) -> None:
        channel.basic_publish("", queue, b"")
        message = await channel.basic_get(queue)
        with pytest.raises(InvalidPolicy, match="asynchronous"):
            waybill.Policy().run(*message, lambda *_: pytest.fail("called"))  # type: ignore[call-overload]  # that is it
        with pytest.raises(InvalidPolicy, match="TwistedChannel"):
            waybill.Policy().wrap(lambda *_: pytest.fail("called"), queue=queue)(*message)

    play(amqp_url, scenario)

    assert [] == recorded.of("process")


def test_a_policy_by_name_is_refused(amqp_url: str, queue: str) -> None:
    """A consumer never runs without what was asked for: its Deferred fails, as pika's own errors do."""

    async def scenario(channel: TwistedChannel) -> None:
        with pytest.raises(InvalidPolicy, match="Twisted"):
            await channel.basic_consume(queue)
        for call in channel._calls:  # pika forgets this one when consuming fails
            call.addErrback(lambda _: None)

    with recording(terms={queue: waybill.Policy().terms}):
        play(amqp_url, scenario)


# ------------------------------------------------------------------ the default reactor


_LATE = """
import sys
import pika
import otel_waybill
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
otel_waybill.instrument(tracer_provider=provider)
blocking = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
blocking.channel().queue_declare(sys.argv[2], exclusive=True)
assert "twisted.internet.reactor" not in sys.modules

from pika.adapters.twisted_connection import TwistedChannel, TwistedProtocolConnection
from twisted.internet import reactor, task
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

original = vars(TwistedChannel)["basic_get"]
async def main(reactor):
    parameters = pika.URLParameters(sys.argv[1])
    endpoint = TCP4ClientEndpoint(reactor, parameters.host, parameters.port)
    connection = await connectProtocol(endpoint, TwistedProtocolConnection(parameters))
    await connection.ready
    channel = await connection.channel()
    blocking.channel().basic_publish("", sys.argv[2], b"")
    await channel.basic_get(sys.argv[2], auto_ack=True)

try:
    task.react(lambda reactor: __import__("twisted").internet.defer.ensureDeferred(main(reactor)))
except SystemExit:
    pass
print([span.name.split()[0] for span in exporter.get_finished_spans()])
otel_waybill.uninstrument()
assert original is vars(TwistedChannel)["basic_get"]
"""


def test_the_default_reactor_is_the_programs_to_choose(amqp_url: str, unique: Unique) -> None:
    """Instrumenting imports no reactor; the adapter is patched when the program uses it, and restored."""
    script = [sys.executable, "-c", _LATE, amqp_url, unique("q")]
    run = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - ours

    assert "['publish', 'receive']" == run.stdout.strip(), run.stderr
    assert 0 == run.returncode, run.stderr
