"""Sees to it that the broker has what a policy needs, before consuming starts."""

from weakref import WeakKeyDictionary

from pika.adapters.blocking_connection import BlockingConnection
from pika.exceptions import ChannelClosedByBroker

from otel_waybill.clients.shared.topology import Key, key, request
from otel_waybill.core.declarations import refusal
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import plan

_prepared: WeakKeyDictionary[BlockingConnection, set[Key]] = WeakKeyDictionary()


def prepare(connection: BlockingConnection, queue: str, spec: PolicySpec) -> None:
    """Declare or check what *spec* needs on *queue*, as it says, once for each connection.

    On a channel of its own, because a refusal closes the channel.

    Raises:
        TopologyMismatch: the broker has one of them already, with other arguments.
        TopologyMissing: it lacks one that the policy does not declare.
        TopologyRefused: the user may not declare one.
        InvalidPolicy: no such policy can stand on *queue*.
        AMQPError: the connection failed.
    """
    prepared = _prepared.setdefault(connection, set())
    wanted = key(queue, spec)
    if wanted in prepared:
        return
    steps = plan(queue, spec).steps
    if steps:
        channel = connection.channel()
        for step in steps:
            try:
                request(channel, step)
            except ChannelClosedByBroker as error:
                ours = refusal(step, error.reply_code, error.reply_text)
                if ours is None:
                    raise
                raise ours from error
        channel.close()
    prepared.add(wanted)
