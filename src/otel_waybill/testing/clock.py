"""A clock that a test moves by hand."""

from otel_waybill.core.delivery import Instant

_START = 1_000_000_000.0


class ManualClock:
    """Monotonic seconds that pass only when a test says so; also the wall clock that goes with them.

    Give it to a `CircuitBreaker` as its ``clock`` and to `deliver`, so that both see the same time.

    Args:
        start: its first value in seconds, 0 or more.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def __call__(self) -> float:
        """Return the seconds that have passed."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let *seconds*, 0 or more, pass.

        Raises:
            ValueError: *seconds* is negative; this clock is monotonic.
        """
        if not seconds >= 0:
            msg = f"need seconds >= 0, because time does not run backwards, got {seconds!r}"
            raise ValueError(msg)
        self._now += seconds

    def instant(self) -> Instant:
        """Return the moment on both clocks."""
        return Instant(self._now, _START + self._now)
