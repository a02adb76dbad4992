"""Deliveries in memory: a handler under its policy, without a broker and without waiting.

What a policy decides is decided by the same code as in production; only what a client does is done here. A
wait moves a clock, a copy that is published to the ladder arrives when its time has come, and a copy that is
parked is the end of the journey.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from otel_waybill import names
from otel_waybill.core.delivery import Delivery, Outcome, Reason
from otel_waybill.policy import Policy
from otel_waybill.resilience import aio, callbacks
from otel_waybill.resilience.guarded import settling
from otel_waybill.testing.clock import ManualClock
from otel_waybill.testing.station import AsyncStation, Received, Station, Visit

_MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message as somebody has published it.

    Attributes:
        body: its body.
        headers: its headers; facts of a request in them are read as from anybody.
        deadline: seconds that are left of its deadline when it arrives, may be negative; None: it has none.
        queue: the queue that it is in.
        exchange: to which it was published; empty for the default exchange.
        routing_key: with which; None for the name of the queue.
        message_id: the property.
    """

    body: bytes = b""
    headers: Mapping[str, object] = field(default_factory=dict)
    deadline: float | None = None
    queue: str = "orders"
    exchange: str = ""
    routing_key: str | None = None
    message_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """What became of one message.

    Attributes:
        outcomes: how each of its deliveries ended, in order.
        waits: seconds that it spent at the broker before each further delivery.
        headers: those of the message in parking; empty if it is not there.
    """

    outcomes: tuple[Outcome, ...]
    waits: tuple[float, ...]
    headers: Mapping[str, object]

    @property
    def outcome(self) -> Outcome:
        """How the last delivery ended."""
        return self.outcomes[-1]

    @property
    def reason(self) -> Reason | None:
        """Why the message was parked, if it was."""
        return self.outcome.reason


def deliver(
    policy: Policy,
    handler: Callable[[Received], object],
    message: Sent = Sent(),
    *,
    clock: ManualClock | None = None,
    chance: Callable[[], float] = lambda: 0.5,
) -> Journey:
    """Deliver *message* to *handler* under *policy*, with all its retries, and return what became of it.

    Nothing is sent and nobody waits. Inside the handler `current`, `remaining` and `check` say what they
    would say in production.

    Args:
        policy: under which the handler runs, settling as after `wrap` unless it says otherwise.
        handler: a function of a `Received`, which calls the real one with whatever that needs.
        message: what is delivered.
        clock: tells the time, and is moved by every wait; a new one by default.
        chance: draws from [0, 1) for jitter; the middle of it by default.

    Raises:
        RuntimeError: after a thousand deliveries there is no end of it.
    """
    road = _Road(policy, message, clock or ManualClock())
    while road.delivery is not None:
        visit = Visit(road.terms, handler, message.body, road.delivery, road.clock)
        station = Station(visit)
        callbacks.drive(visit.execution, station, clock=road.clock.instant, chance=chance)
        station.run()
        road.leave(visit)
    return road.journey()


async def deliver_async(
    policy: Policy,
    handler: Callable[[Received], Awaitable[object]],
    message: Sent = Sent(),
    *,
    clock: ManualClock | None = None,
    chance: Callable[[], float] = lambda: 0.5,
) -> Journey:
    """Do what `deliver` does, for an ``async def`` handler.

    Only what the handler itself awaits takes real time, and a deadline stops it as it does in production.

    Raises:
        RuntimeError: after a thousand deliveries there is no end of it.
        asyncio.CancelledError: the test was cancelled.
    """
    road = _Road(policy, message, clock or ManualClock())
    while road.delivery is not None:
        visit = Visit(road.terms, handler, message.body, road.delivery, road.clock)
        await aio.drive(visit.execution, AsyncStation(visit), clock=road.clock.instant, chance=chance)
        road.leave(visit)
    return road.journey()


class _Road:
    """One message on its way from delivery to delivery."""

    def __init__(self, policy: Policy, message: Sent, clock: ManualClock) -> None:
        self.terms = settling(policy.terms, "return")
        self.clock = clock
        self.delivery: Delivery | None = _first(message, clock.instant().wall)
        self._outcomes: list[Outcome] = []
        self._waits: list[float] = []
        self._parked: Mapping[str, object] = {}

    def leave(self, visit: Visit) -> None:
        """Take note of what *visit* came to, and go to the next delivery if there is one."""
        self._outcomes.append(visit.outcome)
        self.delivery = None
        copy = visit.copy
        if copy is None:
            return
        if copy.exchange == names.PARKING_EXCHANGE:
            self._parked = copy.headers
            return
        if len(self._outcomes) >= _MOST:
            msg = f"a message has come back {_MOST} times, with {self._outcomes[-1]}; it would go on for ever"
            raise RuntimeError(msg)
        waited = int(copy.exchange.removeprefix(names.DELAY_PREFIX)) / 1000
        self.clock.advance(waited)
        self._waits.append(waited)
        self.delivery = Delivery(
            queue=copy.routing_key,
            exchange=names.RETURN_EXCHANGE,
            routing_key=copy.routing_key,
            headers=copy.headers,
            message_id=visit.message_id,
        )

    def journey(self) -> Journey:
        """Return what became of the message."""
        return Journey(outcomes=tuple(self._outcomes), waits=tuple(self._waits), headers=self._parked)


def _first(message: Sent, now: float) -> Delivery:
    due = {}
    if message.deadline is not None:
        due[names.HEADER_DEADLINE] = str(round((now + message.deadline) * 1000))
    return Delivery(
        queue=message.queue,
        exchange=message.exchange,
        routing_key=message.queue if message.routing_key is None else message.routing_key,
        headers={**message.headers, **due},
        message_id=message.message_id,
    )
