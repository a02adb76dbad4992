"""A consumer that is killed loses nothing: every message is handled, or still there, or parked."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.broker import PARKED, Broker

PIKA = """
import os, sys, time
import pika
import otel_waybill as waybill

url, queue, journal = sys.argv[1:]
file = os.open(journal, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
waybill.instrument()
policy = waybill.Policy(
    retry=waybill.Retry(attempts=9, backoff=waybill.Backoff(first=0.25, ceiling=0.25, jitter="none"))
)

def handle(channel, method, properties, body):
    os.write(file, b"begun " + body + b"\\n")
    time.sleep(0.02)
    if waybill.current().attempt < 3 and int(body) % 2:
        os.write(file, b"failed " + body + b"\\n")
        raise RuntimeError("not yet")
    os.write(file, b"handled " + body + b"\\n")

channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.basic_consume(queue, policy.wrap(handle))
channel.start_consuming()
"""

AIO_PIKA = """
import asyncio, os, sys
import aio_pika
import otel_waybill as waybill

url, queue, journal = sys.argv[1:]
file = os.open(journal, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
policy = waybill.Policy(
    retry=waybill.Retry(attempts=9, backoff=waybill.Backoff(first=0.25, ceiling=0.25, jitter="none"))
)
waybill.instrument(policies={queue: policy})

async def handle(message):
    async with message.process():
        os.write(file, b"begun " + message.body + b"\\n")
        await asyncio.sleep(0.02)
        if waybill.current().attempt < 3 and int(message.body) % 2:
            os.write(file, b"failed " + message.body + b"\\n")
            raise RuntimeError("not yet")
        os.write(file, b"handled " + message.body + b"\\n")

async def main():
    connection = await aio_pika.connect_robust(url)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=4)
    await (await channel.get_queue(queue)).consume(handle)
    await asyncio.Future()

asyncio.run(main())
"""

MESSAGES = {str(n) for n in range(40)}


class Consumer:
    """A program that is started, and killed, as often as it takes."""

    def __init__(self, source: str, url: str, queue: str, journal: Path) -> None:
        self._command = [sys.executable, "-c", source, url, queue, str(journal)]
        self._journal = journal
        journal.touch()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it inside the block, and kill it, without a chance to do anything, at its end."""
        with subprocess.Popen(self._command) as process:  # noqa: S603 - our own program
            try:
                yield
                assert process.poll() is None, "the program ended by itself"
            finally:
                process.send_signal(signal.SIGKILL)

    def noted(self, fact: str) -> list[str]:
        """Return the messages of which it has noted *fact*."""
        lines = (line.split() for line in self._journal.read_text().splitlines())
        return [message for known, message in lines if known == fact]

    def wait(self, fact: str, count: int) -> None:
        """Return as soon as it has noted *fact* of so many messages."""
        limit = time.monotonic() + 30
        while len(self.noted(fact)) < count:
            assert time.monotonic() < limit, self._journal.read_text()
            time.sleep(0.002)


@pytest.fixture
def broker(amqp_url: str) -> Iterator[Broker]:
    """The broker, for an outsider."""
    broker = Broker(amqp_url)
    yield broker
    broker.close()


@pytest.mark.parametrize("source", [PIKA, AIO_PIKA], ids=["pika", "aio-pika"])
@pytest.mark.parametrize("moment", ["begun", "failed"], ids=["in mid-handler", "in mid-retry"])
def test_killed_consumer_loses_nothing(  # noqa: PLR0913, PLR0917 - each is a fixture
    amqp_url: str, broker: Broker, unique: Callable[[str], str], tmp_path: Path, source: str, moment: str
) -> None:
    """Killed again and again, while it handles or while it retries, it handles every message in the end."""
    queue = unique("crash")
    broker.declare(queue)
    consumer = Consumer(source, amqp_url, queue, tmp_path / "journal")
    for message in MESSAGES:
        broker.publish(queue, message.encode())

    for _ in range(3):
        before = len(consumer.noted(moment))
        with consumer.running():
            consumer.wait(moment, before + 3)
    with consumer.running():
        limit = time.monotonic() + 30
        while set(consumer.noted("handled")) != MESSAGES and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.3)  # for the last ack; a later one would only make a duplicate

    assert set(consumer.noted("handled")) == MESSAGES
    assert [0, 0] == broker.left(queue, queue + PARKED)
    broker.delete(queue)
