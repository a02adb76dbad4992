"""Which of pika's methods are replaced; the reasons for each place are in the modules that stand in."""

from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel

from otel_waybill.clients.pika import deliver, publish, settle
from otel_waybill.patching import PatchSet

patches = (
    PatchSet()
    .add(BlockingChannel, "basic_publish", publish.basic_publish)
    .add(Channel, "basic_publish", publish.basic_publish)
    .add(BlockingChannel, "basic_consume", deliver.basic_consume)
    .add(Channel, "basic_qos", deliver.basic_qos)
    .add(Channel, "basic_ack", settle.basic_ack)
    .add(Channel, "basic_nack", settle.basic_nack)
    .add(Channel, "basic_reject", settle.basic_reject)
)
