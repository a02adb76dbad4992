"""Whether one delivery is held or running, told as pairs of events: nothing begins without its end."""

from otel_waybill.core.events import Event, Held, Released, RunEnded, RunStarted
from otel_waybill.core.gate import Refusal


class Presence:
    """What a delivery from one queue does right now."""

    def __init__(self, queue: str | None) -> None:
        self._queue = queue
        self._held: Held | None = None
        self._running = False

    def held(self, refusal: Refusal) -> tuple[Event, ...]:
        """It has to wait because of *refusal*; the first one gives the reason for the whole wait."""
        if self._held is not None:
            return ()
        self._held = Held(queue=self._queue, breaker=refusal.breaker, limit=refusal.limit)
        return (self._held,)

    def runs(self, remaining: float | None) -> tuple[Event, ...]:
        """Its handler is called, with *remaining* seconds of its deadline."""
        self._running = True
        return (*self.released(), RunStarted(queue=self._queue, remaining=remaining))

    def released(self) -> tuple[Event, ...]:
        """It waits no longer, if it did."""
        held, self._held = self._held, None
        if held is None:
            return ()
        return (Released(queue=held.queue, breaker=held.breaker, limit=held.limit),)

    def stopped(self) -> tuple[Event, ...]:
        """Its handler has ended, if it ran."""
        running, self._running = self._running, False
        return (RunEnded(queue=self._queue),) if running else ()
