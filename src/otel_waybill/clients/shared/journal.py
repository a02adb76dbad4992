"""The process span of one delivery under a policy, from its first verdict to its last.

It is opened by the first attempt, or by the copy of a delivery that is refused at the door, and closed when
the delivery is settled. While a program that settles later keeps a delivery open, its span is closed
already; what happens then gets a short span of its own.
"""

import time
from contextlib import AbstractContextManager, nullcontext

from opentelemetry.context import Context, get_current
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from otel_waybill import names
from otel_waybill.clients.shared.arrival import Arrival
from otel_waybill.clients.shared.departure import carrying, traceparent
from otel_waybill.context import Running, entered
from otel_waybill.core.delivery import Outcome, Result
from otel_waybill.core.events import BreakerChanged, Event
from otel_waybill.core.headers import ours
from otel_waybill.core.pipeline import Execution
from otel_waybill.core.verdicts import Republish, Run
from otel_waybill.guard import harmless
from otel_waybill.resilience import hub
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.recorder import Recorder
from otel_waybill.telemetry.semconv import PROCESS, PUBLISH, Attribute, Endpoint
from otel_waybill.telemetry.work import Current, Work

_opening = harmless("starting a process span")
_departing = harmless("tracing a copy")

_SHORTEST_HOLD = 0.001
"""Seconds below which a delivery was not held, only handed on."""


class Journal:
    """Records one delivery under a policy."""

    def __init__(  # noqa: PLR0913 - what one delivery is, each part by its name
        self,
        recorder: Recorder,
        arrival: Arrival,
        execution: Execution,
        message: Message,
        endpoint: Endpoint | None,
        *,
        counted: bool = False,
    ) -> None:
        """Record what *execution* does with *arrival*, which is *message* to telemetry.

        It counts as consumed once, and not here if it is *counted* already.
        """
        self._recorder = recorder
        self._arrival = arrival
        self._execution = execution
        self._message = message
        self._endpoint = endpoint
        self._work: Work | None = None
        self._counted = counted
        self._early: list[Event] = []

    def open(self, run: Run | None = None) -> None:
        """Start the process span of *run*, or of a refusal (None), which is part of what is open already."""
        links = self._arrival.links
        if self._work is not None:
            if run is None:
                return
            if run.fallback:
                self._work.span.set_attribute(names.FALLBACK, value=True)
                return
            # The delivery was held and runs again: one attempt, one span.
            links = (*links, self._work.span.get_span_context())
            self._finish(self._work, Result.RETRIED)
        with _opening:
            self._work = self._recorder.start(
                PROCESS,
                self._message,
                self._endpoint,
                self._arrival.context,
                links=links,
                more=self._facts(run),
            )
            self._work.counted = not self._counted
            self._counted = True
        early, self._early = self._early, []
        for event in early:
            self.emit(event)

    def current(self, run: Run | None = None) -> AbstractContextManager[Context]:
        """Return a block in which the span is current, and the waybill of *run* with it."""
        waybill = self._execution.waybill
        if run is None:
            state = Running(waybill=waybill)
        else:
            known = waybill.detached() if run.fallback else waybill
            state = Running(waybill=known, due=run.due, enforced=run.strict)
        span = INVALID_SPAN if self._work is None else self._work.span
        return Current(set_span_in_context(span, entered(state, self._arrival.context)))

    def error(self, error: BaseException) -> None:
        """Note that the attempt failed with *error*."""
        if self._work is not None:
            self._work.fail(error)

    def emit(self, event: Event) -> None:
        """Tell every sink of *event*, with the span current.

        The change of a breaker that lets an attempt in waits for the span of that attempt, which is started
        next.
        """
        if self._work is None and isinstance(event, BreakerChanged):
            self._early.append(event)
            return
        with nullcontext() if self._work is None else self._work.current():
            hub.emit(event)

    def departure(self, copy: Republish) -> tuple[Work | None, dict[str, object]]:
        """Return a started publish span for *copy*, and the headers to send it with."""
        self.open()
        if self._recorder.silent or self._work is None:
            return None, dict(copy.headers)
        with _departing:
            return self._departed(copy, self._work)
        return None, dict(copy.headers)

    def _departed(self, copy: Republish, processing: Work) -> tuple[Work, dict[str, object]]:
        about = self._message._replace(
            exchange=copy.exchange, routing_key=copy.routing_key, delivery_tag=None
        )
        with self.current():
            more = _delay(copy.outcome)
            work = self._recorder.start(PUBLISH, about, self._endpoint, get_current(), more=more)
        sending = entered(Running(waybill=copy.waybill), self._arrival.context)
        headers = carrying(work, copy.headers, sending) | ours(copy.headers)
        previous = traceparent(processing.span)
        return work, headers if previous is None else headers | {names.HEADER_PREVIOUS: previous}

    def close(self, outcome: Outcome) -> None:
        """End the span with what became of the delivery."""
        if self._work is None:
            return
        if outcome.reason is not None:
            self._work.span.set_attribute(names.REASON, str(outcome.reason))
        if outcome.error is not None:
            self._work.fail(outcome.error)
        self._finish(self._work, outcome.result)

    def _finish(self, work: Work, result: Result) -> None:
        work.span.set_attribute(names.OUTCOME, str(result))
        work.finish()
        self._work = None

    def _facts(self, run: Run | None) -> dict[str, Attribute]:
        facts: dict[str, Attribute] = {names.ATTEMPT: self._execution.waybill.attempt}
        if self._execution.waybill.request_id is not None:
            facts[names.REQUEST_ID] = self._execution.waybill.request_id
        remaining = self._execution.remaining(time.monotonic())
        if remaining is not None:
            facts[names.DEADLINE_REMAINING] = round(remaining * 1000)
        if run is not None and run.held >= _SHORTEST_HOLD:
            facts[names.HELD] = round(run.held * 1000)
        if run is not None and run.fallback:
            facts[names.FALLBACK] = True
        return facts


def _delay(outcome: Outcome) -> dict[str, Attribute]:
    return {} if outcome.delay is None else {names.DELAY: round(outcome.delay * 1000)}
