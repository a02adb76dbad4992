"""Which of aio-pika's methods are replaced: base classes only, which the robust ones call."""

from aio_pika.channel import Channel
from aio_pika.exchange import Exchange
from aio_pika.message import IncomingMessage, ProcessContext
from aio_pika.queue import Queue, QueueIterator
from aio_pika.robust_queue import RobustQueueIterator

from otel_waybill.clients.aio_pika import deliver, publish, pull, settle, standby
from otel_waybill.patching import PatchSet

patches = (
    PatchSet()
    .add(Exchange, "publish", publish.publish)
    .add(Queue, "declare", deliver.declare)
    .add(Queue, "consume", deliver.consume)
    .add(Queue, "cancel", standby.cancel)
    .add(Channel, "set_qos", deliver.set_qos)
    .add(Queue, "get", pull.get)
    .add(QueueIterator, "__anext__", pull.anext_)
    .add(QueueIterator, "__aenter__", pull.aenter)
    .add(QueueIterator, "__aexit__", pull.aexit)
    .add(QueueIterator, "close", pull.close)
    .add(ProcessContext, "__aenter__", pull.process_enter)
    .add(ProcessContext, "__aexit__", pull.process_exit)
    .add(IncomingMessage, "ack", settle.ack)
    .add(IncomingMessage, "nack", settle.nack)
    .add(IncomingMessage, "reject", settle.reject)
)

# Since 9.6 it has a full copy of the method; before, it inherited the one above.
if "__anext__" in vars(RobustQueueIterator):
    patches.add(RobustQueueIterator, "__anext__", pull.anext_)
