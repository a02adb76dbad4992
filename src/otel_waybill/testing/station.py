"""One delivery in memory: does what the core decides, on a clock that is moved by hand."""

import asyncio
import inspect
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from opentelemetry.context import get_current

from otel_waybill.context import Attached, Running, entered
from otel_waybill.core.delivery import Delivery, Outcome
from otel_waybill.core.events import Event
from otel_waybill.core.headers import for_handler
from otel_waybill.core.pipeline import Execution
from otel_waybill.core.verdicts import (
    Ack,
    GiveBack,
    Leave,
    Published,
    Raised,
    Report,
    Republish,
    Returned,
    Run,
    Settled,
    Wait,
    Waited,
)
from otel_waybill.core.waybill import Waybill, decode
from otel_waybill.resilience import hub
from otel_waybill.resilience.guarded import Terms
from otel_waybill.resilience.port import Answer
from otel_waybill.testing.clock import ManualClock


class Received:
    """What a handler is given: the original delivery, and a way to settle it.

    Attributes:
        body: of the message.
        headers: of the message; a retry shows no more of them than the first delivery.
        queue: from which it came.
        exchange: to which it was published.
        routing_key: with which.
        message_id: the property, or None.
        settled: what the handler has said about it so far, or None.
    """

    def __init__(self, body: bytes, delivery: Delivery, waybill: Waybill) -> None:
        hop = waybill.hop
        self.body = body
        self.headers = dict(delivery.headers) if hop is None else for_handler(delivery.headers)
        self.queue = delivery.queue
        self.exchange = delivery.exchange if hop is None else hop.exchange
        self.routing_key = delivery.routing_key if hop is None else hop.routing_key
        self.message_id = delivery.message_id
        self.settled: Settled | None = None

    def ack(self) -> None:
        """Acknowledge it, as a handler does that settles by itself."""
        self.settled = self.settled or Settled.ACK

    def nack(self) -> None:
        """Refuse it, by nack or reject; to a policy that is a failure."""
        self.settled = self.settled or Settled.REFUSED


class Visit:
    """One delivery, as far as it makes no difference whether it is awaited.

    Attributes:
        execution: what decides about it.
        message_id: of the message.
        message: what the handler has been given.
        copy: what was last published, None if nothing was.
    """

    def __init__(
        self,
        terms: Terms,
        handler: Callable[[Received], object],
        body: bytes,
        delivery: Delivery,
        clock: ManualClock,
    ) -> None:
        received = clock.instant()
        waybill, *_ = decode(delivery, {}, now=received.wall, belief=terms.spec.belief)
        self.execution = Execution(
            terms.spec,
            delivery,
            waybill,
            received=received,
            identity=lambda: str(uuid.uuid4()),
            breaker=terms.breaker,
            limits=terms.shares.limits(delivery, waybill),
            budget=terms.shares.budget(delivery, waybill),
        )
        self.message_id = delivery.message_id
        self.copy: Republish | None = None
        self._make = partial(Received, body, delivery, waybill)
        self.message = self._make()
        self._terms = terms
        self._handler = handler
        self._clock = clock
        self._outcome: Outcome | None = None

    @property
    def outcome(self) -> Outcome:
        """How the delivery ended.

        Raises:
            RuntimeError: it did not.
        """
        if self._outcome is None:
            msg = "the delivery has not ended; this is a fault of otel-waybill"
            raise RuntimeError(msg)
        return self._outcome

    def call(self, run: Run) -> object:
        """Call the handler, or the substitute for it, and return what that returns."""
        self.message = self._make()
        return self._terms.handler(run, self._handler)(self.message)

    @contextmanager
    def inside(self, run: Run) -> Iterator[None]:
        """Make the waybill of *run* the running one, with what is left of its deadline on the real clock."""
        due = None if run.due is None else time.monotonic() + run.due - self._clock()
        waybill = self.execution.waybill.detached() if run.fallback else self.execution.waybill
        with (
            Attached(entered(Running(waybill=waybill, due=due, enforced=run.strict), get_current())),
            self._terms.lent(run.permit),
        ):
            yield

    def hold(self, wait: Wait) -> Waited:
        """Let the time pass."""
        self._clock.advance(wait.seconds)
        return Waited()

    def overrun(self, run: Run) -> None:
        """Move the clock to the deadline of *run*, at which its handler was stopped."""
        if run.due is not None:
            self._clock.advance(max(0.0, run.due - self._clock()))

    def publish(self, copy: Republish) -> Published:
        """Take *copy*, which is safe here."""
        self.copy = copy
        return Published()

    def end(self, verdict: Ack | GiveBack | Leave) -> None:
        """Take note of the end."""
        self._outcome = verdict.outcome


class Station:
    """A performer for the driver that calls back."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._next: Callable[[], None] | None = None

    def run(self) -> None:
        """Go on until there is nothing to go on with."""
        while self._next is not None:
            following, self._next = self._next, None
            following()

    def emit(self, event: Event) -> None:
        """Tell whoever listens what happened to this delivery."""
        hub.emit(event)

    def wait(self, wait: Wait, answer: Answer) -> None:
        """Let the time pass."""
        self._next = partial(answer, self._visit.hold(wait))

    def attempt(self, run: Run, answer: Answer) -> None:
        """Call the handler."""
        try:
            with self._visit.inside(run):
                self._visit.call(run)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is a failure of this attempt
            self._next = partial(answer, Raised(error, self._visit.message.settled))
        else:
            self._next = partial(answer, Returned(self._visit.message.settled))

    def republish(self, copy: Republish, answer: Answer) -> None:
        """Take the copy."""
        self._next = partial(answer, self._visit.publish(copy))

    def settle(self, verdict: Ack | GiveBack | Leave) -> None:
        """Take note of the end."""
        self._visit.end(verdict)


class AsyncStation:
    """A performer for the driver that awaits."""

    copied = False
    """Nothing comes between a copy and its confirm."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    @property
    def settled(self) -> Settled | None:
        """What the handler itself has said so far."""
        return self._visit.message.settled

    def emit(self, event: Event) -> None:
        """Tell whoever listens what happened to this delivery."""
        hub.emit(event)

    async def wait(self, wait: Wait) -> Report:
        """Let the time pass."""
        return self._visit.hold(wait)

    async def attempt(self, run: Run) -> Report:
        """Call the handler; a cancellation passes through."""
        try:
            with self._visit.inside(run):
                result = self._visit.call(run)
                if inspect.isawaitable(result):
                    await result
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is a failure of this attempt
            return Raised(error, self.settled)
        except asyncio.CancelledError:
            self._visit.overrun(run)
            raise
        return Returned(self.settled)

    async def republish(self, copy: Republish) -> Report:
        """Take the copy."""
        return self._visit.publish(copy)

    async def settle(self, verdict: Ack | GiveBack | Leave) -> None:
        """Take note of the end."""
        self._visit.end(verdict)
