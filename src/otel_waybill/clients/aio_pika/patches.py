"""Which of aio-pika's methods are replaced: base classes only, which the robust ones call."""

from aio_pika.channel import Channel
from aio_pika.exchange import Exchange
from aio_pika.message import IncomingMessage
from aio_pika.queue import Queue

from otel_waybill.clients.aio_pika import deliver, publish, settle
from otel_waybill.patching import PatchSet

patches = (
    PatchSet()
    .add(Exchange, "publish", publish.publish)
    .add(Queue, "consume", deliver.consume)
    .add(Channel, "set_qos", deliver.set_qos)
    .add(IncomingMessage, "ack", settle.ack)
    .add(IncomingMessage, "nack", settle.nack)
    .add(IncomingMessage, "reject", settle.reject)
)
