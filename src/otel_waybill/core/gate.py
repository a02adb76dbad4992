"""The turn of one delivery at a circuit breaker, or at none."""

from typing import Protocol

from otel_waybill.core.breaker import Admission, Permit
from otel_waybill.core.events import BreakerEvent


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


class Turn:
    """The permit of one delivery, closed once however its attempt ends; everybody passes where no gate is.

    Attributes:
        name: of the breaker, or None.
        permit: the one that is open, or None.
    """

    def __init__(self, gate: Gate | None) -> None:
        """Stand before *gate*."""
        self._gate = gate
        self.name = None if gate is None else gate.name
        self.permit: Permit | None = None

    def ask(self, now: float, u: float) -> Admission | None:
        """Return the answer of the breaker at monotonic *now*; None: there is none to ask."""
        if self._gate is None:
            return None
        admission = self._gate.acquire(now, u)
        self.permit = admission.permit
        return admission

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
