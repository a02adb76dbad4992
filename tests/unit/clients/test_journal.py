"""The journal: one process span per attempt, with what led to it, what came of it and what left with it."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from otel_waybill import guard, names
from otel_waybill.clients.shared import journal as module
from otel_waybill.clients.shared.arrival import arrive, execution
from otel_waybill.clients.shared.journal import Journal
from otel_waybill.config.settings import Settings
from otel_waybill.context import check_publish, detached, remaining, running
from otel_waybill.core.backoff import Backoff
from otel_waybill.core.delivery import Delivery, Instant, Outcome, Reason, Result
from otel_waybill.core.events import BreakerChanged, Event
from otel_waybill.core.retry import Retry
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.verdicts import Raised, Republish, Run, Step, Verdict, Waited
from otel_waybill.errors import DeadlineExceeded
from otel_waybill.guard import harmless
from otel_waybill.resilience import hub
from otel_waybill.resilience.guarded import Terms
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.meters import Meters
from otel_waybill.telemetry.recorder import SILENT, Recorder, breaker_on_span

SENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS: dict[str, Any] = {
    "tenant": "acme",
    "traceparent": SENT,
    "baggage": "tenant=acme",
    "waybill-request-id": "123456",
}
RETRY = Retry(attempts=2, backoff=Backoff(first=1.0, ceiling=30.0, jitter="none"))
HERE = Retry(attempts=3, backoff=Backoff(first=0.1, ceiling=0.1, jitter="none"))
OPENED = BreakerChanged(breaker="payments", before="open", after="half-open", trigger="retried")
HANDLED = Outcome(result=Result.HANDLED, attempt=1)


class Story:
    """One delivery under a policy, and what is recorded of it."""

    def __init__(
        self,
        retry: Retry | None = RETRY,
        headers: dict[str, Any] | None = None,
        *,
        counted: bool = False,
        silent: bool = False,
        refuse_publish: bool = False,
    ) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        meters = Meters(MeterProvider([self._reader]).get_meter("test"))
        self.recorder = SILENT if silent else Recorder(tracers.get_tracer("test"), Settings(), meters=meters)
        delivery = Delivery(
            queue="orders",
            exchange="shop",
            routing_key="order.new",
            headers=HEADERS if headers is None else headers,
            message_id="4711",
        )
        arrival = arrive(delivery, Context(), self.recorder)
        self.now = arrival.received
        spec = PolicySpec(retry=retry, refuse_publish=refuse_publish)
        self.execution = execution(Terms.of(spec), arrival)
        message = Message("shop", "order.new", "orders", None, b"{}", 7)
        self.journal = Journal(self.recorder, arrival, self.execution, message, None, counted=counted)

    def run(self, step: Step | None = None) -> Run:
        """Start the run that *step*, or the start, asks for."""
        verdict = self.verdict(step or self.execution.start(self.now, 0.0))
        assert isinstance(verdict, Run)
        self.journal.open(verdict)
        return verdict

    def fails(self, error: Exception | None = None) -> Verdict:
        """The handler raises; return what follows."""
        error = error or ValueError("no such order")
        self.journal.error(error)
        return self.verdict(self.execution.resume(Raised(error), self.now, 0.0))

    def waits(self, seconds: float) -> Step:
        """Let time pass and report it."""
        self.now = Instant(self.now.monotonic + seconds, self.now.wall + seconds)
        return self.execution.resume(Waited(), self.now, 0.0)

    @staticmethod
    def verdict(step: Step) -> Verdict:
        """The verdict of *step*."""
        return step.verdict

    def spans(self) -> list[ReadableSpan]:
        """What has ended so far."""
        return list(self._spans.get_finished_spans())

    def consumed(self) -> int:
        """How many messages were counted as consumed."""
        data = self._reader.get_metrics_data()
        counts = [
            int(point.value)
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
            if metric.name == "messaging.client.consumed.messages" and isinstance(point, NumberDataPoint)
        ]
        return sum(counts)


def in_seconds(seconds: float) -> str:
    """The header of a deadline so far away."""
    return str(round((time.time() + seconds) * 1000))


def told(span: ReadableSpan) -> dict[str, Any]:
    """What *span* says."""
    return dict(span.attributes or {})


def identity(span: ReadableSpan) -> trace.SpanContext:
    """Which span it is."""
    assert span.context is not None
    here: trace.SpanContext = span.context
    return here


def traceparent(span: ReadableSpan) -> str:
    """How W3C writes that."""
    here = identity(span)
    flags = f"{here.trace_flags:02x}"
    return f"00-{trace.format_trace_id(here.trace_id)}-{trace.format_span_id(here.span_id)}-{flags}"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Faults are logged here, as they are in production."""
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


@pytest.fixture
def listening() -> Iterator[list[tuple[Event, trace.SpanContext]]]:
    """What sinks are told, and in which span."""
    heard: list[tuple[Event, trace.SpanContext]] = []

    def sink(event: Event, /) -> None:
        heard.append((event, trace.get_current_span().get_span_context()))

    hub.add(sink)
    hub.add(breaker_on_span)
    yield heard
    hub.remove(sink)
    hub.remove(breaker_on_span)


def test_an_attempt_is_one_span_with_its_facts() -> None:
    """A child of the publish that says which run it is, on whose behalf, and how it ended."""
    story = Story(headers=HEADERS | {"waybill-deadline": in_seconds(5)})
    story.run()
    story.journal.close(HANDLED)
    [span] = story.spans()
    facts = told(span)
    assert ("process shop:order.new:orders", 7) == (
        span.name,
        facts["messaging.rabbitmq.message.delivery_tag"],
    )
    assert (1, "123456", "handled") == (
        facts["waybill.attempt"],
        facts["waybill.request_id"],
        facts["waybill.outcome"],
    )
    assert 0 < facts["waybill.deadline_remaining_ms"] <= 5000
    assert not {"waybill.held_ms", "waybill.reason"} & set(facts)
    assert span.parent is not None
    assert "b7ad6b7169203331" == trace.format_span_id(span.parent.span_id)
    assert ["b7ad6b7169203331"] == [trace.format_span_id(link.context.span_id) for link in span.links]
    assert StatusCode.UNSET is span.status.status_code
    assert 1 == story.consumed()


def test_a_message_without_facts_has_no_attributes_for_them() -> None:
    """Neither a request nor a deadline is made up."""
    story = Story(headers={})
    story.run()
    story.journal.close(HANDLED)
    assert not {"waybill.request_id", "waybill.deadline_remaining_ms"} & set(told(story.spans()[0]))


def test_the_handler_runs_in_its_span_with_its_waybill() -> None:
    """Whatever it calls continues the trace, the request and the deadline of the message."""
    story = Story(headers=HEADERS | {"waybill-deadline": in_seconds(5)})
    with story.journal.current(story.run()):
        inside = trace.get_current_span().get_span_context()
        assert "123456" == running().waybill.request_id
        left = remaining()
        assert left is not None
        assert 0 < left <= 6.0  # with the tolerance
        assert "acme" == baggage.get_baggage("tenant")
    story.journal.close(HANDLED)
    assert identity(story.spans()[0]) == inside


@pytest.mark.parametrize("refuses", [True, False])
def test_a_policy_says_whether_an_expired_handler_may_publish(*, refuses: bool) -> None:
    """By default what is half done can be finished; a strict policy stops it, unless it is detached."""
    story = Story(headers=HEADERS | {"waybill-deadline": in_seconds(60)}, refuse_publish=refuses)
    with story.journal.current(replace(story.run(), due=time.monotonic())):
        with detached():
            check_publish()
        with pytest.raises(DeadlineExceeded) if refuses else nullcontext():
            check_publish()
    with story.journal.current():
        check_publish()


def test_a_delivery_counts_as_consumed_once() -> None:
    """Not again where it was counted when it was fetched, nor with its second run."""
    story = Story(counted=True)
    story.run()
    story.journal.close(HANDLED)
    assert 0 == story.consumed()
    again = Story(HERE)
    again.run()
    again.fails()
    again.run(again.waits(0.1))
    again.journal.close(HANDLED)
    assert (2, 1) == (len(again.spans()), again.consumed())


def test_a_failed_attempt_shows_its_error_and_what_it_led_to() -> None:
    """The publish to the ladder is its child and says how long the wait is."""
    story = Story()
    story.run()
    copy = story.fails()
    assert isinstance(copy, Republish)
    work, headers = story.journal.departure(copy)
    assert work is not None
    work.finish()
    story.journal.close(copy.outcome)
    publish, process = story.spans()
    assert ("publish waybill.delay.v1.1000:orders", 1000) == (publish.name, told(publish)["waybill.delay_ms"])
    assert publish.parent is not None
    assert identity(process).span_id == publish.parent.span_id
    assert ("retried", "ValueError") == (told(process)["waybill.outcome"], told(process)["error.type"])
    assert "no such order" == process.status.description
    assert traceparent(publish) == headers["traceparent"]
    assert traceparent(process) == headers[names.HEADER_PREVIOUS]
    assert (SENT, "2", "1", "acme") == (
        headers[names.HEADER_CREATION],
        headers[names.HEADER_ATTEMPT],
        headers[names.HEADER_RETRIES],
        headers["tenant"],
    )
    assert "waybill.retries=1" in str(headers["baggage"])
    assert "tenant=acme" in str(headers["baggage"])


def test_a_copy_that_is_sent_again_is_another_publish_of_the_same_attempt() -> None:
    """The broker did not confirm the first: two publishes, one attempt."""
    story = Story()
    story.run()
    copy = story.fails()
    assert isinstance(copy, Republish)
    for _ in range(2):
        work, _ = story.journal.departure(copy)
        assert work is not None
        work.finish()
    story.journal.close(copy.outcome)
    assert ["publish", "publish", "process"] == [span.name.split()[0] for span in story.spans()]


def test_a_refused_delivery_has_one_short_span() -> None:
    """What was not run, because it came too late, is seen with the reason."""
    story = Story(headers=HEADERS | {"waybill-deadline": "1000"})
    copy = story.execution.start(story.now, 0.0).verdict
    assert isinstance(copy, Republish)
    work, _ = story.journal.departure(copy)
    assert work is not None
    work.finish()
    story.journal.close(copy.outcome)
    publish, process = story.spans()
    assert "waybill.delay_ms" not in told(publish)
    assert ("parked", str(Reason.DEADLINE)) == (
        told(process)["waybill.outcome"],
        told(process)["waybill.reason"],
    )
    assert told(process)["waybill.deadline_remaining_ms"] < 0


def test_each_run_in_this_process_is_a_span_of_its_own() -> None:
    """A retry without a trip through the broker looks like any other: two attempts, the second linked."""
    story = Story(HERE)
    story.run()
    story.fails()
    story.run(story.waits(0.1))
    story.journal.close(Outcome(result=Result.HANDLED, attempt=2))
    first, second = story.spans()
    assert ("retried", 1) == (told(first)["waybill.outcome"], told(first)["waybill.attempt"])
    assert ("handled", 2, 100) == (
        told(second)["waybill.outcome"],
        told(second)["waybill.attempt"],
        told(second)["waybill.held_ms"],
    )
    assert identity(first).span_id in {link.context.span_id for link in second.links}


def test_what_comes_after_an_open_end_has_a_span_of_its_own() -> None:
    """A program that refuses minutes after its handler has returned is seen when it does."""
    story = Story()
    story.run()
    story.journal.close(Outcome(result=Result.OPEN, attempt=1))
    copy = story.verdict(story.execution.resume(Raised(ValueError()), story.now, 0.0))
    assert isinstance(copy, Republish)
    work, _ = story.journal.departure(copy)
    assert work is not None
    work.finish()
    story.journal.close(copy.outcome)
    assert ["open", None, "retried"] == [told(span).get("waybill.outcome") for span in story.spans()]
    assert 1 == story.consumed()


def test_an_outcome_brings_its_error_where_nobody_saw_it() -> None:
    """A handler that was stopped by its deadline raised nothing, and has failed all the same."""
    story = Story()
    story.run()
    error = TimeoutError("too late")
    story.journal.close(Outcome(result=Result.PARKED, attempt=1, reason=Reason.DEADLINE, error=error))
    [span] = story.spans()
    assert ("TimeoutError", "deadline") == (told(span)["error.type"], told(span)["waybill.reason"])


def test_nothing_is_recorded_of_what_never_began() -> None:
    """A held delivery whose channel goes has no span, and whatever is said about it finds none."""
    story = Story()
    story.journal.error(ValueError())
    with story.journal.current():
        assert trace.INVALID_SPAN is trace.get_current_span()
    story.journal.close(Outcome(result=Result.GIVEN_BACK, attempt=1))
    assert [] == story.spans()


def test_silence_sends_the_copy_all_the_same() -> None:
    """Where nothing is instrumented a failed message is retried: with its facts, without a trace."""
    story = Story(silent=True)
    with story.journal.current(story.run()):
        assert "123456" == running().waybill.request_id
    copy = story.fails()
    assert isinstance(copy, Republish)
    assert (None, dict(copy.headers)) == story.journal.departure(copy)
    story.journal.close(copy.outcome)


# Sinks.


def test_events_are_told_inside_the_span(listening: list[tuple[Event, trace.SpanContext]]) -> None:
    """A sink that writes to the current span writes to that of the attempt."""
    story = Story()
    story.run()
    story.journal.emit(OPENED)
    story.journal.close(HANDLED)
    [span] = story.spans()
    assert [(OPENED, identity(span))] == listening
    assert ["waybill.breaker"] == [event.name for event in span.events]


def test_the_change_that_lets_an_attempt_in_is_told_in_its_span(
    listening: list[tuple[Event, trace.SpanContext]],
) -> None:
    """It happens before there is a span, and belongs to it; it is told once."""
    story = Story()
    story.journal.emit(OPENED)
    assert [] == listening
    story.run()
    story.journal.close(HANDLED)
    assert [(OPENED, identity(story.spans()[0]))] == listening


def test_other_events_do_not_wait(listening: list[tuple[Event, trace.SpanContext]]) -> None:
    """What is held is counted while it is held, outside of any span."""
    story = Story()
    [event] = story.execution.start(story.now, 0.0).events
    story.journal.emit(event)
    assert [(event, trace.INVALID_SPAN_CONTEXT)] == listening


# Faults.


@pytest.mark.parametrize(
    "faulty",
    [
        lambda monkeypatch, story: monkeypatch.setattr(story.recorder, "start", _fail),
        lambda monkeypatch, _: monkeypatch.setattr(module, "carrying", _fail),
    ],
    ids=["recording", "injecting"],
)
def test_a_fault_of_ours_costs_the_trace_not_the_message(
    faulty: Callable[[pytest.MonkeyPatch, Story], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler runs, and the copy leaves with what the policy needs."""
    story = Story()
    faulty(monkeypatch, story)
    with story.journal.current(story.run()):
        assert "123456" == running().waybill.request_id
    copy = story.fails()
    assert isinstance(copy, Republish)
    work, headers = story.journal.departure(copy)
    assert (None, "2") == (work, headers[names.HEADER_ATTEMPT])
    story.journal.close(copy.outcome)


def _fail(*_: object, **__: object) -> Any:  # noqa: ANN401 - it returns nothing
    raise RuntimeError
