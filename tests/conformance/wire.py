"""Properties of every type of AMQP, of which no client writes all; after its specification, 4.2.5.

https://www.rabbitmq.com/docs/amqp-0-9-1-errata, section 3, says which letters RabbitMQ reads.
"""

import struct
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from pamqp.commands import Basic
from pika.spec import BasicProperties

from conformance.clients.pika_blocking import pika_properties
from conformance.protocol import Properties


class Anything(BasicProperties):
    """What pika sends as the properties of a message, with any headers.

    Bytes are sent as text, which may then be no UTF-8, and bytearrays as the byte array that they are.
    """

    def __init__(self, properties: Properties) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # pika leaves it without annotations
        own = pika_properties(properties)
        self._raw = _Raw(
            content_type=own.content_type,
            content_encoding=own.content_encoding,
            headers=own.headers,
            priority=own.priority,
            correlation_id=own.correlation_id,
            reply_to=own.reply_to,
            expiration=own.expiration,
            message_id=own.message_id,
            message_type=own.type,
            user_id=own.user_id,
            app_id=own.app_id,
        )

    def encode(self) -> list[bytes]:
        """Return them as they go over the wire."""
        return [self._raw.marshal()]


class _Raw(Basic.Properties):
    def encode_property(self, name: str, value: Any) -> bytes:  # noqa: ANN401 - as pamqp has it
        return _table(value) if name == "headers" else super().encode_property(name, value)


def _table(fields: Mapping[str, object]) -> bytes:
    return _long(b"".join(_short(name.encode()) + _field(value) for name, value in fields.items()))


def _field(value: object) -> bytes:  # noqa: C901, PLR0911 - one case for each type
    match value:
        case None:
            return b"V"
        case bool():
            return struct.pack(">c?", b"t", value)
        case int():
            return struct.pack(">cq", b"l", value)
        case float():
            return struct.pack(">cd", b"d", value)
        case Decimal():
            exponent = int(value.as_tuple().exponent)
            return struct.pack(">cBi", b"D", -exponent, int(value.scaleb(-exponent)))
        case datetime():
            return struct.pack(">cQ", b"T", int(value.timestamp()))
        case str():
            return b"S" + _long(value.encode())
        case bytes():
            return b"S" + _long(value)
        case bytearray():
            return b"x" + _long(value)
        case list():
            return b"A" + _long(b"".join(map(_field, value)))
        case dict():
            return b"F" + _table(value)
    msg = f"AMQP has no type for {value!r}"
    raise TypeError(msg)


def _short(data: bytes) -> bytes:
    return struct.pack(">B", len(data)) + data


def _long(data: bytes | bytearray) -> bytes:
    return struct.pack(">I", len(data)) + data
