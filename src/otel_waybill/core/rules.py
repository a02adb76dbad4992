"""One way to refuse a value: say the rule, its unit and what was seen."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from types import NoneType
from typing import TYPE_CHECKING, Final

from otel_waybill.errors import InvalidPolicy

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_NUMBERS: Final[Mapping[object, tuple[str, tuple[type, ...]]]] = {
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    int | None: ("a whole number, or None", (int, NoneType)),
    float | None: ("a number, or None", (int, float, NoneType)),
}


def require(*, rule: str, holds: bool, seen: object) -> None:
    """Raise InvalidPolicy that states the *rule* and what was *seen*, unless it *holds*."""
    if not holds:
        msg = f"need {rule}, got {seen!r}"
        raise InvalidPolicy(msg)


def one_of(name: str, seen: object, allowed: Iterable[str]) -> None:
    """Raise InvalidPolicy unless *seen* is one of the *allowed* words."""
    words = tuple(allowed)
    require(rule=f"{name} in {', '.join(map(repr, words))}", holds=seen in words, seen=seen)


def part(name: str, seen: object, kind: type) -> None:
    """Raise InvalidPolicy unless *seen*, the argument *name*, is a *kind* or None."""
    require(
        rule=f"a {kind.__name__} as {name}, or None", holds=seen is None or isinstance(seen, kind), seen=seen
    )


def check_numbers(value: "DataclassInstance") -> None:
    """Raise InvalidPolicy unless the fields of *value* that are numbers by their annotations hold numbers."""
    for field in fields(value):
        wanted, kinds = _NUMBERS.get(field.type, ("", (object,)))
        seen = getattr(value, field.name)
        # A bool is an int to Python, and to nobody else.
        number = isinstance(seen, kinds) and not (isinstance(seen, bool) and wanted)
        require(rule=f"{wanted} as {field.name}", holds=number, seen=seen)
