"""The workshop (pika): accepts orders, engraves what wants engraving, and asks for payment."""

import json
import signal
import time

import pika
from common import URL, note, queue
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic

import otel_waybill as waybill

policy = waybill.Policy(retry=waybill.Retry(attempts=3))


def handle(
    channel: BlockingChannel, _method: Basic.Deliver, properties: pika.BasicProperties, body: bytes
) -> None:
    """Do the work of one order, then pass it on; returning is the acknowledgement."""
    order = json.loads(body)
    time.sleep(order["engraving"])
    persistent = pika.BasicProperties(
        message_id=properties.message_id, delivery_mode=pika.DeliveryMode.Persistent.value
    )
    channel.basic_publish("", queue("payments"), body, persistent, mandatory=True)
    note("orders", "accepted", order=order["id"])


def main() -> None:
    """Consume until SIGTERM."""
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_consume(queue("orders"), policy.wrap(handle))
    # A signal may arrive anywhere in pika's code; the connection calls back where it is safe to stop.
    signal.signal(signal.SIGTERM, lambda *_: connection.add_callback_threadsafe(channel.stop_consuming))
    note("orders", "ready")
    channel.start_consuming()
    connection.close()


main()
