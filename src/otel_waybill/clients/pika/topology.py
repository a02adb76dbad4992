"""Declares at the broker what a policy needs, on a channel beside the consumer's."""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from pika.adapters.blocking_connection import BlockingConnection
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker

from otel_waybill.clients.pika.loop import open_beside
from otel_waybill.clients.pika.read import AnyChannel, underlying
from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import PRECONDITION_FAILED, Topology, plan, rungs
from otel_waybill.errors import TopologyMismatch


class Declaration:
    """Everything that one policy needs on one queue, declared one by one; nothing here waits but `wait`.

    On a channel of its own, because a refused declaration closes the channel.
    """

    def __init__(self, surface: AnyChannel, topology: Topology) -> None:
        self.complete = False
        self.error: Exception | None = None
        self._entity = ""
        self._steps = _steps(topology)
        self._successors: deque[Callable[[], None]] = deque()
        self._mourners: list[Callable[[Exception], None]] = []
        self._channel = open_beside(surface, self._next)
        self._channel.add_on_close_callback(self._closed)

    def then(self, successor: Callable[[], None]) -> None:
        """Call *successor* once everything is declared; never, if it cannot be."""
        if self.complete:
            successor()
        else:
            self._successors.append(successor)

    def otherwise(self, mourner: Callable[[Exception], None]) -> None:
        """Call *mourner* with the reason if it turns out that not everything can be declared."""
        if self.error is not None:
            mourner(self.error)
        elif not self.complete:
            self._mourners.append(mourner)

    def wait(self, connection: BlockingConnection) -> None:
        """Return when everything is declared.

        Raises:
            TopologyMismatch: the broker has one of them already, with other arguments.
            AMQPError: the broker refused, or the connection failed.
        """
        if not self._channel.is_closed:
            # BlockingConnection.close() cannot bear channels that end while it is at work on others.
            connection._flush_output(lambda: self._channel.is_closed)
        if self.error is not None:
            raise self.error

    def _next(self, _: object) -> None:
        try:
            self._entity, declare = next(self._steps)
        except StopIteration:
            self.complete = True
            self._channel.close()
            self._succeed()
        else:
            declare(self._channel, callback=self._next)

    def _succeed(self) -> None:
        try:
            while self._successors:
                self._successors.popleft()()
        finally:
            if self._successors:  # a handler was interrupted, which is nothing to the deliveries after it
                self._channel.connection._adapter_call_later(0, self._succeed)

    def _closed(self, _: Channel, reason: Exception) -> None:
        if self.complete:
            return
        self.error = reason
        if isinstance(reason, ChannelClosedByBroker) and reason.reply_code == PRECONDITION_FAILED:
            self.error = TopologyMismatch(self._entity, reason.reply_text)
            self.error.__cause__ = reason
        # What else the broker may say, not allowed or not found, its own words say best.
        mourners, self._mourners = self._mourners, []
        for mourner in mourners:
            mourner(self.error)


_declarations: "Owned[dict[tuple[str, tuple[int, ...]], Declaration]]" = Owned("declarations", dict)


def declare(surface: AnyChannel, queue: str, spec: PolicySpec) -> Declaration:
    """Declare what *spec* needs on *queue*, once for each connection, unless it failed there."""
    known = _declarations.of(underlying(surface).connection)
    key = queue, rungs(spec)
    declaration = known.get(key)
    if declaration is None or declaration.error is not None:
        declaration = known[key] = Declaration(surface, plan(queue, spec))
    return declaration


def _steps(topology: Topology) -> Iterator[tuple[str, Callable[..., None]]]:
    """Yield what is declared, in words, and the call that does it on a channel."""
    for exchange in topology.exchanges:
        yield (
            f"exchange {exchange.name!r}",
            partial(
                Channel.exchange_declare,
                exchange=exchange.name,
                exchange_type=exchange.type,
                durable=True,
                arguments=dict(exchange.arguments),
            ),
        )
    for queue in topology.queues:
        yield (
            f"queue {queue.name!r}",
            partial(Channel.queue_declare, queue=queue.name, durable=True, arguments=dict(queue.arguments)),
        )
    for binding in topology.bindings:
        yield (
            f"the binding of queue {binding.queue!r} to exchange {binding.exchange!r}",
            partial(
                Channel.queue_bind,
                queue=binding.queue,
                exchange=binding.exchange,
                routing_key=binding.routing_key,
            ),
        )
