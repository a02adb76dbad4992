"""The turn of one delivery at what its policy puts before a run: a place, a breaker, a pace."""

from typing import Final, NamedTuple, Protocol

from otel_waybill.core.breaker import Admission, Permit
from otel_waybill.core.events import BreakerChanged, BreakerEvent
from otel_waybill.core.line import Bell


class Gate(Protocol):
    """What the pipeline asks of a circuit breaker."""

    @property
    def name(self) -> str:
        """Its name."""

    def acquire(self, now: float, u: float) -> Admission:
        """Ask to run one attempt."""

    def succeed(self, permit: Permit, now: float, u: float) -> tuple[BreakerEvent, ...]:
        """Report that the attempt succeeded, and return what there is to tell."""

    def fail(
        self, permit: Permit, now: float, u: float, error: BaseException | None = None
    ) -> tuple[BreakerEvent, ...]:
        """Report that the attempt failed, with *error* if it raised, and return what there is to tell."""

    def release(self, permit: Permit) -> tuple[BreakerEvent, ...]:
        """Give the permit back, uncounted, and return what there is to tell."""


class Limit(Protocol):
    """What the pipeline asks of a limit."""

    def ask(self, bell: Bell, now: float) -> float:
        """Return 0.0 to let the owner of *bell* go on, else the seconds after which it may ask again.

        Infinity: the bell rings when it is worth asking.
        """

    def leave(self, bell: Bell) -> None:
        """Give back the place of *bell*, or its place in line."""


class Limits(NamedTuple):
    """The limits that one delivery comes under."""

    concurrency: Limit | None = None
    rate: Limit | None = None


NO_LIMITS: Final = Limits()


class Refusal(NamedTuple):
    """Why a delivery has to wait.

    Attributes:
        seconds: until it may ask again; infinity: until its bell rings.
        breaker: the name of the breaker that refused it, or None.
        limit: the limit that did, or None.
    """

    seconds: float
    breaker: str | None = None
    limit: str | None = None


CONCURRENCY: Final = "concurrency"
RATE: Final = "rate"


class Turn:
    """Everything that one delivery has taken to run, given back once however its attempt ends.

    Attributes:
        bell: rings when a limit has room for it.
        permit: of the breaker, while it is open; else None.
    """

    def __init__(self, gate: Gate | None, limits: Limits = NO_LIMITS) -> None:
        """Stand before *gate* and *limits*."""
        self._gate = gate
        self._limits = limits
        self.bell = Bell()
        self.permit: Permit | None = None

    def ask(self, now: float, u: float) -> tuple[Refusal | None, tuple[BreakerChanged, ...]]:
        """Ask to run at monotonic *now*; return who refuses, if anybody does, and what asking changed.

        The pace comes last, because what it gives cannot be given back.
        """
        self.bell.hush()
        concurrency, rate = self._limits
        if concurrency is not None and (wait := concurrency.ask(self.bell, now)):
            return Refusal(wait, limit=CONCURRENCY), ()
        changed: tuple[BreakerChanged, ...] = ()
        if self._gate is not None:
            admission = self._gate.acquire(now, u)
            changed = _known(admission.changed)
            self.permit = admission.permit
            if admission.permit is None:
                return Refusal(admission.retry_after, breaker=self._gate.name), changed
        if rate is not None and (wait := rate.ask(self.bell, now)):
            self.release()
            return Refusal(wait, limit=RATE), changed
        return None, changed

    def succeed(self, now: float, u: float) -> tuple[BreakerEvent, ...]:
        """Close the permit: the attempt succeeded. Return what there is to tell."""
        permit, self.permit = self.permit, None
        return () if self._gate is None or permit is None else self._gate.succeed(permit, now, u)

    def fail(self, error: BaseException | None, now: float, u: float) -> tuple[BreakerEvent, ...]:
        """Close the permit: the attempt failed, with *error* if it raised. Return what there is to tell."""
        permit, self.permit = self.permit, None
        return () if self._gate is None or permit is None else self._gate.fail(permit, now, u, error)

    def release(self) -> tuple[BreakerEvent, ...]:
        """Close the permit, uncounted. Return what there is to tell."""
        permit, self.permit = self.permit, None
        return () if self._gate is None or permit is None else self._gate.release(permit)

    def leave(self) -> tuple[BreakerEvent, ...]:
        """Close the permit, uncounted, and let go of every place. Return what there is to tell."""
        told = self.release()
        for limit in self._limits:
            if limit is not None:
                limit.leave(self.bell)
        return told


def _known(changed: BreakerChanged | None) -> tuple[BreakerChanged, ...]:
    return () if changed is None else (changed,)
