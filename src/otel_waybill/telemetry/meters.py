"""The metrics of the conventions, and our own of what policies do."""

from types import MappingProxyType

from opentelemetry.metrics import Histogram, Meter

from otel_waybill import names
from otel_waybill.core.anonymity import is_anonymous
from otel_waybill.core.events import (
    BreakerCalled,
    BreakerChanged,
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
from otel_waybill.telemetry.semconv import Shape, Value

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The buckets that the conventions ask for."""
_LEFT = (0, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_SKEWS = (1, 2, 5, 10, 30, 60, 300, 600, 3600, 86400)
_RUNS = (1, 2, 3, 4, 5, 7, 10, 15, 20)
_STATES = {"disabled": -2, "metrics-only": -1, "closed": 0, "half-open": 1, "open": 2, "forced-open": 3}
"""Above 0 where not every call is let in."""


class Meters:
    """The instruments of one meter provider; also a sink of events."""

    def __init__(self, meter: Meter) -> None:
        """Create the instruments of *meter*."""

        def seconds(name: str, description: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=buckets)

        self._operation = seconds(names.METRIC_OPERATION_DURATION, "Duration of publish, receive and settle.")
        self._process = seconds(names.METRIC_PROCESS_DURATION, "Duration of processing a message.")
        self._sent = meter.create_counter(names.METRIC_SENT, "{message}", "Messages that were to be sent.")
        self._consumed = meter.create_counter(names.METRIC_CONSUMED, "{message}", "Messages delivered.")
        self._outcomes = meter.create_counter(
            names.METRIC_OUTCOMES, "{delivery}", "Deliveries under a policy, by what became of them."
        )
        self._attempts = meter.create_histogram(
            names.METRIC_ATTEMPTS,
            "{attempt}",
            "Runs that a message took until it was handled or parked.",
            explicit_bucket_boundaries_advisory=_RUNS,
        )
        self._remaining = seconds(
            names.METRIC_REMAINING, "Time left until the deadline when a run starts.", _LEFT
        )
        self._held = meter.create_up_down_counter(
            names.METRIC_HELD, "{delivery}", "Deliveries that wait unacknowledged for a breaker or a limit."
        )
        self._running = meter.create_up_down_counter(
            names.METRIC_RUNNING, "{delivery}", "Deliveries whose handler runs."
        )
        self._confirm = seconds(names.METRIC_CONFIRM_DURATION, "Time until the broker confirmed a copy.")
        self._unconfirmed = meter.create_counter(
            names.METRIC_UNCONFIRMED,
            "{copy}",
            "Copies that were not confirmed and routed, and are tried again.",
        )
        self._invalid = meter.create_counter(
            names.METRIC_HEADERS_INVALID, "{header}", "Facts that arrived malformed and were read as absent."
        )
        self._skew = seconds(
            names.METRIC_CLOCK_SKEW, "How far the clock of a sender is ahead, at least.", _SKEWS
        )
        self._breaker = meter.create_gauge(
            names.METRIC_BREAKER_STATE,
            "{state}",
            "State of a breaker: 0 closed, 1 half-open, 2 open, 3 forced open, -1 metrics only, -2 disabled.",
        )
        self._calls = meter.create_counter(
            names.METRIC_BREAKER_CALLS, "{call}", "Calls through a breaker, by what became of them."
        )

    def record(self, known: Shape, seconds: float, error: str | None, *, counted: bool) -> None:
        """Measure one operation of *seconds*, failed with *error* if any; *counted* if it consumes."""
        kind = known.operation.type
        duration = self._process if kind == "process" else self._operation
        duration.record(seconds, _failed(known.timed, error))
        if kind == "send":
            self._sent.add(1, _failed(known.measured, error))
        elif kind != "settle" and counted:
            self._consumed.add(1, _failed(known.measured, error))

    def __call__(self, event: Event) -> None:  # noqa: PLR0912, C901 - one branch for each kind of event
        """Measure what policies do."""
        match event:
            case BreakerCalled(breaker=breaker, outcome=ending):
                self._calls.add(1, {names.BREAKER_NAME: breaker, names.BREAKER_OUTCOME: str(ending)})
            case RunStarted(queue=queue, remaining=remaining):
                self._running.add(1, _of(queue))
                if remaining is not None:
                    # Below 0 is what a message is late within the tolerance, which a histogram refuses.
                    self._remaining.record(max(0.0, remaining), _of(queue))
            case RunEnded(queue=queue):
                self._running.add(-1, _of(queue))
            case Held():
                self._held.add(1, _of(event.queue) | _why(event))
            case Released():
                self._held.add(-1, _of(event.queue) | _why(event))
            case Confirmed(queue=queue, seconds=seconds):
                self._confirm.record(seconds, _of(queue))
            case Unconfirmed(queue=queue):
                self._unconfirmed.add(1, _of(queue))
            case Ended(queue=queue, outcome=outcome):
                attributes = _of(queue) | {names.OUTCOME: str(outcome.result)}
                if outcome.reason is not None:
                    attributes[names.REASON] = str(outcome.reason)
                self._outcomes.add(1, attributes)
                if outcome.final:
                    self._attempts.record(outcome.attempt, attributes)
            case HeadersInvalid(queue=queue, names=malformed):
                for name in malformed:
                    self._invalid.add(1, _of(queue) | {names.HEADER: name})
            case ClockSkewed(queue=queue, seconds=seconds):
                self._skew.record(seconds, _of(queue))
            case BreakerChanged(breaker=breaker, after=after):
                self._breaker.set(_STATES[after], {names.BREAKER_NAME: breaker})


def _failed(attributes: MappingProxyType[str, Value], error: str | None) -> dict[str, Value]:
    """Return a copy of *attributes*, with the *error* that the operation failed with, if it did."""
    copy = attributes.copy()
    if error is not None:
        copy[names.ERROR_TYPE] = error
    return copy


def _of(queue: str | None) -> dict[str, Value]:
    """Return the attribute that names *queue*, if it was people who named it: of those there are few."""
    return {} if queue is None or is_anonymous(queue) else {names.QUEUE: queue}


def _why(event: Held | Released) -> dict[str, Value]:
    facts = {names.BREAKER_NAME: event.breaker, names.LIMIT: event.limit}
    return {name: value for name, value in facts.items() if value is not None}
