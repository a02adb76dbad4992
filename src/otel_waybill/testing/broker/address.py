"""Broker addresses: shown without their password, and probed for somebody who speaks AMQP."""

import re
import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

PATIENCE = 10.0
"""Seconds that a broker named by the user gets to answer; one just started beside us needs them."""

_GREETING = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = b"\x01"
_PORTS = {"amqp": 5672, "amqps": 5671}


def masked(url: str) -> str:
    """Return *url* fit for logs: stars for the password, and no query, which may name keys.

    Holds for malformed addresses too, whose password has an ``@`` or a slash in it.
    """
    return re.sub(r"://([^:@/]*):.*@", r"://\1:***@", url, flags=re.DOTALL).partition("?")[0]


def wait_until_served(url: str) -> None:
    """Return as soon as a broker answers at *url*; over TLS, as soon as somebody accepts.

    Raises:
        OSError: nobody does so within `PATIENCE`; the last reason.
        ValueError: *url* is no address of a broker.
    """
    scheme, host, port = _split(url)
    until = time.monotonic() + PATIENCE
    while True:
        try:
            greet(host, port, speak=scheme == "amqp")
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


def greet(host: str, port: int, *, speak: bool = True, timeout: float = 2.0) -> bytes:
    """Return the first frame of the broker at *host* and *port*, which says what it is.

    Args:
        host: name or address.
        port: of TCP.
        speak: whether to send a greeting and wait for the answer, or to connect only.
        timeout: seconds for each step.

    Raises:
        OSError: nobody answers, or not as a broker does.
    """
    with socket.create_connection((host, port), timeout) as connection, connection.makefile("rb") as stream:
        if not speak:
            return b""
        connection.sendall(_GREETING)
        head = stream.read(7)
        if not head.startswith(_METHOD_FRAME):
            msg = f"what answers on port {port} is not an AMQP 0-9-1 broker"
            raise ConnectionError(msg)
        return head + stream.read(int.from_bytes(head[3:]))


def _split(url: str) -> tuple[str, str, int]:
    # The messages of the standard library quote parts of the address, which may be parts of a password.
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in _PORTS and parts.hostname:
            return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]
    msg = "not of the form amqp://user:password@host:port/vhost"
    raise ValueError(msg)
