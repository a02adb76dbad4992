"""Whoever wants to know what changes at one breaker."""

from collections.abc import Callable
from typing import Final

from otel_waybill.core.events import BreakerChanged
from otel_waybill.guard import harmless

Listener = Callable[[BreakerChanged], object]

_telling: Final = harmless("telling a listener of a breaker")


class Listeners:
    """The listeners of one breaker, in the order in which they came."""

    def __init__(self) -> None:
        self._listeners: dict[object, Listener] = {}

    def add(self, listener: Listener) -> Callable[[], None]:
        """Let *listener* hear what changes until the returned function is called; it may be here twice."""
        key = object()
        self._listeners[key] = listener

        def leave() -> None:
            self._listeners.pop(key, None)

        return leave

    def tell(self, changed: BreakerChanged) -> None:
        """Call each with what *changed*; one that raises is logged once, and stops nobody."""
        for listener in tuple(self._listeners.values()):
            with _telling:
                listener(changed)
