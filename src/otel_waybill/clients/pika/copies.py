"""Copies of deliveries, published on a confirm channel of our own beside the consumer's.

Nothing here waits: the channel opens, and a copy's fate arrives, as callbacks of the connection's I/O, or a
time limit decides. A copy whose confirm is late is not sent again while it may still arrive: under a
broker's alarm each new try would become one more duplicate when the alarm ends.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pika.channel import Channel
from pika.connection import Connection
from pika.spec import Basic, BasicProperties

from otel_waybill import names
from otel_waybill.clients.pika.loop import open_beside
from otel_waybill.clients.pika.read import AnyChannel, underlying
from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.core.verdicts import Published
from otel_waybill.patching import passthrough

if TYPE_CHECKING:
    from pika.frame import Method as Frame

Fate = Callable[[Published], None]


class Copy:
    """One copy on its way: `fate` is what became of it, None while that is open."""

    def __init__(self, connection: Connection, key: tuple[object, ...]) -> None:
        self.key = key
        self.fate: Published | None = None
        self._connection = connection
        self._tell: Fate | None = None
        self._timer: object = None

    @property
    def failed(self) -> bool:
        """Whether it is known not to be safe, so that it may be sent again."""
        return self.fate is not None and self.fate.error is not None

    @property
    def safe(self) -> bool:
        """Whether it is confirmed and routed."""
        return self.fate is not None and self.fate.error is None

    def await_fate(self, tell: Fate, timeout: float) -> None:
        """Call *tell* with the fate of the copy, or with a failure after *timeout* seconds without one."""
        if self.fate is not None:
            tell(self.fate)
            return
        self._tell = tell
        late = Published(f"no confirm within {timeout:g} s")
        # The connection's own timers fire inside nested waits too, those of BlockingConnection do not.
        self._timer = self._connection._adapter_call_later(timeout, lambda: self._told(late))

    def resolve(self, fate: Published) -> None:
        """Decide the fate of the copy, once."""
        if self.fate is None:
            self.fate = fate
            self._told(fate)

    def _told(self, fate: Published) -> None:
        tell, self._tell = self._tell, None
        if self._timer is not None:
            self._connection._adapter_remove_timeout(self._timer)
            self._timer = None
        if tell is not None:
            tell(fate)


class Copies:
    """The confirm channel of one connection."""

    def __init__(self, surface: AnyChannel) -> None:
        """Begin to open the channel beside *surface*; the broker's answer comes when it comes."""
        self._sequence = 0
        self._pending: dict[int, Copy] = {}
        self._ready = False
        self._replaced = False
        self._surface = surface
        self._channel = open_beside(surface, self._opened)
        self._channel.add_on_close_callback(self._closed)

    @property
    def alive(self) -> bool:
        """Whether the channel is open, or about to be."""
        return not (self._channel.is_closed or self._channel.is_closing)

    def publish(self, exchange: str, routing_key: str, body: bytes, properties: BasicProperties) -> Copy:
        """Send a copy, mandatory; never waits and never raises."""
        copy = Copy(self._channel.connection, _identity(exchange, routing_key, properties))
        if not self._ready:
            copy.resolve(Published("the channel for copies is not open yet"))
            return copy
        try:
            with passthrough():
                self._channel.basic_publish(exchange, routing_key, body, properties, mandatory=True)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the copy is not proven to be safe
            copy.resolve(Published(f"not sent: {error!r}"))
            return copy
        self._sequence += 1
        self._pending[self._sequence] = copy
        return copy

    def _opened(self, channel: Channel) -> None:
        with passthrough():
            channel.confirm_delivery(self._confirmed)
        channel.add_on_return_callback(self._returned)
        self._ready = True

    def _confirmed(self, frame: "Frame[Basic.Ack | Basic.Nack]") -> None:
        method = frame.method
        tag = method.delivery_tag
        fate = Published() if isinstance(method, Basic.Ack) else Published("refused by the broker (nack)")
        if fate.error is not None:
            self._replace()
        for each in [each for each in self._pending if each == tag or (method.multiple and each < tag)]:
            self._pending.pop(each).resolve(fate)
        if self._replaced and not self._pending and self._channel.is_open:
            self._channel.close()

    def _replace(self) -> None:
        """Have the next copies go over a new channel.

        RabbitMQ refuses on and on what comes on a channel that a quorum queue has once refused: also when
        its limit is gone, or when another node leads it (seen on 3.10).
        """
        connection = self._channel.connection
        if not self._replaced and connection.is_open:
            self._replaced = True
            _copies.put(connection, Copies(self._surface))

    def _returned(
        self, _channel: Channel, method: Basic.Return, properties: BasicProperties, _body: bytes
    ) -> None:
        # The return of a copy comes before its confirm. It carries no sequence number, so it is matched by
        # what it says; copies that say the same go the same way.
        key = _identity(method.exchange, method.routing_key, properties)
        fate = Published(f"returned by the broker: {method.reply_text} ({method.reply_code})")
        for copy in list(self._pending.values()):
            if copy.key == key:
                copy.resolve(fate)

    def _closed(self, _channel: Channel, reason: Exception) -> None:
        self._ready = False
        pending, self._pending = self._pending, {}
        for copy in pending.values():
            copy.resolve(Published(f"the channel was closed: {reason!r}"))


_copies: Owned[Copies | None] = Owned("copies", lambda: None)


def copies(surface: AnyChannel) -> Copies:
    """Return the confirm channel beside *surface*, a new one if its connection has none that lives.

    Raises:
        AMQPError: the connection is closed.
    """
    connection = underlying(surface).connection
    known = _copies.seen(connection)
    if known is None or not known.alive:
        known = Copies(surface)
        _copies.put(connection, known)
    return known


def _identity(exchange: str, routing_key: str, properties: BasicProperties) -> tuple[object, ...]:
    headers = properties.headers or {}
    return exchange, routing_key, headers.get(names.HEADER_ID), headers.get(names.HEADER_ATTEMPT)
