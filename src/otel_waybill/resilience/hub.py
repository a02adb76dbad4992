"""The one deliberate process-wide registry: who listens to events, and which breakers are alive.

It is shared because its subjects are: a breaker guards a dependency of the whole process, and telemetry
reports on all of it.
"""

import gc
import threading
from typing import Final, Protocol
from weakref import WeakValueDictionary

from otel_waybill.core.events import BreakerChanged, Event, Sink
from otel_waybill.core.rules import require
from otel_waybill.guard import harmless


class Named(Protocol):
    """A breaker, as the hub knows it."""

    def tell(self, changed: BreakerChanged, /) -> None:
        """Tell its own listeners what has *changed*."""


_lock: Final = threading.Lock()
_sinks: Final[dict[Sink, int]] = {}  # how many asked for each
_breakers: Final[WeakValueDictionary[str, Named]] = WeakValueDictionary()
_sinking: Final = harmless("telling a sink of an event")


def add(sink: Sink) -> None:
    """Let *sink* hear every event, once however often it is added, until it is removed as often."""
    with _lock:
        _sinks[sink] = _sinks.get(sink, 0) + 1


def remove(sink: Sink) -> None:
    """Take back one ``add`` of *sink*; unknown ones are ignored."""
    with _lock:
        count = _sinks.pop(sink, 0)
        if count > 1:
            _sinks[sink] = count - 1


def emit(event: Event) -> None:
    """Tell every sink of *event*, in the order in which they were added, and a changed breaker of its change.

    A sink that raises is logged once, and neither stops the others nor the caller. Never call this with a
    lock held: sinks are other people's code.
    """
    for sink in tuple(_sinks):
        with _sinking:
            sink(event)
    if isinstance(event, BreakerChanged) and (breaker := _breakers.get(event.breaker)) is not None:
        breaker.tell(event)


def register(name: str, breaker: Named) -> None:
    """Take note of a live *breaker*; it is forgotten when the program drops its last reference.

    Raises:
        InvalidPolicy: another live breaker has that *name*.
    """
    if name in _breakers:
        # It may be dead but not collected: a traceback that is kept makes a cycle with the frames that held
        # it. Tests that each make their own breaker do this all the time.
        gc.collect()
    with _lock:
        require(
            rule=f"one live breaker of the name {name!r} in a process: share that object wherever the "
            "dependency is called, or give this one another name",
            holds=name not in _breakers,
            seen=_breakers.get(name),
        )
        _breakers[name] = breaker
