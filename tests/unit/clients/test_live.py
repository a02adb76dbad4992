"""What a client works with at the moment: silent until instrumented, while suppressed, and afterwards."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import NoOpTracerProvider

from otel_waybill.clients.shared.live import Live
from otel_waybill.clients.shared.policies import Consumer, Policies
from otel_waybill.config.settings import Settings
from otel_waybill.core.events import BreakerChanged, RunStarted
from otel_waybill.core.spec import PolicySpec
from otel_waybill.resilience import hub
from otel_waybill.resilience.guarded import Terms
from otel_waybill.telemetry.meters import Meters
from otel_waybill.telemetry.recorder import SILENT, Recorder

STARTED = RunStarted(queue="orders", remaining=None)
OPENED = BreakerChanged(breaker="payments", before="closed", after="open", trigger="tripped")
TRACER = NoOpTracerProvider().get_tracer("test")
POLICIES = Policies({"orders": Terms.of(PolicySpec())})


def handle(*_: object) -> None:
    """A handler."""


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """Reads what is measured."""
    return InMemoryMetricReader()


@pytest.fixture
def recorder(reader: InMemoryMetricReader) -> Iterator[Recorder]:
    """A recorder that also measures."""
    provider = MeterProvider([reader])
    yield Recorder(TRACER, Settings(), meters=Meters(provider.get_meter("test")))
    provider.shutdown()


def runs(reader: InMemoryMetricReader) -> int:
    """How many handlers run now, as far as anybody has measured."""
    data = reader.get_metrics_data()
    if data is None:
        return 0
    [point] = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    return int(point.value)  # type: ignore[union-attr]  # an up-down counter


def test_nothing_is_recorded_before_and_after(recorder: Recorder) -> None:
    """Outside of its time a client records nothing, has no policies, and its methods tell nothing."""
    live = Live()
    for _ in range(2):
        assert (SILENT, False) == (live.recorder(), live.patched)
        assert live.policies.bind(handle, Consumer(queue="orders")).terms is None
        live.on(recorder, POLICIES)
        assert (recorder, True) == (live.recorder(), live.patched)
        assert live.policies is POLICIES
        live.off()


def test_suppressed_instrumentation_is_silent_here_and_now(recorder: Recorder) -> None:
    """A block of suppressed instrumentation is as if there were none, and a policy stays what it is."""
    live = Live()
    live.on(recorder, POLICIES)
    with suppress_instrumentation():
        assert SILENT is live.recorder()
        assert live.policies is POLICIES
    assert recorder is live.recorder()
    live.off()


def test_clients_that_share_their_instruments_count_once(
    recorder: Recorder, reader: InMemoryMetricReader
) -> None:
    """An event is one event with two clients, and the one that goes on is measured when the other stops."""
    one, other = Live(), Live()
    one.on(recorder, POLICIES)
    other.on(recorder, POLICIES)
    hub.emit(STARTED)
    assert 1 == runs(reader)
    one.off()
    hub.emit(STARTED)
    assert 2 == runs(reader)
    other.off()
    hub.emit(STARTED)
    assert 2 == runs(reader)


def test_breakers_are_on_spans_while_anybody_records() -> None:
    """Also in a program that wants no metrics, and not for ever."""
    span = TracerProvider().get_tracer("test").start_span("handle")
    live = Live()
    live.on(Recorder(TRACER, Settings()), POLICIES)
    with trace.use_span(span):
        hub.emit(OPENED)
        live.off()
        hub.emit(OPENED)
    assert isinstance(span, ReadableSpan)
    assert ["waybill.breaker"] == [event.name for event in span.events]
