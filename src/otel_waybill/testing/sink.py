"""A sink that remembers what policies and breakers did."""

from types import TracebackType
from typing import Self, TypeVar

from otel_waybill.core.events import Event
from otel_waybill.resilience import hub

E = TypeVar("E", bound=Event)


class RecordingSink:
    """Remembers every event of the process while its ``with`` block is open.

    Attributes:
        events: the events, in the order in which they happened.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    def of(self, kind: type[E]) -> list[E]:
        """Return those events that are of one *kind*, as in ``sink.of(BreakerChanged)``."""
        return [event for event in self.events if isinstance(event, kind)]

    def __call__(self, event: Event, /) -> None:
        """Remember *event*."""
        self.events.append(event)

    def __enter__(self) -> Self:
        hub.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hub.remove(self)
