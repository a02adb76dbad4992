"""Which exceptions a rule is about: those of some classes, or those that a function picks."""

from collections.abc import Callable

from otel_waybill.core.rules import require

Errors = tuple[type[Exception], ...] | Callable[[Exception], bool]
"""A tuple of exception classes, whose subclasses belong to it, or a predicate."""


def require_errors(name: str, seen: object) -> None:
    """Raise InvalidPolicy unless *seen*, given as *name*, is of the form `Errors`."""
    # A class is callable too, and would pick every exception.
    picks = callable(seen) and not isinstance(seen, type)
    holds = all(map(_is_class, seen)) if isinstance(seen, tuple) else picks
    require(rule=f"{name} to be a tuple of exception classes, or a predicate", holds=holds, seen=seen)


def matches(errors: Errors, error: Exception) -> bool:
    """Return whether *error* is one of *errors*; what a predicate raises passes through."""
    return isinstance(error, errors) if isinstance(errors, tuple) else bool(errors(error))


def _is_class(seen: object) -> bool:
    return isinstance(seen, type) and issubclass(seen, Exception)
