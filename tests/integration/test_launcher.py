"""`opentelemetry-instrument` on programs that know nothing of us, with contrib's packages beside ours."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from conformance.broker import Broker
from integration.launching import finish, start

PUBLISHERS = {
    "pika": """
import os, pika
connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
connection.channel().basic_publish("", os.environ["QUEUE"], b"hello")
connection.close()
""",
    "aio-pika": """
import asyncio, os, aio_pika
async def main():
    async with await aio_pika.connect_robust(os.environ["AMQP_URL"]) as connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), os.environ["QUEUE"])
asyncio.run(main())
""",
}
CONSUMERS = {
    "pika": """
import os, pika
connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
def handle(channel, method, properties, body):
    channel.basic_ack(method.delivery_tag)
    channel.stop_consuming()
channel.basic_consume(os.environ["QUEUE"], handle)
channel.start_consuming()
connection.close()
""",
    "aio-pika": """
import asyncio, os, aio_pika
async def main():
    done = asyncio.Event()
    async def handle(message):
        async with message.process():
            done.set()
    async with await aio_pika.connect_robust(os.environ["AMQP_URL"]) as connection:
        channel = await connection.channel()
        await (await channel.get_queue(os.environ["QUEUE"])).consume(handle)
        await done.wait()
        await asyncio.sleep(0.1)
asyncio.run(main())
""",
}
CONTRIB = "pika,aio-pika"
"""The names of contrib's entry points."""


@pytest.fixture
def queue(amqp_url: str, unique: Callable[[str], str]) -> Iterator[str]:
    """A queue."""
    broker, name = Broker(amqp_url), unique("launcher")
    broker.declare(name)
    yield name
    assert [0] == broker.left(name)
    broker.delete(name)
    broker.close()


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_one_connected_trace_from_publisher_to_consumer(
    amqp_url: str, queue: str, publisher: str, consumer: str
) -> None:
    """Two programs of a few lines make one trace: one publish and one process span for the message."""
    _check(
        launched(PUBLISHERS[publisher], amqp_url, queue)[0], launched(CONSUMERS[consumer], amqp_url, queue)[0]
    )


@pytest.mark.parametrize("client", CONSUMERS)
def test_contrib_can_be_excluded(amqp_url: str, queue: str, client: str) -> None:
    """Excluding contrib's instrumentations leaves ours, and nothing to say."""
    sent, said = launched(PUBLISHERS[client], amqp_url, queue, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=CONTRIB)
    handled, also_said = launched(
        CONSUMERS[client], amqp_url, queue, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=CONTRIB
    )
    _check(sent, handled)
    assert "otel-waybill" not in said + also_said


def test_user_is_told_once_that_contrib_is_switched_off(amqp_url: str, queue: str) -> None:
    """With contrib's package beside ours there is one line that says what happens, and what to do."""
    said = launched(PUBLISHERS["pika"], amqp_url, queue)[1] + launched(CONSUMERS["pika"], amqp_url, queue)[1]

    lines = [line for line in said.splitlines() if "opentelemetry.instrumentation.pika" in line]
    assert 2 == len(lines), "one for each program"
    assert all(line.endswith("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=pika") for line in lines)


@pytest.mark.parametrize("client", CONSUMERS)
def test_ours_can_be_excluded(amqp_url: str, queue: str, client: str) -> None:
    """Ours goes by names of its own, so that one can be switched off without the other."""
    ours = "waybill_pika,waybill_aio_pika"
    spans = []
    for program in (PUBLISHERS[client], CONSUMERS[client]):
        spans += launched(
            program, amqp_url, queue, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=f"{ours},{CONTRIB}"
        )[0]
    assert [] == spans


def launched(source: str, amqp_url: str, queue: str, **environ: str) -> tuple[list[Mapping[str, Any]], str]:
    """Run a program under the launcher; return the spans that it exported, and what it said."""
    return finish(start(source, AMQP_URL=amqp_url, QUEUE=queue, **environ))


def _check(sent: list[Mapping[str, Any]], handled: list[Mapping[str, Any]]) -> None:
    (publish,) = sent
    process, settle = sorted(handled, key=lambda span: str(span["start_time"]))
    assert ["SpanKind.PRODUCER", "SpanKind.CONSUMER", "SpanKind.CLIENT"] == [
        span["kind"] for span in (publish, process, settle)
    ]
    assert 1 == len({span["context"]["trace_id"] for span in (publish, process, settle)})
    assert publish["context"]["span_id"] == process["parent_id"]
    assert process["context"]["span_id"] == settle["parent_id"]
    assert [publish["context"]] == [
        {**link["context"], "trace_state": publish["context"]["trace_state"]} for link in process["links"]
    ]
