"""An outbox: what a handler has written is sent by another thread later, and is still part of the request."""

import json
import threading
from collections.abc import Callable

import otel_waybill as waybill
from conformance.broker import Broker, wait_for
from conformance.clients import registry
from conformance.protocol import PATIENCE, Client, Received, publish, until
from conformance.telemetry import Telemetry, identity, parent
from otel_waybill import names


def test_relayed_message_is_part_of_the_request(
    client: Client, traced: Telemetry, queues: Callable[[], str], broker: Broker, amqp_url: str
) -> None:
    """One trace, one request id, and a deadline whose time has gone on meanwhile."""
    source, target = queues(), queues()
    rows: list[str] = []

    async def write(message: Received) -> None:
        headers: dict[str, str] = {}
        waybill.inject(headers)
        rows.append(json.dumps({"body": message.body.decode(), "headers": headers}))
        await message.ack()

    def relay() -> None:
        row = json.loads(rows[0])
        sending = registry.ALL[client.name](amqp_url)
        with waybill.extract(row["headers"]):
            publish(sending, target, row["body"].encode())
        assert waybill.Waybill() == waybill.current()
        sending.close()

    client.consume(source, client.native(write))
    with waybill.request(id="123456", deadline=30, retry_limit=9):
        expected = waybill.current().deadline
        publish(client, source, b"ordered")
    until(client, lambda: traced.spans("process"))
    thread = threading.Thread(target=relay)
    thread.start()
    thread.join(PATIENCE)

    (sent,) = wait_for(client, broker, target)
    written = json.loads(rows[0])["headers"]
    assert expected is not None
    assert (b"ordered", "123456", "9", str(round(expected * 1000))) == (
        sent.body,
        sent.headers[names.HEADER_REQUEST_ID],
        sent.headers[names.HEADER_RETRY_LIMIT],
        sent.headers[names.HEADER_DEADLINE],
    )
    assert 0 < int(str(sent.headers[names.HEADER_TIMEOUT])) < int(written[names.HEADER_TIMEOUT]) < 30_000
    (process,), relayed = traced.processes(), traced.publishes()[-1]
    assert identity(process).span_id == parent(relayed)
    assert 1 == len(traced.traces())
