"""The recorder against the real SDK: one span per operation, ended whatever happens, and nothing raised."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from otel_waybill import guard
from otel_waybill.config.settings import Exceptions, Settings
from otel_waybill.core.events import BreakerChanged, RunEnded
from otel_waybill.guard import harmless
from otel_waybill.telemetry.hooks import Hooks, Message
from otel_waybill.telemetry.recorder import SILENT, Recorder, breaker_on_span
from otel_waybill.telemetry.semconv import ACK, NACK, PROCESS, PUBLISH, RECEIVE, Endpoint, Operation
from unit.log_records import InMemoryLogRecordExporter, with_exceptions

BROKER = Endpoint("rabbit.example", 5672, "10.1.2.80", 5672)
CREATED = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=True)


@dataclass
class Properties:
    """What clients keep beside a body."""

    message_id: object = None
    correlation_id: object = None
    headers: object = None


class Mute(Exception):  # noqa: N818 - what it is
    """An exception of a program's whose text cannot be had."""

    def __str__(self) -> str:
        msg = "no text"
        raise RuntimeError(msg)


class Bench:
    """A recorder, and what comes out of it."""

    def __init__(
        self, settings: Settings | None = None, hooks: Hooks | None = None, sampler: Sampler = ALWAYS_ON
    ) -> None:
        self.spans = InMemorySpanExporter()
        self.logs = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK left it out
        tracers, loggers = TracerProvider(sampler=sampler), LoggerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        loggers.add_log_record_processor(SimpleLogRecordProcessor(self.logs))
        self.recorder = Recorder(
            tracers.get_tracer("test"), settings or Settings(), logger=loggers.get_logger("test"), hooks=hooks
        )

    def span(self) -> ReadableSpan:
        """The one span that has ended."""
        [span] = self.spans.get_finished_spans()
        return span

    def attributes(self) -> dict[str, Any]:
        """What the one span says."""
        return dict(self.span().attributes or {})

    def events(self) -> list[str]:
        """The events of the one span."""
        return [event.name for event in self.span().events]

    def failed(self, error: BaseException, operation: Operation = PUBLISH) -> None:
        """Record an operation that fails with *error*."""
        self.recorder.start(operation, ORDER, BROKER, Context()).finish(error)

    def captured(self, headers: object) -> dict[str, object]:
        """What the span of a message with these *headers* shows of them."""
        message = Message("shop", "order.new", properties=Properties(headers=headers))
        self.recorder.start(PUBLISH, message, BROKER, Context()).finish()
        prefix = "messaging.header."
        return {
            key.removeprefix(prefix): value
            for key, value in self.attributes().items()
            if key.startswith(prefix)
        }


ORDER = Message("shop", "order.new", properties=Properties("m1", "c1"), body=b"{}")
DELIVERED = Message("shop", "order.new", "orders", Properties("m1"), b"{}", 7)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Faults are logged here, as they are in production, whatever other tests want."""
    before = harmless.loud
    guard.reraise(on=False)
    guard._reported.clear()
    yield
    guard.reraise(on=before)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Every test leaves the context as it found it."""
    before = get_current()
    yield
    assert before == get_current()


# What a span is.


def test_an_operation_is_a_span_of_its_name_kind_and_facts() -> None:
    """A publish looks as the conventions want it, from the start."""
    bench = Bench()
    bench.recorder.start(PUBLISH, ORDER, BROKER, Context(), more={"waybill.attempt": 2}).finish()
    span = bench.span()
    assert ("publish shop:order.new", SpanKind.PRODUCER) == (span.name, span.kind)
    assert StatusCode.UNSET is span.status.status_code
    assert {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "shop:order.new",
        "messaging.rabbitmq.destination.routing_key": "order.new",
        "messaging.message.id": "m1",
        "messaging.message.conversation_id": "c1",
        "server.address": "rabbit.example",
        "server.port": 5672,
        "network.peer.address": "10.1.2.80",
        "network.peer.port": 5672,
        "waybill.attempt": 2,
    } == dict(span.attributes or {})


def test_samplers_see_everything_that_is_known() -> None:
    """Whoever samples by destination, message or policy can: nothing is added after the start."""
    seen: list[dict[str, Any]] = []
    linked: list[SpanContext] = []

    class Watching(Sampler):
        def should_sample(self, *facts: Any) -> SamplingResult:  # noqa: ANN401 - handed on
            """Note the attributes."""
            seen.append(dict(facts[4]))
            linked.extend(link.context for link in facts[5])
            return ALWAYS_ON.should_sample(*facts)

        def get_description(self) -> str:
            """Name it."""
            return "Watching"

    bench = Bench(Settings(capture_headers=("tenant",)), sampler=Watching())
    message = DELIVERED._replace(properties=Properties("m1", headers={"tenant": "acme"}))
    links = (trace.INVALID_SPAN_CONTEXT, CREATED)
    bench.recorder.start(
        PROCESS, message, BROKER, Context(), links=links, more={"waybill.attempt": 1}
    ).finish()
    assert [bench.attributes()] == seen
    assert [CREATED] == linked
    assert ("acme",) == seen[0]["messaging.header.tenant"]


@pytest.mark.parametrize(
    ("expected", "operation", "message"),
    [
        ("publish amq.default", PUBLISH, Message()),
        ("publish orders", PUBLISH, Message(routing_key="orders")),
        ("receive shop:order.new:orders", RECEIVE, DELIVERED),
        ("process shop:order.new:orders", PROCESS, DELIVERED),
        ("ack shop:order.new:orders", ACK, DELIVERED),
        ("ack news", ACK, Message("news", delivery_tag=7)),
        ("nack rabbit.example:5672", NACK, Message(delivery_tag=7)),
    ],
)
def test_the_name_says_what_and_where(expected: str, operation: Operation, message: Message) -> None:
    """A settlement of a delivery that nobody has seen names the broker, for want of a destination."""
    bench = Bench()
    bench.recorder.start(operation, message, BROKER, Context()).finish()
    assert expected == bench.span().name


def test_a_span_is_a_child_of_its_context_and_linked_where_it_makes_sense() -> None:
    """What the message continues is the parent; contexts that are none make no link."""
    bench = Bench()
    parent = trace.set_span_in_context(trace.NonRecordingSpan(CREATED), Context())
    links = (CREATED, trace.INVALID_SPAN_CONTEXT)
    bench.recorder.start(PROCESS, DELIVERED, BROKER, parent, links=links).finish()
    span = bench.span()
    assert span.parent is not None
    assert (CREATED.trace_id, CREATED.span_id) == (span.parent.trace_id, span.parent.span_id)
    assert [CREATED] == [link.context for link in span.links]


def test_a_temporary_queue_is_marked_and_does_not_name_the_span() -> None:
    """A queue that goes with its consumer says nothing in a list of operations."""
    bench = Bench()
    bench.recorder.start(PROCESS, DELIVERED._replace(temporary=True), BROKER, Context()).finish()
    assert "process" == bench.span().name
    assert bench.attributes()["messaging.destination.temporary"] is True


def test_dashboards_of_the_old_conventions_find_their_keys() -> None:
    """During a migration both generations of keys are there; name and kind are the new ones."""
    bench = Bench(Settings(legacy_attributes=True))
    message = DELIVERED._replace(properties=Properties("m1", "c1"), temporary=True)
    bench.recorder.start(PROCESS, message, BROKER, Context()).finish()
    expected = {
        "messaging.conversation_id": "c1",
        "messaging.destination": "shop:order.new:orders",
        "messaging.operation": "process",
        "messaging.temp_destination": True,
        "net.peer.name": "rabbit.example",
        "net.peer.port": 5672,
    }
    assert expected.items() <= bench.attributes().items()


# Time.


def test_what_began_before_it_was_known_began_then() -> None:
    """The span of a pull reaches back to the call, also where the message is known only afterwards."""
    bench = Bench()
    before = time.time_ns()
    bench.recorder.start(RECEIVE, DELIVERED, BROKER, Context(), since=time.perf_counter() - 3.0).finish()
    span = bench.span()
    assert span.start_time is not None
    assert span.end_time is not None
    assert 3.0 == pytest.approx((before - span.start_time) / 1e9, abs=0.5)
    assert span.end_time >= before


# The block.


def test_a_block_is_current_inside_and_ends_with_it() -> None:
    """What is called inside is a child; the baggage of the context is there as well."""
    bench = Bench()
    context = baggage.set_baggage("tenant", "acme", Context())
    with bench.recorder.start(PUBLISH, ORDER, BROKER, context) as work:
        assert work.span is trace.get_current_span()
        assert "acme" == baggage.get_baggage("tenant")
    assert "publish shop:order.new" == bench.span().name


def test_a_span_that_is_current_for_a_while_goes_on() -> None:
    """Headers can be written under a span that lives longer, in its own context or in another."""
    bench = Bench()
    work = bench.recorder.start(PUBLISH, ORDER, BROKER, baggage.set_baggage("tenant", "acme", Context()))
    with work.current() as context:
        assert work.span is trace.get_current_span() is trace.get_current_span(context)
        assert "acme" == baggage.get_baggage("tenant")
    with work.current(Context()):
        assert work.span is trace.get_current_span()
        assert baggage.get_baggage("tenant") is None
    assert () == bench.spans.get_finished_spans()
    work.finish()
    bench.span()


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        ("ValueError", ValueError("no such order")),
        ("asyncio.CancelledError", asyncio.CancelledError()),
        ("KeyboardInterrupt", KeyboardInterrupt()),
    ],
)
def test_what_leaves_a_block_is_its_error_and_is_not_swallowed(expected: str, error: BaseException) -> None:
    """A cancelled handler does not look successful."""
    bench = Bench()
    with pytest.raises(type(error)) as caught, bench.recorder.start(PROCESS, DELIVERED, BROKER, Context()):
        raise error
    assert error is caught.value
    span = bench.span()
    assert (StatusCode.ERROR, str(error)) == (span.status.status_code, span.status.description)
    assert expected == bench.attributes()["error.type"]
    assert ["exception"] == bench.events()


def test_the_first_error_is_the_error() -> None:
    """What a failure brings after it, as the exception that reports it, does not hide it."""
    bench = Bench()
    work = bench.recorder.start(PUBLISH, ORDER, BROKER, Context())
    work.fail(ValueError("unroutable"))
    work.finish(ConnectionError())
    assert "ValueError" == bench.attributes()["error.type"]
    assert "unroutable" == bench.span().status.description
    assert ["exception"] == bench.events()


def test_later_errors_stand_beside_the_first() -> None:
    """The fault of a substitute is on the span as well, and that of the handler is still the error."""
    bench = Bench()
    work = bench.recorder.start(PROCESS, DELIVERED, BROKER, Context())
    first = ValueError("no such order")
    for error in (first, first, KeyError("substitute")):
        work.fail(error)
    work.finish()
    assert ("ValueError", "no such order") == (
        bench.attributes()["error.type"],
        bench.span().status.description,
    )
    assert ["exception", "exception"] == bench.events()


# Where an exception is recorded.


@pytest.mark.parametrize(
    ("chosen", "events", "logs"),
    [
        ("events", ["exception"], 0),
        pytest.param("logs", [], 1, marks=with_exceptions),
        pytest.param("logs/dup", ["exception"], 1, marks=with_exceptions),
    ],
)
def test_exceptions_are_recorded_where_it_was_chosen(
    chosen: Exceptions, events: list[str], logs: int
) -> None:
    """On the span, in the log, or both; status and error type are on the span anyway."""
    bench = Bench(Settings(exceptions=chosen))
    bench.failed(ValueError("no such order"))
    assert (events, logs) == (bench.events(), len(bench.logs.get_finished_logs()))
    assert (StatusCode.ERROR, "ValueError") == (
        bench.span().status.status_code,
        bench.attributes()["error.type"],
    )


@with_exceptions
@pytest.mark.parametrize(
    ("expected", "operation"),
    [
        (("messaging.send.exception", 13), PUBLISH),
        (("messaging.receive.exception", 13), RECEIVE),
        (("messaging.process.exception", 17), PROCESS),
        (("messaging.settle.exception", 13), ACK),
    ],
)
def test_a_log_record_says_which_operation_failed(expected: tuple[str, int], operation: Operation) -> None:
    """The events of messaging-exceptions.md: a failed handler is an ERROR, all else a WARN, in its span."""
    bench = Bench(Settings(exceptions="logs"))
    bench.failed(ValueError("no such order"), operation)
    [log] = bench.logs.get_finished_logs()
    record = log.log_record
    assert record.severity_number is not None
    assert expected == (record.event_name, record.severity_number.value)
    identity = bench.span().context
    assert identity is not None
    assert (identity.trace_id, identity.span_id) == (record.trace_id, record.span_id)
    told = dict(record.attributes or {})
    assert ("ValueError", "no such order") == (told["exception.type"], told["exception.message"])
    assert "no such order" in str(told["exception.stacktrace"])


def test_without_a_logger_there_is_no_log() -> None:
    """A recorder that was given no logger keeps to its spans."""
    bench = Bench(Settings(exceptions="logs/dup"))
    bench.recorder.logger = None
    bench.failed(ValueError())
    assert ["exception"] == bench.events()


@with_exceptions
def test_what_is_not_sampled_still_logs_its_exception() -> None:
    """Logs are not sampled with traces: whoever chose them for exceptions gets every one."""
    bench = Bench(Settings(exceptions="logs"), sampler=ALWAYS_OFF)
    bench.failed(ValueError("no such order"))
    assert 1 == len(bench.logs.get_finished_logs())
    assert () == bench.spans.get_finished_spans()


@pytest.mark.parametrize("chosen", ["events", "logs", "logs/dup"])
def test_an_exception_without_a_text_is_an_error_all_the_same(chosen: Exceptions) -> None:
    """A program's ``__str__`` that raises costs the text, not the span or the program."""
    bench = Bench(Settings(exceptions=chosen))
    bench.failed(Mute())
    span = bench.span()
    assert (StatusCode.ERROR, None) == (span.status.status_code, span.status.description)
    assert "Mute" == bench.attributes()["error.type"]


# Hooks.


def test_hooks_are_called_with_the_span_and_the_message() -> None:
    """A hook can add what it likes to the span of its operation."""
    called: list[tuple[str, Message]] = []

    def noting(name: str) -> Callable[[trace.Span, Message], object]:
        def hook(span: trace.Span, message: Message) -> None:
            span.set_attribute("shop.hook", name)
            called.append((name, message))

        return hook

    hooks = Hooks(publish=noting("publish"), consume=noting("consume"), settle=noting("settle"))
    for operation, expected in (
        (PUBLISH, "publish"),
        (RECEIVE, "consume"),
        (PROCESS, "consume"),
        (ACK, "settle"),
    ):
        bench = Bench(hooks=hooks)
        bench.recorder.start(operation, DELIVERED, BROKER, Context()).finish()
        assert (expected, DELIVERED) == called[-1]
        assert expected == bench.attributes()["shop.hook"]


def test_hooks_of_opentelemetrys_own_instrumentation_work() -> None:
    """A program that comes from there keeps its three arguments: span, body, properties."""
    called: list[tuple[object, ...]] = []

    def hook(span: trace.Span, body: object, properties: object) -> None:
        called.append((span.get_span_context(), body, properties))

    bench = Bench(hooks=Hooks(publish=hook))
    bench.recorder.start(PUBLISH, ORDER, BROKER, Context()).finish()
    assert [(bench.span().get_span_context(), b"{}", ORDER.properties)] == called


def test_hooks_are_for_spans_that_are_recorded() -> None:
    """What is not sampled costs no hook."""
    called: list[object] = []
    bench = Bench(hooks=Hooks(publish=lambda *_: called.append(1)), sampler=ALWAYS_OFF)
    bench.recorder.start(PUBLISH, ORDER, BROKER, Context()).finish()
    assert [] == called


def raising(*_: object) -> Any:  # noqa: ANN401 - it returns nothing
    """A hook of any form, with a fault."""
    msg = "a fault of the program's"
    raise ValueError(msg)


def test_a_hook_that_raises_is_logged_once_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The span is there, ended and no error; the program never sees it."""
    bench = Bench(hooks=Hooks(publish=raising))
    for _ in range(2):
        bench.recorder.start(PUBLISH, ORDER, BROKER, Context()).finish()
    assert [StatusCode.UNSET] * 2 == [each.status.status_code for each in bench.spans.get_finished_spans()]
    assert ["calling a hook failed" in record.getMessage() for record in caplog.records] == [True]


def test_templates_group_what_belongs_together() -> None:
    """Ids in routing keys leave the names of spans; where the program knows no template the name stays."""

    def template(name: str) -> str | None:
        return "shop:order.{id}" if name.startswith("shop:order.") else ""

    bench = Bench(hooks=Hooks(destination_template=template))
    bench.recorder.start(PUBLISH, Message("shop", "order.4711"), BROKER, Context()).finish()
    assert "publish shop:order.{id}" == bench.span().name
    assert ("shop:order.4711", "shop:order.{id}") == (
        bench.attributes()["messaging.destination.name"],
        bench.attributes()["messaging.destination.template"],
    )
    bench.spans.clear()
    bench.recorder.start(PUBLISH, Message("mail"), BROKER, Context()).finish()
    assert "publish mail" == bench.span().name
    assert "messaging.destination.template" not in bench.attributes()


def test_templates_are_asked_for_once() -> None:
    """The hundredth message to the same destination costs a look-up, not a call of the program's."""
    asked: list[str] = []
    bench = Bench(hooks=Hooks(destination_template=asked.append))
    for _ in range(3):
        bench.recorder.start(PUBLISH, ORDER, BROKER, Context()).finish()
    assert ["shop:order.new"] == asked


def test_a_template_that_raises_leaves_the_name() -> None:
    """A fault in the program's function costs the grouping, not the span."""
    bench = Bench(hooks=Hooks(destination_template=raising))
    bench.recorder.start(PUBLISH, ORDER, BROKER, Context()).finish()
    assert "publish shop:order.new" == bench.span().name


# Headers.


def test_headers_are_captured_by_name_in_any_case() -> None:
    """What was asked for is shown as text, and nothing else is."""
    bench = Bench(Settings(capture_headers=("Tenant", "retries", "raw", "missing")))
    headers = {"TENANT": "acme", "retries": 3, "raw": b"caf\xe9", "other": "x", b"tenant": "binary"}
    assert {"tenant": ("acme",), "retries": ("3",), "raw": ("caf\\xe9",)} == bench.captured(headers)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "cookie",
        "x-api-key",
        "api_key",
        "APIKEY",
        "session-id",
        "db-password",
        "client-secret",
    ],
)
def test_secrets_are_redacted(name: str) -> None:
    """A header whose name suggests a secret is seen to be there, not what it holds."""
    assert {name.lower(): ("[redacted]",)} == Bench(Settings(capture_headers=(name,))).captured(
        {name: "s3cr3t"}
    )


def test_a_program_may_redact_as_it_likes() -> None:
    """Its own rule sees name and value, and replaces ours."""
    bench = Bench(
        Settings(capture_headers=("authorization", "card")),
        Hooks(redact=lambda name, value: value[-4:] if name == "card" else value),
    )
    headers = {"authorization": "none", "card": "4111111111111111"}
    assert {"authorization": ("none",), "card": ("1111",)} == bench.captured(headers)


def test_a_rule_that_raises_shows_nothing() -> None:
    """A fault in the program's rule costs neither the span nor the secret."""
    bench = Bench(Settings(capture_headers=("card",)), Hooks(redact=raising))
    assert {"card": ("[redacted]",)} == bench.captured({"card": "4111111111111111"})


@pytest.mark.parametrize("headers", [None, [], "tenant", 7, {}, {"tenant": Mute()}])
def test_headers_in_any_shape_are_survived(headers: object) -> None:
    """Whatever stands where headers should be, the message has its span."""
    assert Bench(Settings(capture_headers=("tenant",))).captured(headers) in ({}, {"tenant": ("[redacted]",)})


# Faults of others.


def test_a_sampler_that_raises_costs_the_span_and_keeps_the_trace() -> None:
    """What is published then still belongs to the trace in which it was; the program goes on."""

    class Broken(Sampler):
        def should_sample(self, *_: object) -> SamplingResult:
            """Fail."""
            raise RuntimeError

        def get_description(self) -> str:
            """Name it."""
            return "Broken"

    bench = Bench(sampler=Broken())
    parent = trace.set_span_in_context(trace.NonRecordingSpan(CREATED), Context())
    with bench.recorder.start(PUBLISH, ORDER, BROKER, parent):
        assert CREATED == trace.get_current_span().get_span_context()
    assert () == bench.spans.get_finished_spans()


def test_an_exporter_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The end of a span is ours to survive."""

    class Broken(SimpleSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            """Fail."""
            raise RuntimeError(span.name)

    tracers = TracerProvider()
    tracers.add_span_processor(Broken(InMemorySpanExporter()))
    with Recorder(tracers.get_tracer("test"), Settings()).start(PUBLISH, ORDER, BROKER, Context()):
        pass
    assert "ending a span failed" in caplog.text


def test_silence_records_nothing() -> None:
    """Where nothing is instrumented the same code runs and leaves nothing."""
    work = SILENT.start(PUBLISH, ORDER, BROKER, Context())
    work.finish(ValueError())
    assert SILENT.silent
    assert not SILENT.settings.settle_spans
    assert not work.span.get_span_context().is_valid


# Breakers.


def test_a_breaker_that_changes_is_seen_on_the_span() -> None:
    """Whoever looks at a trace sees at which call the breaker opened; other events are not for spans."""
    bench = Bench()
    with bench.recorder.start(PROCESS, DELIVERED, BROKER, Context()):
        breaker_on_span(BreakerChanged(breaker="payments", before="closed", after="open", trigger="tripped"))
        breaker_on_span(RunEnded(queue="orders"))
    [event] = bench.span().events
    assert "waybill.breaker" == event.name
    assert {
        "waybill.breaker.name": "payments",
        "waybill.breaker.previous_state": "closed",
        "waybill.breaker.state": "open",
        "waybill.breaker.trigger": "tripped",
    } == dict(event.attributes or {})
