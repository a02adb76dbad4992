"""What arrives with a message: its trace, its baggage and its waybill, decoded without trust."""

import uuid
from typing import NamedTuple

from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext

from otel_waybill.config.settings import Parent
from otel_waybill.context import cleared, entered, inherited
from otel_waybill.core.belief import BELIEF, LARGEST_SKEW, Belief
from otel_waybill.core.delivery import Delivery, Instant
from otel_waybill.core.events import ClockSkewed, HeadersInvalid
from otel_waybill.core.headers import snapshot
from otel_waybill.core.pipeline import Execution
from otel_waybill.core.waybill import Decoded, Hop, Waybill, decode
from otel_waybill.guard import warn_once
from otel_waybill.resilience import hub
from otel_waybill.resilience.clock import instant
from otel_waybill.resilience.guarded import Terms
from otel_waybill.telemetry import carrier
from otel_waybill.telemetry.recorder import Recorder


class Arrival(NamedTuple):
    """One delivery, decoded.

    Attributes:
        delivery: as it came.
        waybill: what it says.
        received: when.
        context: the context that it continues, with its baggage.
        origin: the span contexts of what made it and what tried it before.
        links: those to which the span of its processing is linked: the origin, and what merely is around.
    """

    delivery: Delivery
    waybill: Waybill
    received: Instant
    context: Context
    origin: tuple[SpanContext, ...]
    links: tuple[SpanContext, ...]

    def inside(self) -> Context:
        """Return the context to process it in, with its waybill running."""
        return entered(inherited(self.waybill, self.received), self.context)


def arrive(delivery: Delivery, ambient: Context, recorder: Recorder, *, belief: Belief = BELIEF) -> Arrival:
    """Decode *delivery*; whatever it holds, this does not raise.

    Args:
        delivery: as the client read it.
        ambient: the context to extract into.
        recorder: says whether to look at its trace and baggage at all, and whose child its span is.
        belief: how much of its end-to-end facts is believed.
    """
    received = instant()
    base = cleared(ambient)
    context = base if recorder.silent else carrier.extract(delivery.headers, base)
    carried = {} if recorder.silent else baggage.get_all(context)
    decoded = decode(delivery, carried, now=received.wall, belief=belief)
    tell(decoded, delivery.queue)
    waybill = decoded.waybill
    if recorder.silent:
        return Arrival(delivery, waybill, received, context, (), ())
    around, brought = trace.get_current_span(base), _identity(context)
    origin = _origin(waybill.hop, around, brought)
    parented, linked = _parented(recorder.settings.parent, context, around, brought)
    return Arrival(delivery, waybill, received, parented, origin, (*origin, *linked))


def tell(decoded: Decoded, queue: str | None = None) -> None:
    """Tell whoever listens what was wrong with what was *decoded*, from *queue* if it came from one."""
    if decoded.invalid:
        hub.emit(HeadersInvalid(queue=queue, names=decoded.invalid))
    if decoded.skew:
        hub.emit(ClockSkewed(queue=queue, seconds=decoded.skew))
    if decoded.skew > LARGEST_SKEW:
        warn_once(
            "otel-waybill: a message says that it was sent %.0f s in the future (queue %r); the deadlines of "
            "such senders are ignored until clocks are set (logged once)",
            decoded.skew,
            queue,
        )


def execution(terms: Terms, arrival: Arrival) -> Execution:
    """Return the execution that decides about *arrival* under *terms*."""
    # The handler gets the same table of headers, and may change it; copies are made of what had come.
    delivery = arrival.delivery._replace(headers=snapshot(arrival.delivery.headers))
    return Execution(
        terms.spec,
        delivery,
        arrival.waybill,
        received=arrival.received,
        identity=lambda: str(uuid.uuid4()),
        breaker=terms.breaker,
        limits=terms.shares.limits(delivery, arrival.waybill),
        budget=terms.shares.budget(delivery, arrival.waybill),
    )


def _parented(
    choice: Parent, context: Context, around: Span, brought: SpanContext
) -> tuple[Context, tuple[SpanContext, ...]]:
    """Return *context*, baggage and all, with the parent that *choice* makes it; and what else to link."""
    identity = around.get_span_context()
    if choice == "link" or (choice == "ambient" and identity.is_valid):
        return trace.set_span_in_context(around, context), ()
    if identity == brought:
        return context, ()  # the message brought no trace
    return context, (identity,)


def _origin(hop: Hop | None, around: Span, brought: SpanContext) -> tuple[SpanContext, ...]:
    if hop is not None:
        return (carrier.creation(hop.creation), carrier.creation(hop.previous))
    return () if brought == around.get_span_context() else (brought,)


def _identity(context: Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()
