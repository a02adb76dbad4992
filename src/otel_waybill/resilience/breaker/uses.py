"""Which permits let the running code in, and which ones its policy has lent to it.

Kept in the context of the running code and not on the breaker, so that blocks may nest and overlap. The
stacks are immutable: a task or thread that starts inside a block inherits them, and changes only its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from otel_waybill.core.breaker import Breaker, Permit


@dataclass(slots=True, eq=False)
class Loan:
    """A permit of a running policy, which the first block inside may use; shared by copied contexts."""

    permit: Permit
    free: bool = True


_uses: Final[ContextVar[tuple[Permit, ...]]] = ContextVar("otel_waybill_breaker_uses", default=())
_loans: Final[ContextVar[tuple[Loan, ...]]] = ContextVar("otel_waybill_breaker_loans", default=())


def enter(permit: Permit) -> None:
    """Take note of a block that *permit* let in."""
    _uses.set((*_uses.get(), permit))


def leave(breaker: Breaker) -> Permit | None:
    """Forget the innermost block of *breaker* and return what let it in.

    None when the block was entered in another context, as a generator can be that is finished by somebody
    else: there is no telling which permit was its own.
    """
    uses = _uses.get()
    if uses and uses[-1].breaker is breaker:  # blocks nest, as a rule
        _uses.set(uses[:-1])
        return uses[-1]
    for i in range(len(uses) - 1, -1, -1):
        if uses[i].breaker is breaker:
            _uses.set(uses[:i] + uses[i + 1 :])
            return uses[i]
    return None


@contextmanager
def lending(permit: Permit) -> Iterator[None]:
    """Offer *permit* to the blocks inside this one."""
    loan = Loan(permit)
    token = _loans.set((*_loans.get(), loan))
    try:
        yield
    finally:
        _loans.reset(token)
        loan.free = False  # a task that outlives the block has a copy of this context


def loans(breaker: Breaker) -> list[Loan]:
    """Return what was lent to the blocks of *breaker* here, the innermost first."""
    lent = _loans.get()
    return [loan for loan in reversed(lent) if loan.permit.breaker is breaker] if lent else []


def give_back(permit: Permit) -> bool:
    """Make *permit* free again, and return whether it was lent here."""
    for loan in _loans.get():
        if loan.permit is permit:
            loan.free = True
            return True
    return False
