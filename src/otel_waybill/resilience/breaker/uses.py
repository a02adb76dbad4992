"""Which blocks of which breakers are running here, and which permits a policy has lent to them.

Kept in the context of the running code and not on the breaker, so that blocks may nest and overlap. The
stacks are immutable: a task or thread that starts inside a block inherits them, and changes only its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from otel_waybill.core.breaker import Permit


@dataclass(slots=True, kw_only=True, eq=False)
class Loan:
    """A permit of a running policy, which the first block inside may use; shared by copied contexts.

    Attributes:
        breaker: whose permit it is.
        permit: the permit.
        free: whether no block uses it.
    """

    breaker: object
    permit: Permit
    free: bool = True


@dataclass(slots=True, eq=False)
class Use:
    """One block that is running.

    Attributes:
        breaker: whose block it is.
        permit: what let it in.
        loan: where the permit was lent by a policy.
    """

    breaker: object
    permit: Permit
    loan: Loan | None = None


_uses: Final[ContextVar[tuple[Use, ...]]] = ContextVar("otel_waybill_breaker_uses", default=())
_loans: Final[ContextVar[tuple[Loan, ...]]] = ContextVar("otel_waybill_breaker_loans", default=())


def enter(use: Use) -> None:
    """Take note of a block that begins."""
    _uses.set((*_uses.get(), use))


def leave(breaker: object) -> Use | None:
    """Forget the innermost block of *breaker* and return it.

    None when the block was entered in another context, as a generator can be that is finished by somebody
    else: there is no telling which permit was its own.
    """
    uses = _uses.get()
    for i in range(len(uses) - 1, -1, -1):
        if uses[i].breaker is breaker:
            _uses.set(uses[:i] + uses[i + 1 :])
            return uses[i]
    return None


@contextmanager
def lending(loan: Loan) -> Iterator[None]:
    """Offer *loan* to the blocks inside this one."""
    token = _loans.set((*_loans.get(), loan))
    try:
        yield
    finally:
        _loans.reset(token)
        loan.free = False  # a task that outlives the block has a copy of this context


def loans(breaker: object) -> list[Loan]:
    """Return what was lent to the blocks of *breaker* here, the innermost first."""
    lent = _loans.get()
    return [loan for loan in reversed(lent) if loan.breaker is breaker] if lent else []
