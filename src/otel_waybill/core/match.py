"""Which exceptions a rule is about: classes, or a predicate."""

from collections.abc import Callable
from typing import TypeAlias

from otel_waybill.core.rules import require

Match: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
"""A class of exceptions, several of them, or a function that says whether one is meant."""


def check_match(name: str, match: object) -> None:
    """Raise InvalidPolicy unless *match*, the argument *name*, can match exceptions."""
    classes = match if isinstance(match, tuple) else (match,)
    meant = all(isinstance(each, type) and issubclass(each, BaseException) for each in classes)
    predicate = callable(match) and not isinstance(match, type)
    require(
        rule=f"{name}: an exception class, a tuple of them, or a function of one exception",
        holds=meant or predicate,
        seen=match,
    )


def matches(match: Match, error: BaseException) -> bool:
    """Return whether *match* means *error*; a predicate may raise."""
    if isinstance(match, type | tuple):
        return isinstance(error, match)
    return match(error)
