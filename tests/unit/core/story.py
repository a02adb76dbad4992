"""One delivery and the time that passes over it: what the tests of the pipeline are told with."""

from collections.abc import Iterable
from typing import TypeVar

from otel_waybill import names
from otel_waybill.core.backoff import Backoff
from otel_waybill.core.breaker import Admission, Permit
from otel_waybill.core.delivery import Delivery, Instant, Reason, Result
from otel_waybill.core.events import BreakerChanged, BreakerEvent, Held, Released, RunEnded, RunStarted
from otel_waybill.core.gate import NO_LIMITS, Gate, Limits
from otel_waybill.core.line import Bell
from otel_waybill.core.pipeline import Execution
from otel_waybill.core.retry import Retry
from otel_waybill.core.rulings import Budget
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.verdicts import Raised, Report, Republish, Run, Step, Verdict
from otel_waybill.core.waybill import Waybill

V = TypeVar("V", bound=Verdict)

START = 1000.0
WALL = 1_764_000_000.0
STEADY = Backoff(first=1.0, ceiling=30.0, jitter="none")
RETRY = Retry(attempts=3, backoff=STEADY)
SPEC = PolicySpec(retry=RETRY, settle="return")
DELIVERY = Delivery(
    queue="orders", exchange="shop", routing_key="order.created", headers={}, message_id="4711"
)
OPENED = BreakerChanged(breaker="payments", before="closed", after="open", trigger="tripped")
STARTED = RunStarted(queue="orders", remaining=None)
STOPPED = RunEnded(queue="orders")
HELD = Held(queue="orders", breaker="payments")
RELEASED = Released(queue="orders", breaker="payments")


class Turnstile:
    """A gate that remembers when it was asked, and how every permit it gave out was closed."""

    name = "payments"

    def __init__(self, refusals: Iterable[float] = (), changed: BreakerChanged | None = None) -> None:
        self.refusals = list(refusals)
        self.changed = changed
        self.closed: dict[Permit, list[str]] = {}
        self.errors: list[BaseException | None] = []
        self.asked: list[tuple[float, float]] = []  # moments and chances

    def acquire(self, now: float, u: float) -> Admission:
        """Refuse as often as told, then let everybody in."""
        self.asked.append((now, u))
        if self.refusals:
            return Admission(permit=None, retry_after=self.refusals.pop(0), changed=self.changed)
        permit = Permit(breaker=None, generation=1, since=now)
        self.closed[permit] = []
        return Admission(permit=permit, changed=self.changed)

    def succeed(self, permit: Permit, now: float, u: float) -> tuple[BreakerEvent, ...]:
        """Note a success."""
        self.asked.append((now, u))
        return self._close(permit, "succeeded")

    def fail(
        self, permit: Permit, now: float, u: float, error: BaseException | None = None
    ) -> tuple[BreakerEvent, ...]:
        """Note a failure, and with which error."""
        self.asked.append((now, u))
        self.errors.append(error)
        return self._close(permit, "failed")

    def release(self, permit: Permit) -> tuple[BreakerEvent, ...]:
        """Note that a permit came back unused."""
        return self._close(permit, "released")

    def _close(self, permit: Permit, how: str) -> tuple[BreakerEvent, ...]:
        self.closed[permit].append(how)
        return () if self.changed is None else (self.changed,)

    def closings(self) -> list[str]:
        """How the permits were closed, in order; an open one is missing here."""
        return [closing for each in self.closed.values() for closing in each]


class Story:
    """One delivery and the time that passes over it."""

    def __init__(  # noqa: PLR0913 - what one decision depends on
        self,
        spec: PolicySpec = SPEC,
        delivery: Delivery = DELIVERY,
        waybill: Waybill | None = None,
        breaker: Gate | None = None,
        *,
        limits: Limits = NO_LIMITS,
        budget: Budget | None = None,
    ) -> None:
        self.now = START
        self.execution = Execution(
            spec,
            delivery,
            Waybill(id="4711") if waybill is None else waybill,
            received=self.instant(),
            identity=lambda: "made-up",
            breaker=breaker,
            limits=limits,
            budget=budget,
        )

    def instant(self) -> Instant:
        """This moment."""
        return Instant(self.now, WALL + self.now - START)

    def begin(self, after: float = 0.0, u: float = 0.0) -> Step:
        """Start *after* so many seconds."""
        self.now += after
        return self.execution.start(self.instant(), u)

    def tell(self, report: Report, after: float = 0.0, u: float = 0.0) -> Step:
        """Report *after* so many seconds."""
        self.now += after
        return self.execution.resume(report, self.instant(), u)


def due_in(seconds: float, *, attempt: int = 1, retry_limit: int | None = None) -> Waybill:
    """A waybill whose deadline lies so many seconds after the arrival."""
    return Waybill(deadline=WALL + seconds, id="4711", attempt=attempt, retry_limit=retry_limit)


def the(kind: type[V], step: Step) -> V:
    """Return the verdict of *step*, which has to be of that *kind*."""
    assert isinstance(step.verdict, kind), step
    return step.verdict


def parked(step: Step) -> Reason | None:
    """Why the delivery of *step* is parked; it has to be."""
    copy = the(Republish, step)
    assert (names.PARKING_EXCHANGE, Result.PARKED) == (copy.exchange, copy.outcome.result)
    return copy.outcome.reason


def failed(story: Story, after: float = 0.0, error: Exception | None = None, u: float = 0.0) -> Step:
    """Start *story* and let its handler fail."""
    the(Run, story.begin())
    return story.tell(Raised(error or ValueError("no such order")), after, u)


class Line:
    """A limit that remembers who is in it."""

    def __init__(self, refusals: Iterable[float] = ()) -> None:
        self.refusals = list(refusals)
        self.known: set[Bell] = set()

    def ask(self, bell: Bell, now: float) -> float:
        """Refuse as often as told, then let everybody go on."""
        del now
        self.known.add(bell)
        return self.refusals.pop(0) if self.refusals else 0.0

    def leave(self, bell: Bell) -> None:
        """Forget *bell*."""
        self.known.discard(bell)
