"""Programs that know nothing of us, under the launcher and a file of policies."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conformance.broker import Broker
from conformance.protocol import Properties
from integration.launching import finish, start

PROGRAMS = {
    "pika": """
import os, pika
connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
def handle(channel, method, properties, body):
    if body == b"poison":
        raise RuntimeError("it does that every time")
    channel.basic_ack(method.delivery_tag)
    if body == b"stop":
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
            if message.body == b"poison":
                raise RuntimeError("it does that every time")
            if message.body == b"stop":
                done.set()
    async with await aio_pika.connect_robust(os.environ["AMQP_URL"]) as connection:
        channel = await connection.channel()
        await (await channel.get_queue(os.environ["QUEUE"])).consume(handle)
        await done.wait()
        await asyncio.sleep(0.1)
asyncio.run(main())
""",
}
POLICIES = """
[breakers.payments]
minimum_calls = 2
open_for = 0.5

[policies."launched-*"]
breaker = "payments"

[policies."launched-*".retry]
attempts = 2
on = ["OSError", "RuntimeError"]
backoff = { first = 0.25, jitter = "none" }
"""


@pytest.fixture
def broker(amqp_url: str) -> Iterator[Broker]:
    """A connection beside that of the program."""
    broker = Broker(amqp_url)
    yield broker
    broker.close()


@pytest.fixture
def queue(broker: Broker, unique: Callable[[str], str]) -> Iterator[str]:
    """A queue that the file has a policy for."""
    name = unique("launched")
    broker.declare(name)
    yield name
    broker.delete(name)


@pytest.mark.parametrize("client", PROGRAMS)
def test_unmodified_program_gets_deadlines_retries_and_breakers(
    amqp_url: str, broker: Broker, queue: str, client: str, tmp_path: Path
) -> None:
    """What fails is tried again and parked, what is late is parked, and the breaker pauses in between."""
    file = tmp_path / "policies.toml"
    file.write_text(POLICIES)
    broker.publish(queue, b"late", properties=Properties(headers={"waybill-deadline": "1000"}))
    broker.publish(queue, b"poison")
    process = start(PROGRAMS[client], AMQP_URL=amqp_url, QUEUE=queue, OTEL_WAYBILL_POLICIES=str(file))
    reasons: dict[bytes, object] = {}
    while len(reasons) < 2 and process.poll() is None:
        reasons |= {each.body: each.headers["waybill-reason"] for each in broker.take(f"{queue}.parked")}
        time.sleep(0.02)
    broker.publish(queue, b"stop")
    spans, said = finish(process)

    assert {b"late": "deadline", b"poison": "max-attempts"} == reasons, said
    outcomes = [
        span["attributes"]["waybill.outcome"]
        for span in sorted(spans, key=lambda span: str(span["start_time"]))
        if span["kind"] == "SpanKind.CONSUMER"
    ]
    assert ["parked", "retried", "parked", "handled"] == outcomes
    changes = [
        event["attributes"]["waybill.breaker.state"]
        for span in spans
        for event in span["events"]
        if event["name"] == "waybill.breaker"
    ]
    assert {"open", "half-open"} == set(changes)
    assert [0] == broker.left(queue)


@pytest.mark.parametrize("client", PROGRAMS)
def test_wrong_file_is_one_error_before_anything_is_consumed(
    amqp_url: str, broker: Broker, queue: str, client: str, tmp_path: Path
) -> None:
    """The program is told file, key, value and rule, and does not run without what it was promised."""
    file = tmp_path / "policies.toml"
    file.write_text(POLICIES.replace("attempts = 2", "attempts = 0"))
    broker.publish(queue, b"stop")
    process = start(PROGRAMS[client], AMQP_URL=amqp_url, QUEUE=queue, OTEL_WAYBILL_POLICIES=str(file))
    _, said = finish(process, code=1)

    told = f"{file}: policies.'launched-*'.retry: need attempts >= 1, got 0; correct the file and start again"
    assert 1 == said.count(f"otel-waybill: no policies, so nothing can be consumed: {told}"), said
    assert said.rstrip().endswith(f"InvalidPolicyFile: {told}")
    assert [1] == broker.left(queue)
