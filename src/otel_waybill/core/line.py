"""Those who wait for a limit, in the order in which they came: first for a place, then for a pace.

Who is not the first in line waits to be called, and whoever leaves calls the next. Who is forgotten by all
others, as with a connection that its program just drops, is forgotten here as well.

Not thread safe: whoever shares one holds a lock.
"""

import math
from collections.abc import Callable
from weakref import WeakKeyDictionary, WeakSet

from otel_waybill.core.bucket import TokenBucket


class Bell:
    """Calls one who waits; it may ring before anybody listens, from any thread, and more than once."""

    __slots__ = ("__weakref__", "_listener", "_rung")

    def __init__(self) -> None:
        self._listener: Callable[[], object] | None = None
        self._rung = False

    def ring(self) -> None:
        """Call whoever listens, now or later."""
        # First the mark, then the look: whoever starts to listen in between sees the mark.
        self._rung = True
        listener = self._listener
        if listener is not None:
            listener()

    def listen(self, listener: Callable[[], object]) -> None:
        """Have *listener* called when it rings, at once if it has."""
        self._listener = listener
        if self._rung:
            listener()

    def hush(self) -> None:
        """Forget that it rang, and who listens."""
        self._listener = None
        self._rung = False


class Slots:
    """So many places; who has one keeps it until it leaves."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken: WeakSet[Bell] = WeakSet()
        self._line: WeakKeyDictionary[Bell, None] = WeakKeyDictionary()

    def idle(self, now: float) -> bool:  # noqa: ARG002 - a pace needs the time, see there; so below
        """Return whether nobody has a place or waits for one."""
        return not self._taken and not self._line

    def ask(self, bell: Bell, now: float) -> float:  # noqa: ARG002
        """Return 0.0 if *bell* has a place, else infinity: it will be called."""
        if bell in self._taken:
            return 0.0
        self._line.setdefault(bell)
        if len(self._taken) >= self._places or next(iter(self._line)) is not bell:
            return math.inf
        del self._line[bell]
        self._taken.add(bell)
        return 0.0

    def leave(self, bell: Bell) -> None:
        """Give back the place of *bell*, or its place in line."""
        self._taken.discard(bell)
        self._line.pop(bell, None)

    def next(self) -> Bell | None:
        """Return who is to be called: the first in line, if there is a place."""
        return next(iter(self._line), None) if len(self._taken) < self._places else None


class Pace:
    """So many per second; who has been let go is in line no more."""

    def __init__(self, bucket: TokenBucket) -> None:
        self._bucket = bucket
        self._line: WeakKeyDictionary[Bell, None] = WeakKeyDictionary()

    def idle(self, now: float) -> bool:
        """Return whether nobody waits, and nobody was let go of late."""
        return not self._line and self._bucket.full(now)

    def ask(self, bell: Bell, now: float) -> float:
        """Return 0.0 to let *bell* go, else the seconds until it may ask, or infinity: it is called."""
        self._line.setdefault(bell)
        if next(iter(self._line)) is not bell:
            return math.inf
        wait = self._bucket.take(now)
        if wait == 0.0:
            del self._line[bell]
        return wait

    def leave(self, bell: Bell) -> None:
        """Take *bell* out of the line."""
        self._line.pop(bell, None)

    def next(self) -> Bell | None:
        """Return who is to be called: the first in line, who may wait for its time already."""
        return next(iter(self._line), None)
