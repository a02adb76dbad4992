"""The circuit breaker that programs hold: the core's decisions under one short lock.

One object guards one dependency, for all threads and event loops of the process. Nothing about a single
use is kept on the object: the permit of a running block lives in its context, so that blocks may nest and
overlap.
"""

import functools
import inspect
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar, cast

from otel_waybill.core.breaker import Admission, Breaker, Permit, State
from otel_waybill.core.events import BreakerChanged
from otel_waybill.core.rules import require
from otel_waybill.core.spec import BreakerSpec
from otel_waybill.errors import CircuitOpen
from otel_waybill.resilience import hub

F = TypeVar("F", bound=Callable[..., object])


@dataclass(slots=True, kw_only=True, eq=False)
class _Loan:
    """A permit of a running policy, which the first block inside may use; shared by copied contexts."""

    breaker: "CircuitBreaker"
    permit: Permit
    free: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Use:
    """One block that is running."""

    breaker: "CircuitBreaker"
    permit: Permit
    loan: _Loan | None = None


# Immutable stacks: a task or thread that starts inside a block inherits them, and changes only its own.
_uses: Final[ContextVar[tuple[_Use, ...]]] = ContextVar("otel_waybill_breaker_uses", default=())
_loans: Final[ContextVar[tuple[_Loan, ...]]] = ContextVar("otel_waybill_breaker_loans", default=())


class CircuitBreaker:
    """Stops calls to a dependency that fails, and lets a few through after a while to see whether it is back.

    Use it around the call, as ``with``, as ``async with`` or as a decorator of a ``def`` or ``async def``
    function. An open breaker raises CircuitOpen before the body runs. How the body ends is counted:

    - without exception: a success;
    - with an ``Exception``, timeouts included: a failure, which passes through unchanged;
    - with the CircuitOpen of any breaker: not counted, since this dependency had no say in it;
    - cancelled or interrupted (any other ``BaseException``): not counted.

    Keep the object and share it: two live breakers of one name are an error.

    Args:
        name: the dependency, as it appears in telemetry and errors; not empty.
        window: seconds over which calls are counted, above 0.
        minimum_calls: calls in the window below which it never opens, 1 or more.
        failure_rate: share of failed calls that opens it, above 0 and at most 1.
        open_for: seconds for which it first stays open, above 0; doubled each time the probes fail.
        open_ceiling: seconds up to which that grows, at least *open_for*.
        open_jitter: share by which chance makes each open time longer or shorter, 0 or more and below 1.
        probes: calls let in to see whether the dependency is back, 1 or more.
        probe_success: share of the probes that has to succeed to close it, above 0 and at most 1.
        clock: monotonic seconds; for tests.
        chance: a number in [0, 1); for tests.

    Raises:
        InvalidPolicy: a value is out of its range, or a live breaker has that name.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each setting, so that editors and checkers know them
        self,
        name: str,
        *,
        window: float = 10.0,
        minimum_calls: int = 20,
        failure_rate: float = 0.5,
        open_for: float = 5.0,
        open_ceiling: float = 60.0,
        open_jitter: float = 0.2,
        probes: int = 3,
        probe_success: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        spec = BreakerSpec(
            name=name,
            window=window,
            minimum_calls=minimum_calls,
            failure_rate=failure_rate,
            open_for=open_for,
            open_ceiling=open_ceiling,
            open_jitter=open_jitter,
            probes=probes,
            probe_success=probe_success,
        )
        self._name = name
        self._clock = clock
        self._chance = chance
        # Re-entrant, because the collector may finish an abandoned generator at any line, also at one under
        # this lock, and the block inside that generator then releases its permit.
        self._lock = threading.RLock()
        self._core = Breaker(spec)
        hub.register(name, self)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self._name!r} {self.state}>"

    @property
    def name(self) -> str:
        """The dependency that this breaker guards."""
        return self._name

    @property
    def state(self) -> State:
        """Closed, open or half-open; it becomes half-open only when a call asks after the open time."""
        return self._core.state

    def acquire(self, now: float, u: float) -> Admission:
        """Let one call in at *now*, monotonic seconds, or say when it may ask again; *u* in [0, 1) is chance.

        This and the three verbs below are for those that drive policies: they neither raise when the
        breaker is open nor tell anybody of a change of state, which the caller has to do.
        """
        with self._lock:
            return self._core.acquire(now, u)

    def succeed(self, permit: Permit, now: float) -> BreakerChanged | None:
        """Close *permit*: its call ended well at *now*. Closing again does nothing."""
        with self._lock:
            return self._core.succeed(permit, now)

    def fail(self, permit: Permit, now: float, u: float) -> BreakerChanged | None:
        """Close *permit*: its call failed at *now*; *u* in [0, 1) is chance. Closing again does nothing."""
        with self._lock:
            return self._core.fail(permit, now, u)

    def release(self, permit: Permit) -> None:
        """Close *permit* and count nothing. Closing again does nothing."""
        with self._lock:
            self._core.release(permit)

    @contextmanager
    def lent(self, permit: Permit) -> Iterator[None]:
        """Let the first ``with`` of this breaker inside the block use *permit* instead of another.

        A policy that was let in by the same breaker as its handler's call would otherwise count that call
        twice, and take two places where there may be one. What the inner block counts closes the permit;
        when it counts nothing, the permit goes back and the policy decides.
        """
        loan = _Loan(breaker=self, permit=permit)
        token = _loans.set((*_loans.get(), loan))
        try:
            yield
        finally:
            _loans.reset(token)
            loan.free = False  # a task that outlives the block has a copy of this context

    def __enter__(self) -> Self:
        use = self._borrow() or self._ask()
        _uses.set((*_uses.get(), use))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        use = self._leave()
        if use is None:
            return
        changed = None
        if error is None:
            changed = self.succeed(use.permit, self._clock())
        elif isinstance(error, Exception) and not isinstance(error, CircuitOpen):
            changed = self.fail(use.permit, self._clock(), self._chance())
        elif use.loan is not None:
            use.loan.free = True
        else:
            self.release(use.permit)
        if changed is not None:
            hub.emit(changed)

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
        lazy = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        require(
            rule="a def or async def function without yield (use `with` inside it)",
            holds=not lazy,
            seen=function,
        )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded_async(*args: object, **kwargs: object) -> object:
                async with self:
                    return await function(*args, **kwargs)

            return cast("F", guarded_async)

        @functools.wraps(function)
        def guarded(*args: object, **kwargs: object) -> object:
            with self:
                return function(*args, **kwargs)

        return cast("F", guarded)

    def _borrow(self) -> _Use | None:
        for loan in reversed(_loans.get()):
            if loan.breaker is self:
                with self._lock:
                    # One that a change of state has voided lets nobody in: ask like everybody else.
                    if loan.free and self._core.holds(loan.permit):
                        loan.free = False
                        return _Use(breaker=self, permit=loan.permit, loan=loan)
        return None

    def _ask(self) -> _Use:
        admission = self.acquire(self._clock(), self._chance())
        if admission.changed is not None:
            hub.emit(admission.changed)
        if admission.permit is None:
            raise CircuitOpen(self._name, admission.retry_after)
        return _Use(breaker=self, permit=admission.permit)

    def _leave(self) -> _Use | None:
        """Take this breaker's innermost block off the stack.

        None when the block was entered in another context, as a generator can be that is finished by
        somebody else: there is no telling which permit was its own.
        """
        uses = _uses.get()
        for i in reversed(range(len(uses))):
            if uses[i].breaker is self:
                _uses.set(uses[:i] + uses[i + 1 :])
                return uses[i]
        return None
