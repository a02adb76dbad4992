"""What all deliveries under one policy share in this process: places, a pace and a retry budget."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from otel_waybill.core.bucket import TokenBucket
from otel_waybill.core.delivery import Delivery
from otel_waybill.core.gate import Limits
from otel_waybill.core.limits import ConcurrencyLimit, RateLimit, key_of
from otel_waybill.core.line import Bell, Pace, Slots
from otel_waybill.core.retry import RetryBudget
from otel_waybill.core.rulings import Budget
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.waybill import Waybill

_SAVED: Final = 10.0
"""Seconds of a budget's minimum that may be saved up, as in Finagle."""


class SharedLine:
    """A line in which threads and event loops stand together, under one short lock."""

    def __init__(self, line: Slots | Pace) -> None:
        self._line = line
        # Re-entrant, because the collector may finish an abandoned delivery at any line, also at one under
        # this lock, and that delivery then leaves.
        self._lock = threading.RLock()

    @property
    def idle(self) -> bool:
        """Whether a new line would be the same."""
        return self._line.idle(time.monotonic())

    def ask(self, bell: Bell, now: float) -> float:
        """Return 0.0 to let the owner of *bell* go on, else the seconds after which it may ask again."""
        with self._lock:
            before = self._line.next()
            wait = self._line.ask(bell, now)
            called = self._line.next()
        self._call(None if called in {before, bell} else called)
        return wait

    def leave(self, bell: Bell) -> None:
        """Give back the place of *bell*, or its place in line."""
        self._call(self._after(bell))

    def _after(self, bell: Bell) -> Bell | None:
        """Let *bell* leave, and return who is to be called for that."""
        with self._lock:
            before = self._line.next()
            self._line.leave(bell)
            called = self._line.next()
        return None if called is before else called

    def _call(self, bell: Bell | None) -> None:
        while bell is not None:
            try:
                bell.ring()
            except Exception:  # noqa: BLE001 - each client has its own for a loop or connection that is closed
                bell = self._after(bell)  # nobody there will ever leave the line
            else:
                return


class SharedBudget:
    """A retry budget of one queue, under one short lock."""

    def __init__(self, spec: RetryBudget) -> None:
        self._ratio = spec.ratio
        self._bucket = TokenBucket(rate=spec.per_second, burst=spec.per_second * _SAVED)
        self._lock = threading.Lock()

    @property
    def idle(self) -> bool:
        """Whether a new budget would be the same."""
        return self._bucket.full(time.monotonic())

    def earn(self) -> None:
        """Take note of a new message, which pays for a part of a retry."""
        with self._lock:
            self._bucket.give(self._ratio)

    def spend(self, now: float) -> bool:
        """Return whether one more retry is allowed at monotonic *now*, and take note of it."""
        with self._lock:
            return self._bucket.take(now) == 0.0


class Shares:
    """The limits of one policy, for each queue that it is on."""

    def __init__(self, spec: PolicySpec) -> None:
        self._concurrency = ConcurrencyLimit(1) if spec.in_order else spec.concurrency
        self._rate = spec.rate
        self._budget = None if spec.retry is None else spec.retry.budget
        self._slots: _Table[SharedLine] = _Table()
        self._paces: _Table[SharedLine] = _Table()
        self._budgets: _Table[SharedBudget] = _Table()

    def limits(self, delivery: Delivery, waybill: Waybill) -> Limits:
        """Return what *delivery*, which says *waybill*, has to wait for."""
        concurrency, rate = self._concurrency, self._rate
        slots = pace = None
        if concurrency is not None:
            key = delivery.queue, key_of(concurrency.by, delivery, waybill)
            slots = self._slots.of(key, lambda: SharedLine(Slots(concurrency.runs)))
        if rate is not None:
            key = delivery.queue, key_of(rate.by, delivery, waybill)
            pace = self._paces.of(key, lambda: SharedLine(Pace(_bucket(rate))))
        return Limits(slots, pace)

    def budget(self, delivery: Delivery, waybill: Waybill) -> Budget | None:
        """Return what retries of *delivery* are charged to, after it has paid in if it is new."""
        spec = self._budget
        if spec is None:
            return None
        budget = self._budgets.of((delivery.queue, None), lambda: SharedBudget(spec))
        if waybill.hop is None:
            budget.earn()
        return budget.spend


class _Shared(Protocol):
    @property
    def idle(self) -> bool: ...


S = TypeVar("S", bound=_Shared)


class _Table(Generic[S]):
    """One of them for each key; when there are too many in use, whoever comes then shares one."""

    MOST = 10_000

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str | None, str | None], S] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: tuple[str | None, str | None], make: Callable[[], S]) -> S:
        """Return the one of *key*, a new one if it has none."""
        with self._lock:
            if key not in self._known and len(self._known) >= self.MOST:
                oldest = next(iter(self._known))
                if self._known[oldest].idle:
                    del self._known[oldest]
                else:
                    self._known.move_to_end(oldest)
                    key = None, None
            if key not in self._known:
                self._known[key] = make()
            self._known.move_to_end(key)
            return self._known[key]


def _bucket(rate: RateLimit) -> TokenBucket:
    return TokenBucket(rate=rate.runs / rate.per, burst=rate.runs if rate.burst is None else rate.burst)
