"""What OpenTelemetry's own pika instrumentation gets wrong, B1 to B12: it passes none of these tests."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeVar

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.propagators.textmap import (
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import Span, SpanKind
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.exceptions import UnroutableError
from pika.spec import Basic, BasicProperties

from conformance.telemetry import here, links
from integration.pika_loops import Done, on_select, play
from integration.pika_recording import (
    Recorded,
    Unique,
    attributes,
    declared,
    identity,
    opened,
    recording,
    send_bare,
)
from otel_waybill.clients.pika.instrumentor import PikaInstrumentor
from otel_waybill.config.settings import Settings
from otel_waybill.telemetry.hooks import Message

T = TypeVar("T")


def _consumed(channel: BlockingChannel, queue: str, count: int = 1) -> list[Mapping[str, object]]:
    """Consume by callback; return the headers of what came."""
    came: list[Mapping[str, object]] = []

    def handle(_: BlockingChannel, __: Basic.Deliver, properties: BasicProperties, ___: bytes) -> None:
        came.append(properties.headers or {})

    channel.basic_consume(queue, handle, auto_ack=True)
    for _ in range(50):
        if len(came) >= count:
            break
        channel.connection.process_data_events(time_limit=0.1)
    return came


def test_b1_one_publish_is_one_span_and_one_call_of_the_hook(channel: BlockingChannel, queue: str) -> None:
    """A BlockingChannel sends through a Channel: contrib makes two nested spans and injects the inner one."""
    called: list[object] = []
    with recording(publish_hook=lambda span, *_: called.append(span)) as recorded:
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"")
        (headers,) = _consumed(channel, queue)

    (span,) = [span for span in recorded.spans if span.kind is SpanKind.PRODUCER]
    assert 1 == len(called)
    assert f"{identity(span):016x}" == str(headers["traceparent"]).split("-")[2]


def test_b2_consumers_on_asynchronous_channels_are_traced(
    recorded: Recorded, amqp_url: str, queue: str
) -> None:
    """Contrib looks for a BlockingChannel's consumers, and a Channel has plain functions."""
    seen: list[bool] = []

    def scenario(on: Channel, done: Done) -> None:
        def handle(*_: object) -> None:
            seen.append(trace.get_current_span().is_recording())
            done()

        on.basic_consume(queue, handle, auto_ack=True)
        on.basic_publish("", queue, b"")

    play(on_select(), amqp_url, scenario)

    assert [True] == seen
    assert [SpanKind.PRODUCER, SpanKind.CONSUMER] == [span.kind for span in recorded.spans]


def test_b3_the_generator_gives_context_to_its_body_alone_and_spans_to_what_it_hands_over(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """In contrib the span has ended in the body and stays current afterwards, and `cancel` makes two more."""
    with recorded.tracer.start_as_current_span("sender") as sender:
        for _ in range(3):
            channel.basic_publish("", queue, b"")
    inside: list[int] = []
    for step in channel.consume(queue, inactivity_timeout=0.3):
        assert step[0] is not None
        inside.append(here().trace_id)
        break
    channel.cancel()

    assert [sender.get_span_context().trace_id] == inside
    assert not here().is_valid
    assert 1 == len([span for span in recorded.spans if span.kind in {SpanKind.CONSUMER, SpanKind.CLIENT}])


def test_b4_fetching_settling_and_returns_are_traced(
    recorded: Recorded, amqp_url: str, channel: BlockingChannel, queue: str, unique: Unique
) -> None:
    """Contrib knows no basic_get, no settlement and no return; Twisted has its own file of tests."""
    channel.basic_publish("", queue, b"")
    method, _, _ = channel.basic_get(queue)
    assert method is not None
    channel.basic_nack(method.delivery_tag)
    method, _, _ = channel.basic_get(queue)
    assert method is not None
    channel.basic_reject(method.delivery_tag)
    method, _, _ = channel.basic_get(queue)
    assert method is not None
    channel.basic_ack(method.delivery_tag)

    def scenario(on: Channel, done: Done) -> None:
        def selected(_: object) -> None:
            on.basic_publish("", unique("nowhere"), b"", mandatory=True)

        on.confirm_delivery(lambda _: done(), selected)

    play(on_select(), amqp_url, scenario)

    kinds = ["publish", "receive", "nack", "receive", "reject", "receive", "ack", "publish"]
    assert kinds == recorded.operations
    assert UnroutableError.__name__ == attributes(recorded.of("publish")[1])["error.type"]


def test_b5_suppressed_callbacks_run_and_nothing_escapes(channel: BlockingChannel, queue: str) -> None:
    """In contrib an AttributeError escapes from `process_data_events` after the callback."""
    send_bare(channel, queue)
    seen: list[bool] = []
    with recording() as recorded:
        channel.basic_consume(queue, lambda *_: seen.append(here().is_valid), auto_ack=True)
        with suppress_instrumentation():
            while not seen:
                channel.connection.process_data_events(time_limit=0.1)

    assert [False] == seen
    assert () == recorded.spans


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage"])
@pytest.mark.parametrize("value", [b"\xff\xfe", 12345, True, None, [1], {"a": 1}, "\x00"])
def test_b6_malformed_headers_do_not_keep_a_message_from_its_callback(
    channel: BlockingChannel, queue: str, name: str, value: object
) -> None:
    """In contrib a TypeError comes before the callback, and what was prefetched is stranded."""
    send_bare(channel, queue, 3, {name: value, "kept": "as it is"})
    with recording():
        came = _consumed(channel, queue, 3)

    assert ["as it is"] * 3 == [headers.get("kept") for headers in came]


@pytest.mark.usefixtures("recorded")
def test_b7_properties_of_the_caller_are_neither_changed_nor_carry_over(
    channel: BlockingChannel, queue: str
) -> None:
    """Contrib writes into them, so that the second message has the baggage of the first."""
    mine: dict[str, object] = {"mine": 1}
    properties = BasicProperties(headers=mine)
    token = otel.attach(baggage.set_baggage("color", "blue"))
    channel.basic_publish("", queue, b"", properties)
    otel.detach(token)
    channel.basic_publish("", queue, b"", properties)
    first, second = _consumed(channel, queue, 2)

    assert {"mine": 1} == mine
    assert mine is properties.headers
    assert "color=blue" == first["baggage"]
    assert "baggage" not in second


def test_b8_uninstrumenting_silences_open_channels_and_instrumenting_twice_does_nothing(
    amqp_url: str, unique: Unique
) -> None:
    """Contrib leaves live channels traced, and wraps them again at the second call."""
    original = vars(BlockingChannel)["basic_publish"], vars(Channel)["basic_consume"]
    with opened(amqp_url) as channel:
        queue = declared(channel, unique)
        seen: list[bool] = []
        with recording() as recorded:
            PikaInstrumentor().instrument(tracer_provider=recorded.provider)
            channel.basic_consume(queue, lambda *_: seen.append(here().is_valid), auto_ack=True)
            channel.basic_publish("", queue, b"")
            channel.connection.process_data_events(time_limit=1)
        traced = len(recorded.spans)
        channel.basic_publish("", queue, b"")
        channel.connection.process_data_events(time_limit=1)

    assert original == (vars(BlockingChannel)["basic_publish"], vars(Channel)["basic_consume"])
    assert [True, False] == seen
    assert (2, 2) == (traced, len(recorded.spans))


class _Watching(Sampler):
    """Remembers what a sampler gets to see."""

    def __init__(self) -> None:
        self.seen: list[Mapping[str, object]] = []

    def should_sample(  # noqa: PLR0913, PLR0917 - the interface
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[trace.Link] | None = None,
        trace_state: trace.TraceState | None = None,
    ) -> SamplingResult:
        """Sample everything."""
        self.seen.append(dict(attributes or {}))
        return ALWAYS_ON.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """Return what this is."""
        return "watching"


def test_b9_attributes_are_those_of_today_and_there_from_the_start(
    channel: BlockingChannel, queue: str
) -> None:
    """Contrib sets the names of 1.11 after the start, and calls every destination temporary."""
    sampler = _Watching()
    with recording(sampler) as recorded:
        channel.basic_publish("", queue, b"")
        _consumed(channel, queue)

    publish, process = sampler.seen
    assert "rabbitmq" == publish["messaging.system"] == process["messaging.system"]
    assert queue == publish["messaging.destination.name"] == process["messaging.destination.name"]
    assert ("send", "process") == (
        publish["messaging.operation.type"],
        process["messaging.operation.type"],
    )
    assert "server.address" in publish
    old = {"messaging.destination", "messaging.operation", "messaging.temp_destination", "net.peer.name"}
    assert set() == old & {*publish, *process}
    assert not any("temporary" in key for key in {*publish, *process})
    scope = recorded.spans[0].instrumentation_scope
    assert scope is not None
    assert "https://opentelemetry.io/schemas/1.44.0" == scope.schema_url


class _Enumerating(TextMapPropagator):
    """A propagator that looks through all keys, as those of some vendors do."""

    def __init__(self) -> None:
        self.keys: list[list[str]] = []

    @property
    def fields(self) -> set[str]:
        """Return what it writes."""
        return set()

    def extract(
        self, carrier: T, context: Context | None = None, getter: Getter[T] = default_getter
    ) -> Context:
        """Look through them."""
        self.keys.append(getter.keys(carrier))
        return context or Context()

    def inject(self, carrier: T, context: Context | None = None, setter: Setter[T] = default_setter) -> None:
        """Write nothing."""


@pytest.mark.usefixtures("recorded")
def test_b10_propagators_can_enumerate_the_headers(
    channel: BlockingChannel, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contrib's getter says that there are none."""
    propagator = _Enumerating()
    monkeypatch.setattr("opentelemetry.propagate._HTTP_TEXT_FORMAT", propagator)
    send_bare(channel, queue, headers={"x-vendor-trace": "1", "other": "2"})
    _consumed(channel, queue)

    assert [["other", "x-vendor-trace"]] == [sorted(keys) for keys in propagator.keys]


def test_b11_hooks_are_told_what_the_operation_is_about(channel: BlockingChannel, queue: str) -> None:
    """Contrib gives them span, body and properties, and nothing to know the destination by."""
    told: list[tuple[str, str, str | None, object]] = []

    def hook(_: Span, message: Message) -> None:
        told.append((message.exchange, message.routing_key, message.queue, message.body))

    with recording(publish_hook=hook, consume_hook=hook, settle_hook=hook):
        channel.basic_publish("", queue, b"body")
        method, _, _ = channel.basic_get(queue)
        assert method is not None
        channel.basic_ack(method.delivery_tag)

    assert [("", queue, None, b"body"), ("", queue, queue, b"body"), ("", queue, queue, None)] == told


def test_b12_metrics_links_captured_headers_migration_and_types(channel: BlockingChannel, queue: str) -> None:
    """Contrib has none of them."""
    settings = Settings.from_env(
        {
            "OTEL_WAYBILL_CAPTURE_HEADERS": "tenant,auth-token",
            "OTEL_SEMCONV_STABILITY_OPT_IN": "messaging/dup",
        }
    )
    with recording(settings=settings) as recorded:
        properties = BasicProperties(headers={"tenant": "a", "auth-token": "b"})
        channel.basic_publish("", queue, b"", properties)
        _consumed(channel, queue)

    publish, process = recorded.one("publish"), recorded.one("process")
    assert [identity(publish)] == links(process)
    assert ("a",) == attributes(process)["messaging.header.tenant"]
    assert ("[redacted]",) == attributes(process)["messaging.header.auth-token"]
    assert queue == attributes(publish)["messaging.destination"]
    for metric in (
        "messaging.client.operation.duration",
        "messaging.client.sent.messages",
        "messaging.client.consumed.messages",
        "messaging.process.duration",
    ):
        assert 1 == recorded.count(metric)
    assert (files("otel_waybill") / "py.typed").is_file()
