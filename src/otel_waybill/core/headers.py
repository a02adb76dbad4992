"""AMQP header tables: read without trust, changed only in copies.

Reading is total: a value of the wrong type, size, range or encoding is None, never an exception.
"""

import re
from collections.abc import Mapping
from copy import deepcopy

from otel_waybill import names

Headers = Mapping[str, object]

LONGEST_TEXT = 255
"""Octets of the longest text fact; an AMQP short string holds no more."""

_LONGEST_NUMBER = 15
_PRINTABLE = re.compile(r"[\x20-\x7e]+")
_DECIMAL = re.compile(r"[0-9]{1,15}")


def text(value: object, limit: int = LONGEST_TEXT) -> str | None:
    """Return *value* as printable ASCII text of 1 to *limit* characters, else None."""
    if isinstance(value, bytes | bytearray):
        if len(value) > limit:
            return None
        value = value.decode("latin-1")
    if isinstance(value, str) and len(value) <= limit and _PRINTABLE.fullmatch(value):
        return value
    return None


def number(value: object, low: int = 0, high: int = 10**_LONGEST_NUMBER - 1) -> int | None:
    """Return *value* as a whole number from *low* to *high*, else None.

    Clients disagree about the integer types of header tables, so integers of any width are read as well
    as the ASCII decimals that we write. Booleans are not numbers.
    """
    if isinstance(value, bool):
        return None
    if not isinstance(value, int):
        digits = text(value)
        if digits is None or not _DECIMAL.fullmatch(digits):
            return None
        value = int(digits)
    return value if low <= value <= high else None


def without_ours(headers: Headers | None) -> dict[str, object]:
    """Return a copy of *headers* with nothing of ours in it, so that forwarding forwards no attempt."""
    if not headers:
        return {}
    return {key: value for key, value in headers.items() if not _starts(key, names.HEADER_PREFIX)}


def ours(headers: Headers) -> dict[str, object]:
    """Return what of *headers* is ours."""
    return {key: value for key, value in headers.items() if _starts(key, names.HEADER_PREFIX)}


def snapshot(headers: Headers | None) -> dict[str, object]:
    """Return a copy of *headers* that nobody else can change, tables and arrays in it included."""
    return {
        key: deepcopy(value) if isinstance(value, dict | list) else value
        for key, value in (headers or {}).items()
    }


def for_copy(headers: Headers) -> dict[str, object]:
    """Return a copy of *headers* that is fit to be published again.

    Without ours, and without those that belong to the broker: a copied ``x-death`` makes the broker's
    cycle detection drop the message, and ``CC`` and ``BCC`` would send the copy elsewhere as well.
    """
    return {
        key: value
        for key, value in without_ours(headers).items()
        if key not in names.BROKER_HEADERS and not _starts(key, names.BROKER_HEADER_PREFIXES)
    }


def for_handler(headers: Headers) -> dict[str, object]:
    """Return a copy of *headers* as the handler of a retried message sees them: as if it had come at once."""
    end_to_end = {key: headers[key] for key in names.END_TO_END_HEADERS if key in headers}
    return for_copy(headers) | end_to_end


def _starts(key: object, prefix: str | tuple[str, ...]) -> bool:
    return isinstance(key, str) and key.startswith(prefix)
