"""The turn of one delivery at a circuit breaker, or at none."""

from typing import Protocol

from otel_waybill.core.breaker import Admission, Permit
from otel_waybill.core.events import BreakerChanged


class Gate(Protocol):
    """What the pipeline asks of a circuit breaker."""

    @property
    def name(self) -> str:
        """Its name."""

    def acquire(self, now: float, u: float) -> Admission:
        """Ask to run one attempt."""

    def succeed(self, permit: Permit, now: float) -> BreakerChanged | None:
        """Report that the attempt succeeded."""

    def fail(self, permit: Permit, now: float, u: float) -> BreakerChanged | None:
        """Report that the attempt failed."""

    def release(self, permit: Permit) -> None:
        """Give the permit back, uncounted."""


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

    def succeed(self, now: float) -> tuple[BreakerChanged, ...]:
        """Close the permit: the attempt succeeded. Return what that changed."""
        permit, self.permit = self.permit, None
        return () if self._gate is None or permit is None else _known(self._gate.succeed(permit, now))

    def fail(self, now: float, u: float) -> tuple[BreakerChanged, ...]:
        """Close the permit: the attempt failed. Return what that changed."""
        permit, self.permit = self.permit, None
        return () if self._gate is None or permit is None else _known(self._gate.fail(permit, now, u))

    def release(self) -> None:
        """Close the permit, uncounted."""
        permit, self.permit = self.permit, None
        if self._gate is not None and permit is not None:
            self._gate.release(permit)


def _known(changed: BreakerChanged | None) -> tuple[BreakerChanged, ...]:
    return () if changed is None else (changed,)
