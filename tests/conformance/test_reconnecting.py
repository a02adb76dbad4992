"""Connections that come back: consumers stay traced, once, and under their policy."""

import otel_waybill as waybill
from conformance.broker import Broker
from conformance.clients.registry import clients_that
from conformance.protocol import Client, Received, idle, until
from conformance.telemetry import Telemetry
from conformance.ways import Way
from otel_waybill import Backoff, Policy, Retry

reconnecting = clients_that(lambda features: features.reconnects)


@reconnecting
def test_consumer_that_came_back_is_traced_once(
    client: Client, traced: Telemetry, queue: str, broker: Broker
) -> None:
    """After a reconnect each message has one process span, as before."""

    async def handle(message: Received) -> None:
        await message.ack()

    client.consume(queue, client.native(handle))
    broker.publish(queue)
    until(client, lambda: len(traced.spans()) == 2)
    client.cut()
    broker.publish(queue)
    until(client, lambda: len(traced.spans()) >= 4)
    idle(client)

    assert 2 == len(traced.processes()) == len(traced.spans("ack")) == len(traced.traces())


@reconnecting
def test_policy_survives_a_reconnect(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """After a reconnect failed messages are retried as before, through the new connection."""
    seen = []

    async def handle(message: Received) -> None:
        attempt = waybill.current().attempt
        seen.append((message.body, attempt))
        if attempt == 1:
            msg = "not yet"
            raise RuntimeError(msg)

    retry = Retry(backoff=Backoff(first=0.25, ceiling=0.25, jitter="none"))
    way.consume(queue, handle, Policy(settle="return", retry=retry))
    broker.publish(queue, b"before")
    until(client, lambda: len(seen) == 2)
    idle(client)
    client.cut()
    broker.publish(queue, b"after")
    until(client, lambda: len(seen) == 4)
    idle(client)

    assert [(b"before", 1), (b"before", 2), (b"after", 1), (b"after", 2)] == seen
