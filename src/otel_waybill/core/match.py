"""Which exceptions a rule is about: classes, or a predicate."""

import builtins
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Named:
    """A predicate for where no class can be written down: it means exceptions of these classes by name.

    Attributes:
        names: ``ConnectionError`` for one of Python's own, else module and name, ``shop.errors.OutOfStock``.
            Their subclasses are meant as well. Nothing is imported for it.

    Raises:
        InvalidPolicy: a name without a module is none of Python's own exceptions.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.names:
            own = getattr(builtins, name, None)
            require(
                rule="the name of one of Python's own exceptions, or module.Name of another",
                holds="." in name or (isinstance(own, type) and issubclass(own, BaseException)),
                seen=name,
            )

    def __call__(self, error: BaseException) -> bool:
        """Return whether *error* is of such a class."""
        return any(_full_name(kind) in self.names for kind in type(error).__mro__)


def _full_name(kind: type) -> str:
    own = kind.__module__ == builtins.__name__
    return kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}"
