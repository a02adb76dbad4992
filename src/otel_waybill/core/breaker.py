"""When to stop calling a dependency, and when to try again.

Rule 1: every change of state is an entry of ``TRANSITIONS``. Rule 2: every call that was let in holds a
permit, closed once by ``succeed``, ``fail`` or ``release``; a change of state voids all permits given out
before it, so a late result changes nothing. Rule 3: chance and time are arguments, and time alone moves
nothing: an open breaker becomes half-open when somebody asks, and closes when probes succeed.

Not thread safe: whoever shares one holds a lock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from otel_waybill.core.events import BreakerChanged
from otel_waybill.core.spec import BreakerSpec
from otel_waybill.core.window import Window


class State(StrEnum):
    """What a breaker does with calls: let all in, none, or a few to see how they fare."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Trigger(StrEnum):
    """Why a breaker changes its state."""

    TRIPPED = "tripped"  # too many calls failed
    RETRIED = "retried"  # the open time is over and a call asked
    RECOVERED = "recovered"  # enough probes succeeded
    RELAPSED = "relapsed"  # enough probes can no longer succeed


TRANSITIONS: Final[Mapping[State, Mapping[Trigger, State]]] = MappingProxyType(
    {
        State.CLOSED: MappingProxyType({Trigger.TRIPPED: State.OPEN}),
        State.OPEN: MappingProxyType({Trigger.RETRIED: State.HALF_OPEN}),
        State.HALF_OPEN: MappingProxyType({Trigger.RECOVERED: State.CLOSED, Trigger.RELAPSED: State.OPEN}),
    }
)

# Seconds until a refused call asks again while probes are running; chance makes it up to twice that. Nobody
# knows when a probe ends: often enough not to be noticed, seldom enough to cost nothing.
PROBE_WAIT: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """The right to make one call, valid until closed or until the breaker changes its state."""

    generation: int
    probe: bool
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The answer to one call that asked to be let in.

    Attributes:
        permit: the call may run and closes this; None: it is refused.
        retry_after: seconds after which a refused call may ask again; 0.0 for one let in.
        changed: the change of state that asking brought about, if it did.
    """

    permit: Permit | None
    retry_after: float = 0.0
    changed: BreakerChanged | None = None


class Breaker:
    """The state of one circuit breaker."""

    def __init__(self, spec: BreakerSpec) -> None:
        self._spec = spec
        self._open_until = 0.0
        self._open_for = spec.open_for
        self._ids = 0
        self._generation = 0
        self._enter(State.CLOSED)

    @property
    def state(self) -> State:
        """The state as the last call left it; only a call that asks makes an open breaker half-open."""
        return self._state

    def acquire(self, now: float, u: float) -> Admission:
        """Let one call in at *now*, or say when it may ask again; *u* in [0, 1) is chance."""
        changed = None
        if self._state is State.OPEN:
            if now < self._open_until:
                return Admission(permit=None, retry_after=self._open_until - now)
            changed = self._change(Trigger.RETRIED)
        probe = self._state is State.HALF_OPEN
        if probe and len(self._permits) + self._successes + self._failures >= self._spec.probes:
            return Admission(permit=None, retry_after=PROBE_WAIT * (1 + u))
        self._ids += 1
        permit = Permit(generation=self._generation, probe=probe, id=self._ids)
        self._permits.add(permit)
        return Admission(permit=permit, changed=changed)

    def holds(self, permit: Permit) -> bool:
        """Return whether *permit* is neither closed nor void."""
        return permit in self._permits

    def succeed(self, permit: Permit, now: float) -> BreakerChanged | None:
        """Close *permit*: its call ended well at *now*. A success never opens a breaker."""
        if not self._close(permit):
            return None
        if not permit.probe:
            self._window.add(now, failed=False)
            return None
        self._successes += 1
        if self._successes / self._spec.probes < self._spec.probe_success:
            return None
        self._open_for = self._spec.open_for
        return self._change(Trigger.RECOVERED)

    def fail(self, permit: Permit, now: float, u: float) -> BreakerChanged | None:
        """Close *permit*: its call failed at *now*; *u* in [0, 1) spreads the open time this may start."""
        if not self._close(permit):
            return None
        if permit.probe:
            self._failures += 1
            if (self._spec.probes - self._failures) / self._spec.probes >= self._spec.probe_success:
                return None
            self._open_for = min(self._open_for * 2, self._spec.open_ceiling)
            return self._open(Trigger.RELAPSED, now, u)
        self._window.add(now, failed=True)
        calls, failures = self._window.totals(now)
        if calls < self._spec.minimum_calls or failures / calls < self._spec.failure_rate:
            return None
        return self._open(Trigger.TRIPPED, now, u)

    def release(self, permit: Permit) -> None:
        """Close *permit* and count nothing; a probe gives its place to another."""
        self._close(permit)

    def _close(self, permit: Permit) -> bool:
        held = self.holds(permit)
        self._permits.discard(permit)
        return held

    def _open(self, trigger: Trigger, now: float, u: float) -> BreakerChanged:
        self._open_until = now + self._open_for * (1 + self._spec.open_jitter * (2 * u - 1))
        return self._change(trigger)

    def _change(self, trigger: Trigger) -> BreakerChanged:
        before = self._state
        self._enter(TRANSITIONS[before][trigger])
        return BreakerChanged(breaker=self._spec.name, before=before, after=self._state)

    def _enter(self, state: State) -> None:
        self._state = state
        self._generation += 1
        self._permits: set[Permit] = set()
        self._window = Window(self._spec.window)
        self._successes = self._failures = 0  # of probes
