"""A handler under a policy, recognisable to whoever is asked to deliver to it."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self

from otel_waybill.core.breaker import Permit
from otel_waybill.core.spec import PolicySpec, Settle
from otel_waybill.core.verdicts import Run
from otel_waybill.resilience.breaker import CircuitBreaker
from otel_waybill.resilience.limits import Shares

Handler = Callable[..., object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a delivery is handled by: a policy's frozen part, and its live ones.

    Attributes:
        spec: the frozen part.
        breaker: pauses the consumer.
        shares: the limits that its deliveries share.
        fallback: called like the handler, for what that cannot handle.
    """

    spec: PolicySpec
    breaker: CircuitBreaker | None
    shares: Shares = field(compare=False)
    fallback: Handler | None

    @classmethod
    def of(
        cls, spec: PolicySpec, *, breaker: CircuitBreaker | None = None, fallback: Handler | None = None
    ) -> Self:
        """Return the terms of a policy that says *spec*."""
        return cls(spec=spec, breaker=breaker, shares=Shares(spec), fallback=fallback)

    def holding(self) -> Self:
        """Return the same terms for a delivery without a consumer that could leave its queue."""
        if not self.spec.single_active:
            return self
        return replace(self, spec=replace(self.spec, single_active=False))

    def handler(self, run: Run, handler: Handler) -> Handler:
        """Return what *run* calls: *handler*, or the substitute for it."""
        return self.fallback if run.fallback and self.fallback is not None else handler

    def lent(self, permit: Permit | None) -> AbstractContextManager[None]:
        """Return a block in which a handler's call through the same breaker uses *permit*."""
        return nullcontext() if self.breaker is None or permit is None else self.breaker.lent(permit)


def settling(terms: Terms, default: Settle) -> Terms:
    """Return *terms* with the question of who settles answered by *default* where they leave it open."""
    if terms.spec.settle is not None:
        return terms
    return replace(terms, spec=replace(terms.spec, settle=default))


class Guarded:
    """What `Policy.wrap` returns: it stands wherever the handler stood.

    An instrumented client takes it apart and runs the handler under the terms itself; any other client
    calls it like the handler.
    """

    def __init__(
        self, handler: Handler, terms: Terms, queue: str | None, deliver: Callable[..., object]
    ) -> None:
        """Put *handler* under *terms*.

        Args:
            handler: the user's callable.
            terms: what it is handled by.
            queue: the consumed queue, where the client cannot tell.
            deliver: called with this object and the client's arguments in a program that is not
                instrumented.
        """
        functools.update_wrapper(self, handler, updated=())
        self.handler = handler
        self.terms = terms
        self.queue = queue
        self._deliver = deliver

    def __call__(self, *args: object) -> Any:  # noqa: ANN401 - depends on the client
        """Handle one delivery, with the arguments of the client, which expects None or an awaitable back."""
        return self._deliver(self, *args)

    def __get__(self, instance: object, owner: type | None = None) -> "Guarded":
        """Return the same around the bound method, where the handler is one of a class."""
        if instance is None or not hasattr(self.handler, "__get__"):
            return self
        return Guarded(self.handler.__get__(instance, owner), self.terms, self.queue, self._deliver)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.handler!r} queue={self.queue!r}>"
