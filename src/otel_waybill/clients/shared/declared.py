"""What the program said of a queue when it declared it, because AMQP has no way to ask later."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from otel_waybill.clients.shared.ledger import Owned

_MOST: Final = 10_000
"""Queues remembered for each connection; beyond that the oldest is forgotten."""


class Kind(NamedTuple):
    """The kind of a queue.

    Attributes:
        exclusive: whether it vanishes with its connection.
        stream: whether it is a stream.
    """

    exclusive: bool = False
    stream: bool = False


_ORDINARY: Final = Kind()
_kinds: Owned[dict[str, Kind]] = Owned("kinds", dict)


def note(connection: object, queue: str, *, exclusive: bool, arguments: Mapping[str, object] | None) -> None:
    """Remember what the program declares *queue* to be, on *connection*."""
    kinds = _kinds.of(connection)
    kinds.pop(queue, None)
    kind = Kind(exclusive, (arguments or {}).get("x-queue-type") == "stream")
    if kind != _ORDINARY:
        kinds[queue] = kind
    if len(kinds) > _MOST:
        del kinds[next(iter(kinds))]


def kind_of(connection: object, queue: str) -> Kind:
    """Return what *queue* was declared to be on *connection*; an ordinary queue as far as anybody said."""
    return (_kinds.seen(connection) or {}).get(queue, _ORDINARY)
