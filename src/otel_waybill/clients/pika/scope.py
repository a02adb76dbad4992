"""The context of a message in the body of a program's loop, which tells of neither its end nor its start."""

from contextvars import Token
from typing import NamedTuple
from weakref import ReferenceType, ref

from opentelemetry import context as otel
from opentelemetry.context import Context


class _Entered(NamedTuple):
    """One context that was made current, and how to take it away."""

    context: ReferenceType[Context]
    token: Token[Context]


class Body:
    """The body of one loop, in which the context of its message is current.

    A generator cannot know what its caller attaches around a step, or detaches before the next one. So a
    context is taken away only where it is the current one, and is remembered for as long as it may become
    that again: when the caller closes a block of its own that it opened on top.
    """

    def __init__(self) -> None:
        self._entered: list[_Entered] = []

    def enter(self, context: Context) -> None:
        """Make *context* current."""
        self._entered.append(_Entered(ref(context), otel.attach(context)))

    def leave(self) -> None:
        """Take away whatever was made current here and still is."""
        while self._entered:
            current = otel.get_current()
            self._entered = [each for each in self._entered if each.context() is not None]
            found = next((each for each in self._entered if each.context() is current), None)
            if found is None:
                return
            self._entered.remove(found)
            otel.detach(found.token)
