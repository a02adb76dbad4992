"""Retries per second through the ladder: each a run that fails, its copy, the confirm of that, and an ack.

One consumer in a process of its own, traced, with a handler that always raises; the work queue and the ladder
are quorum queues. Its messages go round and round, 250 ms each time, and are so many that one is always
ready: what is counted is how many runs fail between two moments, when copies and acks have kept pace with
them. The broker runs beside it on the same machine.
"""

import argparse
import asyncio
import os
import secrets
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import aio_pika
import pika
from aio_pika.abc import AbstractIncomingMessage
from pamqp.common import Arguments
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic, BasicProperties
from rich.console import Console
from rich.table import Table
from worker import BODY, switch_on

from otel_waybill import Backoff, Policy, Retry
from otel_waybill.core.spec import PolicySpec
from otel_waybill.testing.broker import broker

QUORUM: Arguments = {"x-queue-type": "quorum", "x-expires": 600_000}
MESSAGES = 3000
WARM_UP = 1.0
"""Seconds, in which the first messages come back."""
AIMS = {"pika": 500, "aio-pika": 1000}
PREFETCHES = (None, 100)
"""None: what a policy chooses by itself."""


class Rate(NamedTuple):
    """What one consumer managed: failed runs per second, and CPU microseconds of its process for each."""

    per_second: float
    cpu: float


class Counted(Exception):  # noqa: N818 - what a run is
    """The failure of a run."""


class Counter:
    """Fails run after run, and prints the rate of those between the warm-up and the end."""

    def __init__(self, seconds: float) -> None:
        """Count for *seconds*, from the end of the warm-up."""
        self._from = time.monotonic() + WARM_UP
        self._seconds = seconds
        self._runs = 0
        self._started = self._cpu = 0.0
        self._done = False

    def fail(self) -> None:
        """Count one run.

        Raises:
            Counted: always.
        """
        now = time.monotonic()
        if not self._started and now >= self._from:
            self._started, self._cpu = now, time.process_time()
        elif self._started:
            self._runs += 1
            if now >= self._started + self._seconds and not self._done:
                self._done = True
                cpu = time.process_time() - self._cpu
                print(self._runs / (now - self._started), cpu / self._runs * 1e6, flush=True)
        raise Counted


def policy() -> Policy:
    """Return one whose only rung is the shortest and whose attempts never end."""
    backoff = Backoff(first=0.25, ceiling=0.25, jitter="none")
    return Policy(retry=Retry(attempts=1_000_000, backoff=backoff))


def consume_pika(url: str, prefetch: int | None, seconds: float) -> None:
    """Consume on a BlockingConnection until this process is ended."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    queue = filled(channel)
    if prefetch is not None:
        channel.basic_qos(prefetch_count=prefetch)
    counter = Counter(seconds)

    def handle(
        _: BlockingChannel, _method: Basic.Deliver, _properties: BasicProperties, _body: bytes
    ) -> None:
        counter.fail()

    channel.basic_consume(queue, policy().wrap(handle))
    channel.start_consuming()


async def consume_aio_pika(url: str, prefetch: int | None, seconds: float) -> None:
    """Consume on aio-pika until this process is ended."""
    connection = await aio_pika.connect(url)
    channel = await connection.channel()
    if prefetch is not None:
        await channel.set_qos(prefetch_count=prefetch)
    with pika.BlockingConnection(pika.URLParameters(url)) as filling:
        name = filled(filling.channel())
    queue = await channel.get_queue(name)
    counter = Counter(seconds)

    async def handle(_: AbstractIncomingMessage) -> None:
        counter.fail()

    await queue.consume(policy().wrap(handle))
    await asyncio.Event().wait()


def filled(channel: BlockingChannel) -> str:
    """Return the name of a new queue with all messages in it."""
    queue = f"bench-{secrets.token_hex(4)}"
    channel.queue_declare(queue, durable=True, arguments=QUORUM)
    for number in range(MESSAGES):
        properties = BasicProperties(delivery_mode=2, message_id=str(number), headers={"tenant": "acme"})
        channel.basic_publish("", queue, BODY, properties)
    return queue


def measured(url: str, client: str, prefetch: int | None, seconds: float) -> Rate:
    """Return what a consumer managed, in a process of its own."""
    command = [sys.executable, __file__, "--consume", client, "--seconds", str(seconds)]
    if prefetch is not None:
        command += ["--prefetch", str(prefetch)]
    environment = {**os.environ, "AMQP_URL": url}
    consumer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert consumer.stdout is not None  # it is a pipe
    line = consumer.stdout.readline()
    consumer.kill()
    code = consumer.wait()
    if not line:
        sys.exit(f"the consumer ended early, with exit code {code}")
    per_second, cpu = map(float, line.split())
    return Rate(per_second, cpu)


def table(rates: dict[tuple[str, int | None], list[Rate]]) -> Table:
    """Return the medians of the *rates*."""
    result = Table("client", "prefetch", "retries per second", "aim", "CPU µs per retry")
    for column in result.columns[1:]:
        column.justify = "right"
    for (client, prefetch), each in rates.items():
        per_second = statistics.median(rate.per_second for rate in each)
        cpu = statistics.median(rate.cpu for rate in each)
        chosen = f"{PolicySpec().prefetch_count}, by default" if prefetch is None else str(prefetch)
        result.add_row(client, chosen, f"{per_second:.0f}", f"at least {AIMS[client]}", f"{cpu:.0f}")
    return result


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="Retries per second of one consumer.")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--seconds", type=float, default=4.0, help="per round")
    options.add_argument("--consume", choices=AIMS, help="be the consumer, at AMQP_URL")
    options.add_argument("--prefetch", type=int, help="of the consumer")
    chosen = options.parse_args()
    if chosen.consume is not None:
        switch_on("ours")
        if chosen.consume == "pika":
            consume_pika(os.environ["AMQP_URL"], chosen.prefetch, chosen.seconds)
        else:
            asyncio.run(consume_aio_pika(os.environ["AMQP_URL"], chosen.prefetch, chosen.seconds))
        return
    load = os.getloadavg()[0]
    rates: dict[tuple[str, int | None], list[Rate]] = {}
    with broker() as rabbit:
        for _ in range(chosen.rounds):
            for client in AIMS:
                for prefetch in PREFETCHES:
                    rate = measured(rabbit.url, client, prefetch, chosen.seconds)
                    rates.setdefault((client, prefetch), []).append(rate)
    console = Console()
    console.print(table(rates))
    console.print(f"{os.cpu_count()} cores, for which broker and consumer compete; load before: {load:.1f}")


if __name__ == "__main__":
    main()
