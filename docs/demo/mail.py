"""The mail room (pika): sends receipts, the end of every order's journey."""

import json
import signal

import pika
from common import URL, note, queue
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic

import otel_waybill as waybill

policy = waybill.Policy(retry=waybill.Retry(attempts=3))


def handle(
    _channel: BlockingChannel, _method: Basic.Deliver, _properties: pika.BasicProperties, body: bytes
) -> None:
    """Send one receipt."""
    note("mail", "receipt", order=json.loads(body)["id"])


def main() -> None:
    """Consume until SIGTERM."""
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.basic_consume(queue("receipts"), policy.wrap(handle))
    signal.signal(signal.SIGTERM, lambda *_: connection.add_callback_threadsafe(channel.stop_consuming))
    note("mail", "ready")
    channel.start_consuming()
    connection.close()


main()
