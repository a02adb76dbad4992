"""Spans as a run of the demo makes them, without a run. Times are seconds after the beginning."""

from itertools import count
from typing import Final

from stage.spans import CONSUMER, PRODUCER, Mark, Span

BEGIN: Final = 1_700_000_000.0
PAYMENTS: Final = "demo.payments.r1"
_ids = count(1)


def breaker(at: float, before: str, after: str) -> Mark:
    """Return the event of a breaker that changes its state."""
    facts = {"name": "gateway", "previous_state": before, "state": after}
    attributes = {f"waybill.breaker.{name}": value for name, value in facts.items()}
    return Mark(at=BEGIN + at, name="waybill.breaker", attributes=attributes)


class Trace:
    """A trace in the making."""

    def __init__(self, trace: str = "0af7651916cd43dd8448eb211c80319c") -> None:
        self.trace = trace
        self.spans: list[Span] = []

    def publish(self, service: str, destination: str, start: float, end: float, **facts: object) -> None:
        """Add a publish under the span before."""
        self._add(PRODUCER, service, destination, start, end, facts)

    def process(
        self, service: str, destination: str, start: float, end: float, *marks: Mark, **facts: object
    ) -> None:
        """Add an attempt under the span before."""
        self._add(CONSUMER, service, destination, start, end, facts, marks)

    def _add(  # noqa: PLR0913, PLR0917 - a span has many facts
        self,
        kind: int,
        service: str,
        destination: str,
        start: float,
        end: float,
        facts: dict[str, object],
        marks: tuple[Mark, ...] = (),
    ) -> None:
        error = facts.pop("error", None)
        attributes = {f"waybill.{name}": value for name, value in facts.items()}
        attributes["messaging.destination.name"] = destination
        if error:
            attributes["error.type"] = error
        self.spans.append(
            Span(
                trace=self.trace,
                id=f"{next(_ids):016x}",
                parent=self.spans[-1].id if self.spans else None,
                service=service,
                name=f"{'publish' if kind == PRODUCER else 'process'} {destination}",
                kind=kind,
                start=BEGIN + start,
                end=BEGIN + end,
                failed=error is not None,
                attributes=attributes,
                marks=marks,
            )
        )


def retried() -> list[Span]:
    """Return the trace of an order whose payment fails twice."""
    trace = Trace()
    trace.publish("shop", "demo.orders.r1", 0, 0.01, request_id="order-2", deadline_remaining_ms=30_000)
    trace.process("orders", "demo.orders.r1", 0.014, 0.03, attempt=1, outcome="handled")
    trace.publish("orders", PAYMENTS, 0.02, 0.028)
    at = 0.032
    for attempt, delay in ((1, 707), (2, 1414)):
        timeout = {"outcome": "retried", "error": "gateway.GatewayTimeout"}
        left = 30_000 - round(at * 1000)
        trace.process(
            "payments", PAYMENTS, at, at + 0.13, attempt=attempt, deadline_remaining_ms=left, **timeout
        )
        trace.publish("payments", f"waybill.delay.v1.{delay}:{PAYMENTS}", at + 0.12, at + 0.129)
        at += 0.13 + delay / 1000
    trace.process("payments", PAYMENTS, at, at + 0.13, attempt=3, outcome="handled")
    trace.publish("payments", "demo.receipts.r1", at + 0.12, at + 0.129)
    trace.process("mail", "demo.receipts.r1", at + 0.133, at + 0.14, attempt=1, outcome="handled")
    return trace.spans


def late() -> list[Span]:
    """Return the trace of an order that is parked because its deadline has passed."""
    trace = Trace()
    trace.publish("shop", "demo.orders.r1", 0, 0.01, request_id="order-3", deadline_remaining_ms=400)
    trace.process("orders", "demo.orders.r1", 0.014, 1.82, attempt=1, outcome="handled")
    trace.publish("orders", PAYMENTS, 1.81, 1.818, deadline_remaining_ms=-1410)
    trace.process("payments", PAYMENTS, 1.824, 1.835, attempt=1, outcome="parked", reason="deadline")
    trace.publish("payments", f"waybill.parking.v1:{PAYMENTS}", 1.826, 1.833)
    return trace.spans


def outage() -> list[list[Span]]:
    """Return the traces of two orders: one trips the breaker, the other waits and is the probe."""
    first, second = Trace("1" * 32), Trace("2" * 32)
    first.publish("orders", PAYMENTS, 0.01, 0.02, request_id="order-4")
    tripped = breaker(0.155, "closed", "open")
    first.process(
        "payments", PAYMENTS, 0.03, 0.16, tripped, attempt=1, outcome="retried", error="GatewayDown"
    )
    first.publish("payments", f"waybill.delay.v1.707:{PAYMENTS}", 0.15, 0.159)
    first.process("payments", PAYMENTS, 2.2, 2.33, attempt=2, outcome="handled", held_ms=1333)
    second.publish("orders", PAYMENTS, 0.21, 0.22, request_id="order-5")
    probed, closed = breaker(2.0, "open", "half-open"), breaker(2.125, "half-open", "closed")
    second.process(
        "payments", PAYMENTS, 2.0, 2.13, probed, closed, attempt=1, outcome="handled", held_ms=1770
    )
    return [first.spans, second.spans]
