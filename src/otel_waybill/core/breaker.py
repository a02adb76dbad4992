"""When to stop calling a dependency, and when to try again.

Rule 1: every change of state is an entry of ``TRANSITIONS``. Rule 2: every call that was let in holds a
permit, closed once by ``succeed``, ``fail`` or ``release``; a change of state voids all permits given out
before it, so a late result changes nothing. Rule 3: chance and time are arguments, and time alone moves
nothing: an open breaker becomes half-open when somebody asks, and closes when probes succeed.

Not thread safe: whoever shares one holds a lock.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from otel_waybill.core.events import BreakerCalled, BreakerChanged, BreakerEvent, CallOutcome
from otel_waybill.core.spec import BreakerSpec
from otel_waybill.core.window import CountWindow, TimeWindow, Window


class State(StrEnum):
    """What a breaker does with calls."""

    CLOSED = "closed"  # lets all in
    OPEN = "open"  # refuses all, for a time
    HALF_OPEN = "half-open"  # lets a few in, to see how they fare
    FORCED_OPEN = "forced-open"  # refuses all
    METRICS_ONLY = "metrics-only"  # lets all in, and tells when it would have opened
    DISABLED = "disabled"  # lets all in, whatever comes of it


class Trigger(StrEnum):
    """Why a breaker changes its state."""

    TRIPPED = "tripped"  # too many calls failed, or were slow
    RETRIED = "retried"  # the open time is over and a call asked
    RECOVERED = "recovered"  # enough probes succeeded
    RELAPSED = "relapsed"  # enough probes can no longer succeed
    FORCED = "forced"  # this and the rest: somebody said so
    OBSERVED = "observed"
    DISABLED = "disabled"
    RESET = "reset"


_BY_HAND: Final = {
    Trigger.FORCED: State.FORCED_OPEN,
    Trigger.OBSERVED: State.METRICS_ONLY,
    Trigger.DISABLED: State.DISABLED,
    Trigger.RESET: State.CLOSED,
}
TRANSITIONS: Final[Mapping[State, Mapping[Trigger, State]]] = MappingProxyType(
    {
        before: MappingProxyType(row | _BY_HAND)
        for before, row in {
            State.CLOSED: {Trigger.TRIPPED: State.OPEN},
            State.OPEN: {Trigger.RETRIED: State.HALF_OPEN},
            State.HALF_OPEN: {Trigger.RECOVERED: State.CLOSED, Trigger.RELAPSED: State.OPEN},
            State.FORCED_OPEN: {},
            State.METRICS_ONLY: {Trigger.TRIPPED: State.METRICS_ONLY},
            State.DISABLED: {},
        }.items()
    }
)

_LETS_ALL_IN: Final = frozenset({State.CLOSED, State.METRICS_ONLY, State.DISABLED})

# Seconds until a refused call asks again while probes are running; chance makes it up to twice that. Nobody
# knows when a probe ends: often enough not to be noticed, seldom enough to cost nothing.
PROBE_WAIT: Final = 0.1

DEFAULT_WINDOW: Final = 10.0
"""Seconds over which calls are counted when nothing is said."""


@dataclass(slots=True, eq=False)
class Permit:
    """The right to make one call, valid until closed or until the breaker changes its state.

    Attributes:
        breaker: who gave it out.
        generation: of the breaker's states, the one in which it was given out.
        since: monotonic seconds at which its call began.
        probe: whether its call is to show how the dependency fares.
        open: whether it has not been closed; the breaker's to change.
    """

    breaker: object
    generation: int
    since: float
    probe: bool = False
    open: bool = True


@dataclass(slots=True)
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
        self._slow_after = math.inf if spec.slow_after is None else spec.slow_after
        # Made once, because there is one for every call.
        self._success, self._slow, self._failure, self._ignored = (
            (BreakerCalled(breaker=spec.name, outcome=outcome),)
            for outcome in (
                CallOutcome.SUCCESS,
                CallOutcome.SLOW,
                CallOutcome.FAILURE,
                CallOutcome.IGNORED,
            )
        )
        self._open_until = 0.0
        self._open_for = spec.open_for
        self._generation = 0
        self._running: list[Permit] = []  # probes that have a place
        self._successes = self._failures = 0  # of probes
        self._enter(State.CLOSED)

    @property
    def state(self) -> State:
        """The state as the last call left it; only a call that asks makes an open breaker half-open."""
        return self._state

    def admit(self, now: float) -> Permit | None:
        """Let one call in at *now* if all are let in; None: it has to ask."""
        return Permit(self, self._generation, now) if self._lets_all_in else None

    def acquire(self, now: float, u: float) -> Admission:
        """Let one call in at *now*, or say when it may ask again; *u* in [0, 1) is chance."""
        if self._lets_all_in:
            return Admission(self.admit(now))
        changed = None
        if self._state is State.OPEN and now >= self._open_until:
            changed = self._change(Trigger.RETRIED)
        if self._state is State.HALF_OPEN and self._has_place(now):
            permit = Permit(self, self._generation, now, probe=True)
            self._running.append(permit)
            return Admission(permit, changed=changed)
        return Admission(None, retry_after=self._wait(now, u))

    def holds(self, permit: Permit) -> bool:
        """Return whether *permit* is neither closed nor void."""
        return permit.open and permit.generation == self._generation

    def restart(self, permit: Permit, now: float) -> None:
        """Take the call of *permit* to begin only at *now*."""
        permit.since = now

    def succeed(self, permit: Permit, now: float, u: float) -> tuple[BreakerEvent, ...]:
        """Close *permit*: its call ended well at *now*; *u* in [0, 1) is chance.

        Return what there is to tell: how the call ended, unless *permit* was closed before, and what that
        changed. Only a slow success ever opens a breaker.
        """
        return self._end(permit, now, u, failed=False)

    def fail(self, permit: Permit, now: float, u: float) -> tuple[BreakerEvent, ...]:
        """Close *permit*: its call failed at *now*; *u* in [0, 1) spreads the open time this may start."""
        return self._end(permit, now, u, failed=True)

    def release(self, permit: Permit) -> tuple[BreakerEvent, ...]:
        """Close *permit* and count nothing; a probe gives its place to another."""
        if not permit.open:
            return ()
        permit.open = False
        self._leave_place(permit)
        return self._ignored

    def override(self, trigger: Trigger) -> BreakerChanged:
        """Follow *trigger*, one of those that people pull, whatever the state; the counts start afresh."""
        return self._change(trigger)

    def _wait(self, now: float, u: float) -> float:
        """Return after how many seconds a call that is refused may ask again."""
        if self._state is State.OPEN:
            return self._open_until - now
        if self._state is State.HALF_OPEN:
            return PROBE_WAIT * (1 + u)
        # Forced open, nobody knows for how long: as often as when it opens by itself.
        return self._spread(self._spec.open_for, u)

    def _has_place(self, now: float) -> bool:
        # One that takes too long leaves its place, so that a call that never returns does not keep the
        # breaker half-open; should it return in this round after all, it is as good a witness as any.
        self._running = [each for each in self._running if now - each.since < self._spec.probe_timeout]
        return len(self._running) + self._successes + self._failures < self._spec.probes

    def _end(self, permit: Permit, now: float, u: float, *, failed: bool) -> tuple[BreakerEvent, ...]:
        if not permit.open:
            return ()
        slow = now - permit.since > self._slow_after
        ended = self._failure if failed else self._slow if slow else self._success
        permit.open = False
        if permit.generation != self._generation:
            return ended
        if permit.probe:
            self._leave_place(permit)
            changed = self._count_probe(now, u, failed=failed or slow)
        else:
            changed = self._count(now, u, failed=failed, slow=slow)
        return ended if changed is None else (*ended, changed)

    def _leave_place(self, permit: Permit) -> None:
        if permit in self._running:
            self._running.remove(permit)

    def _count(self, now: float, u: float, *, failed: bool, slow: bool) -> BreakerChanged | None:
        self._window.add(now, failed=failed, slow=slow)
        if (failed or slow) and Trigger.TRIPPED in TRANSITIONS[self._state] and self._is_too_bad(now):
            return self._open(Trigger.TRIPPED, now, u)
        return None

    def _is_too_bad(self, now: float) -> bool:
        calls, failures, slow = self._window.totals(now)
        if calls < self._spec.minimum_calls:
            return False
        return failures / calls >= self._spec.failure_rate or slow / calls >= self._spec.slow_rate

    def _count_probe(self, now: float, u: float, *, failed: bool) -> BreakerChanged | None:
        probes, enough = self._spec.probes, self._spec.probe_success
        if not failed:
            self._successes += 1
            return self._change(Trigger.RECOVERED) if self._successes / probes >= enough else None
        self._failures += 1
        if (probes - self._failures) / probes >= enough:
            return None
        self._open_for = min(self._open_for * 2, self._spec.open_ceiling)
        return self._open(Trigger.RELAPSED, now, u)

    def _open(self, trigger: Trigger, now: float, u: float) -> BreakerChanged:
        self._open_until = now + self._spread(self._open_for, u)
        return self._change(trigger)

    def _spread(self, seconds: float, u: float) -> float:
        return seconds * (1 + self._spec.open_jitter * (2 * u - 1))

    def _change(self, trigger: Trigger) -> BreakerChanged:
        before = self._state
        self._enter(TRANSITIONS[before][trigger])
        return BreakerChanged(breaker=self._spec.name, before=before, after=self._state, trigger=trigger)

    def _enter(self, state: State) -> None:
        self._state = state
        self._lets_all_in = state in _LETS_ALL_IN
        if state not in (State.OPEN, State.HALF_OPEN):
            self._open_for = self._spec.open_for
        self._generation += 1
        self._window = _window(self._spec)
        self._running = []
        self._successes = self._failures = 0


def _window(spec: BreakerSpec) -> Window:
    if spec.window_calls is not None:
        return CountWindow(spec.window_calls)
    return TimeWindow(DEFAULT_WINDOW if spec.window is None else spec.window)
