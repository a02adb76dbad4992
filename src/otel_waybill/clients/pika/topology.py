"""Declares at the broker what a policy needs, before consuming starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from pika.adapters.blocking_connection import BlockingConnection
from pika.exceptions import ChannelClosedByBroker

from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import PRECONDITION_FAILED, plan, rungs
from otel_waybill.errors import TopologyMismatch

_declared: WeakKeyDictionary[BlockingConnection, set[tuple[str, tuple[int, ...]]]] = WeakKeyDictionary()


def declare(connection: BlockingConnection, queue: str, spec: PolicySpec) -> None:
    """Declare what *spec* needs on *queue*, once for each connection.

    On a channel of its own, because a refused declaration closes the channel.

    Raises:
        TopologyMismatch: the broker has one of them already, with other arguments.
        AMQPError: the connection failed.
    """
    declared = _declared.setdefault(connection, set())
    if (queue, rungs(spec)) in declared:
        return
    topology = plan(queue, spec)
    channel = connection.channel()
    for exchange in topology.exchanges:
        with _mismatch(f"exchange {exchange.name!r}"):
            channel.exchange_declare(
                exchange.name, exchange.type, durable=True, arguments=dict(exchange.arguments)
            )
    for each in topology.queues:
        with _mismatch(f"queue {each.name!r}"):
            channel.queue_declare(each.name, durable=True, arguments=dict(each.arguments))
    for binding in topology.bindings:
        with _mismatch(f"the binding of queue {binding.queue!r} to exchange {binding.exchange!r}"):
            channel.queue_bind(binding.queue, binding.exchange, binding.routing_key)
    channel.close()
    declared.add((queue, rungs(spec)))


@contextmanager
def _mismatch(entity: str) -> Iterator[None]:
    try:
        yield
    except ChannelClosedByBroker as error:
        if error.reply_code != PRECONDITION_FAILED:
            raise  # not allowed, or not found: the broker's own words say it best
        raise TopologyMismatch(entity, error.reply_text) from error
