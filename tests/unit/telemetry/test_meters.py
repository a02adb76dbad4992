"""The metrics against the real SDK: instruments, units, buckets, and attributes that have a bound."""

import logging
import time
from collections.abc import Mapping
from typing import Any, TypeAlias

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_waybill.config.settings import Settings
from otel_waybill.core.breaker import State
from otel_waybill.core.delivery import Outcome, Reason, Result
from otel_waybill.core.events import (
    BreakerCalled,
    BreakerChanged,
    CallOutcome,
    ClockSkewed,
    Confirmed,
    Ended,
    Event,
    HeadersInvalid,
    Held,
    Released,
    RunEnded,
    RunStarted,
    Unconfirmed,
)
from otel_waybill.telemetry.hooks import Hooks, Message
from otel_waybill.telemetry.meters import Meters
from otel_waybill.telemetry.recorder import Recorder
from otel_waybill.telemetry.semconv import (
    ACK,
    NACK,
    PROCESS,
    PUBLISH,
    RECEIVE,
    REJECT,
    Endpoint,
    Operation,
    consume_destination,
    publish_destination,
    shape,
)

Point: TypeAlias = tuple[Mapping[str, object], float]

BROKER = Endpoint("rabbit.example", 5672, "10.1.2.80", 5672)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
AT_THE_BROKER = {"messaging.system": "rabbitmq", "server.address": "rabbit.example", "server.port": 5672}
ORDERS = {"waybill.queue": "orders"}
GENERATED = "amq.gen-JzTY20BRgKO-HjmUJj0wLg"


class Bench:
    """Instruments, and what is read from them."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.meters = Meters(MeterProvider([self._reader]).get_meter("test"))

    def tell(self, *events: Event) -> None:
        """Let it hear of *events*."""
        for event in events:
            self.meters(event)

    def metrics(self) -> dict[str, Any]:
        """What was measured, by its name."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[Point]:
        """The attributes and the value, or the sum, of every series of the metric *name*."""
        metric = self.metrics().get(name)
        points: list[HistogramDataPoint | NumberDataPoint] = metric.data.data_points if metric else []
        return [
            (dict(each.attributes or {}), each.sum if isinstance(each, HistogramDataPoint) else each.value)
            for each in points
        ]


@pytest.fixture
def bench() -> Bench:
    """Fresh instruments."""
    return Bench()


def everything(bench: Bench) -> None:
    """Measure once with every instrument."""
    for operation in (PUBLISH, PROCESS):
        bench.meters.record(shape(operation), 0.25, None, counted=True)
    bench.tell(
        RunStarted(queue="orders", remaining=1.0),
        Held(queue="orders", breaker="payments"),
        Confirmed(queue="orders", seconds=0.1),
        Unconfirmed(queue="orders", error="nack"),
        Ended(queue="orders", outcome=Outcome(result=Result.HANDLED, attempt=1)),
        HeadersInvalid(queue="orders", names=("waybill-deadline",)),
        BreakerCalled(breaker="payments", outcome=CallOutcome.SUCCESS),
        BreakerChanged(breaker="payments", before="closed", after="open", trigger="tripped"),
    )


def test_every_instrument_has_its_unit(bench: Bench) -> None:
    """Names and units are those of the conventions, or begin with ours; each says what it is."""
    everything(bench)
    metrics = bench.metrics()
    assert {
        "messaging.client.operation.duration": "s",
        "messaging.process.duration": "s",
        "messaging.client.sent.messages": "{message}",
        "messaging.client.consumed.messages": "{message}",
        "waybill.deliveries": "{delivery}",
        "waybill.attempts": "{attempt}",
        "waybill.deadline.remaining": "s",
        "waybill.deliveries.held": "{delivery}",
        "waybill.deliveries.running": "{delivery}",
        "waybill.confirm.duration": "s",
        "waybill.copies.unconfirmed": "{copy}",
        "waybill.headers.invalid": "{header}",
        "waybill.breaker.calls": "{call}",
        "waybill.breaker.state": "{state}",
    } == {name: metric.unit for name, metric in metrics.items()}
    assert all(metric.description for metric in metrics.values())


@pytest.mark.parametrize(
    ("expected", "name"),
    [
        (SECONDS, "messaging.client.operation.duration"),
        (SECONDS, "messaging.process.duration"),
        (SECONDS, "waybill.confirm.duration"),
        ((0, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200), "waybill.deadline.remaining"),
        ((1, 2, 3, 4, 5, 7, 10, 15, 20), "waybill.attempts"),
    ],
)
def test_buckets_fit_what_is_measured(bench: Bench, expected: tuple[float, ...], name: str) -> None:
    """Seconds have the buckets that the conventions ask for, not the SDK's, which are milliseconds."""
    everything(bench)
    [point] = bench.metrics()[name].data.data_points
    assert expected == tuple(point.explicit_bounds)


# The metrics of the conventions.


@pytest.mark.parametrize(
    ("operation", "duration", "counter"),
    [
        (PUBLISH, "messaging.client.operation.duration", "messaging.client.sent.messages"),
        (RECEIVE, "messaging.client.operation.duration", "messaging.client.consumed.messages"),
        (PROCESS, "messaging.process.duration", "messaging.client.consumed.messages"),
        (ACK, "messaging.client.operation.duration", None),
        (NACK, "messaging.client.operation.duration", None),
        (REJECT, "messaging.client.operation.duration", None),
    ],
)
def test_an_operation_is_measured_by_its_type(
    bench: Bench, operation: Operation, duration: str, counter: str | None
) -> None:
    """Processing has a histogram of its own; sending and consuming are counted, settling is not."""
    bench.meters.record(shape(operation, publish_destination("", "orders"), BROKER), 0.25, None, counted=True)
    common = AT_THE_BROKER | {
        "messaging.operation.name": operation.name,
        "messaging.destination.name": "orders",
    }
    kind = {} if operation is PROCESS else {"messaging.operation.type": operation.type}
    assert {duration, counter} - {None} == set(bench.metrics())
    assert [(common | kind, 0.25)] == bench.points(duration)
    assert counter is None or [(common, 1)] == bench.points(counter)


def test_failures_are_told_apart(bench: Bench) -> None:
    """Both the duration and the count of what failed say with what."""
    known = shape(PUBLISH, publish_destination("", "orders"), BROKER)
    bench.meters.record(known, 0.25, "ValueError", counted=True)
    bench.meters.record(known, 0.5, None, counted=True)
    for name in ("messaging.client.operation.duration", "messaging.client.sent.messages"):
        assert {"ValueError", None} == {attributes.get("error.type") for attributes, _ in bench.points(name)}


def test_a_delivery_is_consumed_once(bench: Bench) -> None:
    """What was received and is then processed is one message."""
    bench.meters.record(shape(RECEIVE), 0.25, None, counted=True)
    bench.meters.record(shape(PROCESS), 0.25, None, counted=False)
    assert [1] == [value for _, value in bench.points("messaging.client.consumed.messages")]
    bench.meters.record(shape(PUBLISH), 0.25, None, counted=False)
    assert [1] == [value for _, value in bench.points("messaging.client.sent.messages")]


def test_a_thousand_reply_queues_are_one_series(bench: Bench) -> None:
    """No generated, temporary or templated name, and no id of a message, ever becomes an attribute."""
    recorder = Recorder(
        TracerProvider().get_tracer("test"),
        Settings(capture_headers=("tenant",)),
        meters=bench.meters,
        hooks=Hooks(destination_template=lambda name: "user.{id}" if name.startswith("user.") else None),
    )
    for number in range(100):
        anonymous = Message(routing_key=f"amq.gen-{number:022}", queue=None)
        recorder.start(PUBLISH, anonymous, BROKER, Context()).finish()
        temporary = Message(routing_key=f"inbox-{number}", delivery_tag=number, temporary=True)
        recorder.start(PROCESS, temporary, BROKER, Context(), more={"waybill.attempt": number}).finish()
        recorder.start(ACK, Message(routing_key=f"user.{number}"), BROKER, Context()).finish()
    assert [AT_THE_BROKER | {"messaging.operation.name": "publish"}] == [
        attributes for attributes, _ in bench.points("messaging.client.sent.messages")
    ]
    assert [AT_THE_BROKER | {"messaging.operation.name": "process"}] == [
        attributes for attributes, _ in bench.points("messaging.process.duration")
    ]
    assert {None, "user.{id}"} == {
        attributes.get("messaging.destination.template")
        for attributes, _ in bench.points("messaging.client.operation.duration")
    }
    assert 2 == len(bench.points("messaging.client.operation.duration"))


def test_a_duration_reaches_back_to_the_call(bench: Bench) -> None:
    """The histogram says what the span says, also for what was known only afterwards."""
    recorder = Recorder(TracerProvider().get_tracer("test"), Settings(), meters=bench.meters)
    since = time.perf_counter() - 3.0
    recorder.start(RECEIVE, Message(queue="orders"), BROKER, Context(), since=since).finish(ValueError())
    [(attributes, seconds)] = bench.points("messaging.client.operation.duration")
    assert "ValueError" == attributes["error.type"]
    assert 3.0 == pytest.approx(seconds, abs=0.5)


def test_what_is_not_sampled_is_measured(bench: Bench) -> None:
    """Metrics count every message, whatever is sampled."""
    tracer = TracerProvider(sampler=ALWAYS_OFF).get_tracer("test")
    recorder = Recorder(tracer, Settings(), meters=bench.meters)
    recorder.start(PUBLISH, Message(routing_key="orders"), BROKER, Context()).finish(ValueError())
    [(attributes, count)] = bench.points("messaging.client.sent.messages")
    assert (1, "ValueError") == (count, attributes["error.type"])


# What policies do.


def test_outcomes_are_counted_with_their_reasons(bench: Bench) -> None:
    """How many were handled, retried and parked, and why."""
    for outcome in (
        Outcome(result=Result.HANDLED, attempt=1),
        Outcome(result=Result.RETRIED, attempt=1, delay=1.0, error=ValueError("no such order 4711")),
        Outcome(result=Result.PARKED, attempt=5, reason=Reason.MAX_ATTEMPTS, error=ValueError()),
    ):
        bench.tell(Ended(queue="orders", outcome=outcome))
    assert [
        (ORDERS | {"waybill.outcome": "handled"}, 1),
        (ORDERS | {"waybill.outcome": "parked", "waybill.reason": "max-attempts"}, 1),
        (ORDERS | {"waybill.outcome": "retried"}, 1),
    ] == sorted(bench.points("waybill.deliveries"), key=str)


def test_attempts_are_told_of_messages_that_are_done(bench: Bench) -> None:
    """How many runs it took, once per message: not at every retry, and not when it only went back."""
    for result in Result:
        bench.tell(Ended(queue="orders", outcome=Outcome(result=result, attempt=3)))
    assert [
        (ORDERS | {"waybill.outcome": "dropped"}, 3),
        (ORDERS | {"waybill.outcome": "handled"}, 3),
        (ORDERS | {"waybill.outcome": "parked"}, 3),
    ] == sorted(bench.points("waybill.attempts"), key=str)


def test_runs_are_counted_up_and_down(bench: Bench) -> None:
    """How many handlers run now, and what was left of their deadlines when they started."""
    bench.tell(
        RunStarted(queue="orders", remaining=2.0),
        RunStarted(queue="orders", remaining=None),
        RunEnded(queue="orders"),
    )
    assert [(ORDERS, 1)] == bench.points("waybill.deliveries.running")
    assert [(ORDERS, 2.0)] == bench.points("waybill.deadline.remaining")


def test_a_run_within_the_tolerance_had_nothing_left(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A message that is late by less than the clocks may differ is measured, without a warning."""
    with caplog.at_level(logging.WARNING):
        bench.tell(RunStarted(queue="orders", remaining=-0.5))
    assert [(ORDERS, 0.0)] == bench.points("waybill.deadline.remaining")
    assert [] == caplog.messages


def test_held_deliveries_are_counted_up_and_down(bench: Bench) -> None:
    """How many wait now, and for which breaker."""
    held, released = Held(queue="orders", breaker="payments"), Released(queue="orders", breaker="payments")
    bench.tell(held, held, released)
    assert [(ORDERS | {"waybill.breaker.name": "payments"}, 1)] == bench.points("waybill.deliveries.held")


def test_the_broker_is_measured_by_its_confirms(bench: Bench) -> None:
    """How long copies take, and how many were in doubt; what the broker said is no attribute."""
    bench.tell(
        Confirmed(queue="orders", seconds=0.25), Unconfirmed(queue="orders", error="no confirm within 5 s")
    )
    assert [(ORDERS, 0.25)] == bench.points("waybill.confirm.duration")
    assert [(ORDERS, 1)] == bench.points("waybill.copies.unconfirmed")


@pytest.mark.parametrize(("expected", "after"), [(0, "closed"), (1, "half-open"), (2, "open")])
def test_the_state_of_a_breaker_is_a_number(bench: Bench, expected: int, after: str) -> None:
    """The last state counts; the higher the worse."""
    bench.tell(
        BreakerChanged(breaker="payments", before="closed", after="open", trigger="tripped"),
        BreakerChanged(breaker="payments", before="open", after=after, trigger="retried"),
    )
    assert [({"waybill.breaker.name": "payments"}, expected)] == bench.points("waybill.breaker.state")


def test_a_breaker_that_refuses_is_above_zero(bench: Bench) -> None:
    """One alert finds every breaker that does not let all calls in, whether by itself or by hand."""
    for state in State:
        bench.tell(BreakerChanged(breaker=state, before="closed", after=state, trigger="forced"))
    refusing = {
        each["waybill.breaker.name"] for each, value in bench.points("waybill.breaker.state") if value > 0
    }
    assert {State.OPEN, State.HALF_OPEN, State.FORCED_OPEN} == refusing


def test_calls_through_a_breaker_are_counted_by_outcome(bench: Bench) -> None:
    """Every call has one outcome, so that the sum over all of them is the number of calls."""
    for outcome in (*CallOutcome, CallOutcome.REFUSED):
        bench.tell(BreakerCalled(breaker="payments", outcome=outcome))
    counted = {
        each["waybill.breaker.outcome"]: (each, value)
        for each, value in bench.points("waybill.breaker.calls")
    }
    assert {"success", "slow", "failure", "ignored", "short-circuited"} == set(counted)
    assert (
        {"waybill.breaker.name": "payments", "waybill.breaker.outcome": "short-circuited"},
        2,
    ) == counted["short-circuited"]


def test_broken_headers_are_counted_by_name(bench: Bench) -> None:
    """Whoever sends nonsense is found by which fact it is and where it arrives."""
    bench.tell(HeadersInvalid(queue="orders", names=("waybill-deadline", "waybill-retries")))
    assert [
        (ORDERS | {"waybill.header": "waybill-deadline"}, 1),
        (ORDERS | {"waybill.header": "waybill-retries"}, 1),
    ] == sorted(bench.points("waybill.headers.invalid"), key=str)


@pytest.mark.parametrize("queue", [None, GENERATED, "amq_0123456789abcdef0123456789abcdef"])
def test_a_generated_queue_is_no_attribute(bench: Bench, queue: str | None) -> None:
    """Broken headers arrive at reply queues too, without a policy, and each would be a series of its own."""
    bench.tell(HeadersInvalid(queue=queue, names=("waybill-deadline",)))
    assert [({"waybill.header": "waybill-deadline"}, 1)] == bench.points("waybill.headers.invalid")


def test_clocks_that_are_ahead_are_measured(bench: Bench) -> None:
    """Each message from the future counts, with how far it is away, where it arrives."""
    bench.tell(ClockSkewed(queue="orders", seconds=2.5), ClockSkewed(queue="orders", seconds=7.5))
    assert [(ORDERS, 10.0)] == bench.points("waybill.clock_skew")


@pytest.mark.parametrize("state", State)
def test_every_state_has_its_number(bench: Bench, state: State) -> None:
    """A state that the metric does not know would be a fault at the worst moment."""
    bench.tell(BreakerChanged(breaker="payments", before="closed", after=state, trigger="forced"))
    assert 1 == len(bench.points("waybill.breaker.state"))


def test_events_that_nobody_measures_are_no_fault(bench: Bench) -> None:
    """What is told to other sinks only is not for us."""
    unknown: Any = "something new"
    bench.tell(unknown)
    assert {} == bench.metrics()


def test_consumed_destination_is_that_of_the_span(bench: Bench) -> None:
    """A metric and a span of the same operation name the same thing."""
    known = shape(PROCESS, consume_destination("shop", "order.new", "orders"), BROKER)
    bench.meters.record(known, 0.25, None, counted=True)
    [(attributes, _)] = bench.points("messaging.process.duration")
    assert "shop:order.new:orders" == attributes["messaging.destination.name"]
    assert known.fixed["messaging.destination.name"] == attributes["messaging.destination.name"]
