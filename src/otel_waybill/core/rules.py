"""One way to refuse a value: say the rule, its unit and what was seen."""

from collections.abc import Iterable

from otel_waybill.errors import InvalidPolicy


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
