"""The circuit breaker that programs hold: the core's decisions under one short lock.

One object guards one dependency, for all threads and event loops of the process. Nothing about a single
use is kept on the object: the permit of a running block lives in its context, so that blocks may nest and
overlap.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self, Unpack

from otel_waybill.core.breaker import Admission, Breaker, Permit, State, Trigger
from otel_waybill.core.events import BreakerCalled, BreakerChanged, BreakerEvent, CallOutcome
from otel_waybill.core.match import Match
from otel_waybill.core.spec import BreakerSpec
from otel_waybill.errors import CircuitOpen
from otel_waybill.guard import harmless
from otel_waybill.resilience import hub
from otel_waybill.resilience.breaker import uses
from otel_waybill.resilience.breaker.decorating import F, around
from otel_waybill.resilience.breaker.listeners import Listener, Listeners
from otel_waybill.resilience.breaker.options import BreakerOptions, hystrix

_judging: Final = harmless("asking whether an exception counts for a breaker")


class CircuitBreaker:
    """Stops calls to a dependency that fails, and lets a few through after a while to see whether it is back.

    Use it around the call, as ``with``, as ``async with`` or as a decorator of a ``def`` or ``async def``
    function, or give it to a policy. An open breaker raises CircuitOpen before the body runs. How the body
    ends is counted:

    - without exception: a success;
    - with an ``Exception``, timeouts included: a failure, which passes through unchanged; *failures* and
      *ignored* choose others;
    - with the CircuitOpen of any breaker: not counted, since this dependency had no say in it;
    - cancelled or interrupted (any other ``BaseException``): not counted.

    Keep the object and share it: two live breakers of one name are an error.

    Args:
        name: the dependency, as it appears in telemetry and errors; not empty.
        window: seconds over which calls are counted, above 0; 10 unless *window_calls* is given.
        window_calls: how many of the last calls are counted instead, however long ago they were; 1 or more,
            and not below *minimum_calls*.
        minimum_calls: calls in the window below which it never opens, 1 or more.
        failure_rate: share of failed calls that opens it, above 0 and at most 1.
        slow_after: seconds above which a call is slow, however it ends, above 0; None: no call is.
        slow_rate: share of slow calls that opens it, above 0 and at most 1.
        failures: exceptions that count as failures: a class, a tuple of classes, or a function of the
            exception that returns whether it does. A call that raises another one has succeeded.
        ignored: exceptions, also of those in *failures*, that are not counted; likewise.
        open_for: seconds for which it first stays open, above 0; doubled each time the probes fail.
        open_ceiling: seconds up to which that grows, at least *open_for*.
        open_jitter: share by which chance makes each open time longer or shorter, 0 or more and below 1.
        probes: calls let in to see whether the dependency is back, 1 or more; a slow one has failed.
        probe_success: share of the probes that has to succeed to close it, above 0 and at most 1.
        probe_timeout: seconds after which a probe that has not ended leaves its place to another, above 0.
        defer: whether a handler under a policy that this breaker stops is retried without counting an
            attempt.
        clock: monotonic seconds; for tests.
        chance: a number in [0, 1); for tests.

    Attributes:
        spec: the settings, frozen.

    Raises:
        InvalidPolicy: a value is out of its range, or a live breaker has that name.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each setting, so that editors and checkers know them
        self,
        name: str,
        *,
        window: float | None = None,
        window_calls: int | None = None,
        minimum_calls: int = 20,
        failure_rate: float = 0.5,
        slow_after: float | None = None,
        slow_rate: float = 0.5,
        failures: Match = Exception,
        ignored: Match = (),
        open_for: float = 5.0,
        open_ceiling: float = 60.0,
        open_jitter: float = 0.2,
        probes: int = 3,
        probe_success: float = 0.5,
        probe_timeout: float = 60.0,
        defer: bool = False,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.spec = BreakerSpec(
            name=name,
            window=window,
            window_calls=window_calls,
            minimum_calls=minimum_calls,
            failure_rate=failure_rate,
            slow_after=slow_after,
            slow_rate=slow_rate,
            failures=failures,
            ignored=ignored,
            open_for=open_for,
            open_ceiling=open_ceiling,
            open_jitter=open_jitter,
            probes=probes,
            probe_success=probe_success,
            probe_timeout=probe_timeout,
            defer=defer,
        )
        self._name = name
        self._clock = clock
        self._chance = chance
        # Re-entrant, because the collector may finish an abandoned generator at any line, also at one under
        # this lock, and the block inside that generator then releases its permit.
        self._lock = threading.RLock()
        self._core = Breaker(self.spec)
        self._listeners = Listeners()
        hub.register(name, self)

    @classmethod
    def hystrix(cls, name: str, **chosen: Unpack[BreakerOptions]) -> Self:
        """Return a breaker with the numbers of hystrix, but for what is *chosen* otherwise.

        It opens at 20 calls within 10 s of which 50 % failed, and lets one probe in after 5 s, which closes
        it when it succeeds and opens it for another 5 s when it fails. ``docs/breakers.md`` tells where it is
        safer than hystrix.
        """
        return cls(name, **hystrix(**chosen))

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self._name!r} {self.state}>"

    @property
    def name(self) -> str:
        """The dependency that this breaker guards."""
        return self._name

    @property
    def state(self) -> State:
        """What it does with calls; it becomes half-open only when a call asks after the open time."""
        return self._core.state

    def force_open(self) -> None:
        """Refuse every call until told otherwise, as for maintenance of the dependency.

        This and the three below may be called at any time from any thread; calls that are running count
        no more.
        """
        self._override(Trigger.FORCED)

    def metrics_only(self) -> None:
        """Let every call in and only tell, as a change that is ``tripped``, when it would have opened."""
        self._override(Trigger.OBSERVED)

    def disable(self) -> None:
        """Let every call in and count nothing until told otherwise."""
        self._override(Trigger.DISABLED)

    def reset(self) -> None:
        """Close it, with nothing counted."""
        self._override(Trigger.RESET)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have *listener* called with each change of this breaker, until the returned function is called.

        It runs on the thread that brought the change about, without a lock held, and must be quick. One that
        raises is logged once and stops nobody.
        """
        return self._listeners.add(listener)

    def tell(self, changed: BreakerChanged) -> None:
        """Call the listeners with what *changed*; the hub does, wherever it came from."""
        self._listeners.tell(changed)

    def acquire(self, now: float, u: float) -> Admission:
        """Let one call in at *now*, monotonic seconds, or say when it may ask again; *u* in [0, 1) is chance.

        This and the three verbs below are for those that drive policies: they neither raise when the
        breaker is open nor tell anybody of what happened, which the caller has to do.
        """
        with self._lock:
            return self._core.acquire(now, u)

    def succeed(self, permit: Permit, now: float, u: float) -> tuple[BreakerEvent, ...]:
        """Close *permit*: its call ended well at *now*; *u* in [0, 1) is chance. Once closed it stays so."""
        with self._lock:
            return self._core.succeed(permit, now, u)

    def fail(
        self, permit: Permit, now: float, u: float, error: BaseException | None = None
    ) -> tuple[BreakerEvent, ...]:
        """Close *permit*: its call failed at *now*; an *error* that it raised counts as the settings say."""
        return self._close(permit, now, u, CallOutcome.FAILURE if error is None else self._judge(error))

    def release(self, permit: Permit) -> tuple[BreakerEvent, ...]:
        """Close *permit* and count nothing. Once closed it stays so."""
        with self._lock:
            return self._core.release(permit)

    def lent(self, permit: Permit) -> AbstractContextManager[None]:
        """Let the first ``with`` of this breaker inside the block use *permit* instead of another.

        A policy that was let in by the same breaker as its handler's call would otherwise count that call
        twice, and take two places where there may be one. What the inner block counts closes the permit;
        when it counts nothing, the permit goes back and the policy decides.
        """
        return uses.lending(permit)

    def __enter__(self) -> Self:
        uses.enter(self._borrow() or self._ask())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        permit = uses.leave(self._core)
        if permit is None:
            return
        now, u = self._clock(), self._chance()
        events = self.succeed(permit, now, u) if error is None else self._raised(permit, now, u, error)
        for event in events:
            hub.emit(event)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Return *function* with this breaker around each of its calls.

        Raises:
            InvalidPolicy: *function* is a generator, whose body runs when somebody iterates, not when it
                is called.
        """
        return around(self, function)

    def _borrow(self) -> Permit | None:
        for loan in uses.loans(self._core):
            with self._lock:
                # One that a change of state has voided lets nobody in: ask like everybody else.
                if loan.free and self._core.holds(loan.permit):
                    loan.free = False
                    self._core.restart(loan.permit, self._clock())
                    return loan.permit
        return None

    def _ask(self) -> Permit:
        now = self._clock()
        with self._lock:
            permit = self._core.admit(now)
        if permit is not None:
            return permit
        admission = self.acquire(now, self._chance())
        if admission.changed is not None:
            hub.emit(admission.changed)
        if admission.permit is None:
            hub.emit(BreakerCalled(breaker=self._name, outcome=CallOutcome.REFUSED))
            raise CircuitOpen(self._name, admission.retry_after, self.spec.defer)
        return admission.permit

    def _judge(self, error: BaseException) -> CallOutcome:
        with _judging:
            return self.spec.judge(error)
        return CallOutcome.FAILURE

    def _raised(self, permit: Permit, now: float, u: float, error: BaseException) -> tuple[BreakerEvent, ...]:
        outcome = self._judge(error)
        if outcome is CallOutcome.IGNORED and uses.give_back(permit):
            return ()
        return self._close(permit, now, u, outcome)

    def _close(self, permit: Permit, now: float, u: float, outcome: CallOutcome) -> tuple[BreakerEvent, ...]:
        with self._lock:
            if outcome is CallOutcome.IGNORED:
                return self._core.release(permit)
            verb = self._core.succeed if outcome is CallOutcome.SUCCESS else self._core.fail
            return verb(permit, now, u)

    def _override(self, trigger: Trigger) -> None:
        with self._lock:
            changed = self._core.override(trigger)
        hub.emit(changed)
