"""One operation while it is being recorded, and the block in which its span is current."""

import contextlib
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from otel_waybill import names
from otel_waybill.guard import harmless
from otel_waybill.telemetry.semconv import Shape, error_type

if TYPE_CHECKING:
    from otel_waybill.telemetry.recorder import Recorder

_ending = harmless("ending a span")
_failing = harmless("recording an exception")


class Work:
    """One operation that is being recorded; as a block it is current inside and finished at the end."""

    __slots__ = ("_error", "_recorder", "_shape", "_started", "_token", "context", "counted", "span")

    _token: object

    def __init__(
        self, recorder: "Recorder", span: Span, known: Shape, context: Context, since: float | None
    ) -> None:
        self.span = span
        self.context = trace.set_span_in_context(span, context)
        """The one it was started in, with its span as the current one."""
        self.counted = True
        """Whether a delivery counts as consumed here, and not somewhere else already."""
        self._recorder = recorder
        self._shape = known
        self._error: BaseException | None = None
        self._started = time.perf_counter() if since is None else since

    def __enter__(self) -> Self:
        self._token = otel.attach(self.context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        otel.detach(self._token)  # type: ignore[arg-type]  # the type of tokens is private
        self.finish(error)

    def current(self, context: Context | None = None) -> "Current":
        """Return a block in which the span is current, in *context* or in the one it was started in."""
        return Current(self.context if context is None else trace.set_span_in_context(self.span, context))

    def fail(self, error: BaseException) -> None:
        """Mark the operation as failed by *error*; its first error is its error, others stand beside it."""
        if error is self._error:
            return
        first = self._error is None
        if first:
            self._error = error
        with _failing:
            if first and self.span.is_recording():
                self.span.set_attribute(names.ERROR_TYPE, error_type(error))
                self.span.set_status(Status(StatusCode.ERROR, _described(error)))
            self._record_exception(error)

    def finish(self, error: BaseException | None = None) -> None:
        """End it, failed if there is an *error*; a fault in here is ours and harms nobody."""
        if error is not None and self._error is None:
            self.fail(error)
        with _ending:
            seconds = time.perf_counter() - self._started
            self.span.end()
            if self._recorder.meters is not None:
                failure = None if self._error is None else error_type(self._error)
                self._recorder.meters.record(self._shape, seconds, failure, counted=self.counted)

    def _record_exception(self, error: BaseException) -> None:
        chosen, logger = self._recorder.settings.exceptions, self._recorder.logger
        if chosen != "logs" and _described(error) is not None:
            self.span.record_exception(error)
        if chosen != "events" and logger is not None:
            kind = self._shape.operation.type
            severity = SeverityNumber.ERROR if kind == "process" else SeverityNumber.WARN
            logger.emit(
                context=self.context,
                severity_number=severity,
                event_name=f"messaging.{kind}.exception",
                exception=error,
            )


class Current:
    """A block in which a context is current, with the span in it; the span outlives it."""

    __slots__ = ("_context", "_token")

    _token: object

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> Context:
        self._token = otel.attach(self._context)
        return self._context

    def __exit__(self, *_: object) -> None:
        otel.detach(self._token)  # type: ignore[arg-type]  # the type of tokens is private


def _described(error: BaseException) -> str | None:
    # A user's __str__ may raise; the status matters more than its text.
    with contextlib.suppress(Exception):
        return str(error)
    return None
