"""A consumer on pika that wraps its handler, and that connects again when it has to."""

import contextlib
import time

import pika
from opentelemetry.sdk.trace import TracerProvider
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from pika.spec import Basic, BasicProperties

import otel_waybill as waybill
from crash.programs.work import Orders


def main(orders: Orders) -> None:
    """Consume until killed."""
    waybill.instrument(tracer_provider=TracerProvider())
    parameters = pika.URLParameters(orders.url)
    parameters.socket_timeout, parameters.stack_timeout = 2, 4

    def handle(
        _channel: BlockingChannel, _method: Basic.Deliver, _properties: BasicProperties, body: bytes
    ) -> None:
        orders.begin(body)
        time.sleep(0.0005)
        orders.end(body)

    while True:
        with contextlib.suppress(AMQPError), pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            channel.basic_consume(orders.queue, orders.policy.wrap(handle))
            channel.start_consuming()
        time.sleep(0.1)


if __name__ == "__main__":
    main(Orders.given())
