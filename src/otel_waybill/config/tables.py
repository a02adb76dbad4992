"""Tables of a TOML file as frozen values: the fields of a dataclass say which keys and types there are."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from otel_waybill.core.match import Match, Named
from otel_waybill.errors import InvalidPolicy

T = TypeVar("T")

_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


class Unreadable(Exception):  # noqa: N818 - never leaves this package: it becomes an error that knows the file
    """Something is wrong with the value of a key.

    Attributes:
        key: where, with its tables, as in ``policies.orders.retry``.
        problem: the rule, and what was seen.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(key, problem)
        self.key = key
        self.problem = problem


def table(value: object, key: str) -> Mapping[str, object]:
    """Return *value* if it is a table.

    Raises:
        Unreadable: it is none.
    """
    if not isinstance(value, Mapping):
        raise Unreadable(key, f"need a table, got {value!r}")
    return value


def known(keys: Mapping[str, object], allowed: tuple[str, ...], key: str) -> None:
    """Return if all *keys* are *allowed*.

    Raises:
        Unreadable: one is not.
    """
    for each in keys:
        if each not in allowed:
            raise Unreadable(joined(key, each), f"need one of {', '.join(allowed)}, got {each!r}")


def read(kind: type[T], value: object, key: str, **given: object) -> T:
    """Return the *kind*, a dataclass, that the table *value* at *key* describes.

    Args:
        kind: whose fields are the keys, and whose defaults hold for those that are absent.
        value: what the file says.
        key: where it says so.
        given: fields that the file has no say in.

    Raises:
        Unreadable: a key is unknown, or a value is not what its field takes.
    """
    written = table(value, key)
    known(written, tuple(field.name for field in _fields(kind) if field.name not in given), key)
    hints = get_type_hints(kind)
    values = {name: _value(hints[name], each, joined(key, name)) for name, each in written.items()}
    for field in _fields(kind):
        if field.default is field.default_factory is MISSING and field.name not in {**values, **given}:
            raise Unreadable(joined(key, field.name), "need a value, got none")
    try:
        return kind(**given, **values)
    except InvalidPolicy as error:
        raise Unreadable(key, str(error)) from error


def joined(key: str, name: str) -> str:
    """Return the key of *name* in the table at *key*, quoted where TOML wants it so."""
    bare = name.isascii() and name.replace("-", "_").replace("_", "a").isalnum()
    return ".".join(filter(None, (key, name if bare else repr(name))))


def _value(hint: object, value: object, key: str) -> object:
    if hint == Match:
        return _exceptions(value, key)
    if get_origin(hint) is Literal:
        return _word(get_args(hint), value, key)
    if get_origin(hint) in {Union, UnionType}:
        return _any_of([each for each in get_args(hint) if each is not NoneType], value, key)
    if get_origin(hint) is frozenset:
        return frozenset(_texts(value, "a list of texts", key))
    if isinstance(hint, type) and is_dataclass(hint):
        # A limit that is nothing but a number may be written as that.
        plain = isinstance(value, int) and any(field.name == "runs" for field in fields(hint))
        return read(hint, {"runs": value} if plain else value, key)
    return _plain(hint, value, key)


def _any_of(hints: list[object], value: object, key: str) -> object:
    *others, last = hints
    for hint in others:
        with suppress(Unreadable):
            return _value(hint, value, key)
    return _value(last, value, key)


def _plain(hint: object, value: object, key: str) -> object:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # A bool is an int to Python, and to nobody else.
    if not isinstance(hint, type) or type(value) is not hint:
        raise Unreadable(key, f"need {_WORDS[cast('type', hint)]}, got {value!r}")
    return value


def _word(words: tuple[object, ...], value: object, key: str) -> object:
    if value not in words:
        raise Unreadable(key, f"need one of {', '.join(map(repr, words))}, got {value!r}")
    return value


def _exceptions(value: object, key: str) -> Named:
    named = [value] if isinstance(value, str) else value
    try:
        return Named(tuple(_texts(named, "the name of an exception, or a list of them", key)))
    except InvalidPolicy as error:
        raise Unreadable(key, str(error)) from error


def _texts(value: object, wanted: str, key: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Unreadable(key, f"need {wanted}, got {value!r}")
    return value


def _fields(kind: type) -> tuple[Field[Any], ...]:  # Any: whatever type a field has
    return fields(kind)
