"""The process span of one delivery under a policy, from its first verdict to its last.

It is opened by the first attempt, or by the copy of a delivery that is refused at the door, and closed when
the delivery is settled. While a program that settles later keeps a delivery open, its span is closed
already; what happens then gets a short span of its own.
"""

import time
from contextlib import AbstractContextManager

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span

from otel_waybill import names
from otel_waybill.clients.shared.arrival import Arrival
from otel_waybill.clients.shared.departure import departing, traceparent
from otel_waybill.context import Running, entered
from otel_waybill.core.delivery import Outcome, Result
from otel_waybill.core.events import BreakerChanged, Event
from otel_waybill.core.pipeline import Execution
from otel_waybill.core.verdicts import Republish, Run
from otel_waybill.guard import harmless
from otel_waybill.resilience import hub
from otel_waybill.telemetry.recorder import Current, Recorder, fail, finish
from otel_waybill.telemetry.semconv import PUBLISH, Endpoint, Shape, Value, publish_destination, shape

_opening = harmless("starting a process span")


class Journal:
    """Records one delivery under a policy."""

    def __init__(
        self,
        recorder: Recorder,
        arrival: Arrival,
        execution: Execution,
        shape: Shape,
        delivery_tag: int | None,
    ) -> None:
        """Record what *execution* does with *arrival*."""
        self._recorder = recorder
        self._arrival = arrival
        self._execution = execution
        self._shape = shape
        self._tag = delivery_tag
        self._span: Span = INVALID_SPAN
        self._failed = False
        self._early: list[Event] | None = []  # None once there has been a span

    def open(self, run: Run | None = None) -> None:
        """Start the process span of *run*, or of a refusal (None), which is part of what is open already."""
        links = self._arrival.links
        if self._span is not INVALID_SPAN:
            if run is None:
                return
            # The delivery was held and runs again: one attempt, one span.
            links = (*links, self._span.get_span_context())
            self._finish(Result.RETRIED)
        with _opening:
            attributes = self._shape.attributes(
                message_id=self._arrival.delivery.message_id, delivery_tag=self._tag
            )
            attributes |= self._facts(run)
            self._span = self._recorder.start(self._shape, attributes, self._arrival.context, links)
        early, self._early = self._early or (), None
        for event in early:
            self.emit(event)

    def current(self, run: Run | None = None) -> AbstractContextManager[Context]:
        """Return a block in which the span is current, and the waybill of *run* with it."""
        state = Running(waybill=self._execution.waybill, due=None if run is None else run.due)
        return Current(self._span, entered(state, self._arrival.context))

    def error(self, error: BaseException) -> None:
        """Note that the attempt failed with *error*; the first error of a span is its error."""
        if not self._failed:
            self._failed = True
            fail(self._span, error)

    def emit(self, event: Event) -> None:
        """Tell every sink of *event*, with the span current.

        The change of a breaker that lets the first attempt in waits for the span of that attempt, which is
        started next.
        """
        if self._early is not None and isinstance(event, BreakerChanged):
            self._early.append(event)
            return
        with Current(self._span, self._arrival.context):
            hub.emit(event)

    def departure(self, copy: Republish, endpoint: Endpoint | None) -> tuple[Span, dict[str, object]]:
        """Return a started publish span for *copy*, and the headers to send it with."""
        self.open()
        if self._recorder.silent:
            return INVALID_SPAN, dict(copy.headers)
        with self.current() as context:
            leaving = shape(PUBLISH, publish_destination(copy.exchange, copy.routing_key), endpoint)
            attributes = leaving.attributes(message_id=self._arrival.delivery.message_id)
            attributes |= _delay(copy.outcome)
            span = self._recorder.start(leaving, attributes, context)
        with Current(span, entered(Running(waybill=copy.waybill), self._arrival.context)) as context:
            headers = dict(copy.headers) | departing(copy.headers, context)
        previous = traceparent(self._span)
        return span, headers if previous is None else headers | {names.HEADER_PREVIOUS: previous}

    def close(self, outcome: Outcome) -> None:
        """End the span with what became of the delivery."""
        if outcome.reason is not None:
            self._span.set_attribute(names.REASON, str(outcome.reason))
        if outcome.error is not None:
            self.error(outcome.error)
        self._finish(outcome.result)

    def _finish(self, result: Result) -> None:
        self._span.set_attribute(names.OUTCOME, str(result))
        finish(self._span)
        self._span, self._failed = INVALID_SPAN, False

    def _facts(self, run: Run | None) -> dict[str, Value]:
        facts: dict[str, Value] = {names.ATTEMPT: self._execution.waybill.attempt}
        if self._execution.waybill.request_id is not None:
            facts[names.REQUEST_ID] = self._execution.waybill.request_id
        remaining = self._execution.remaining(time.monotonic())
        if remaining is not None:
            facts[names.DEADLINE_REMAINING] = round(remaining * 1000)
        if run is not None and run.held >= _SHORTEST_HOLD:
            facts[names.HELD] = round(run.held * 1000)
        return facts


_SHORTEST_HOLD = 0.001
"""Seconds below which a delivery was not held, only handed on."""


def _delay(outcome: Outcome) -> dict[str, Value]:
    return {} if outcome.delay is None else {names.DELAY: round(outcome.delay * 1000)}
