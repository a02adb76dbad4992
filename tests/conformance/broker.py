"""The broker as an outsider sees it: what lies in queues, and messages from strangers."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import pika
from opentelemetry.instrumentation.utils import suppress_instrumentation
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

from conformance.clients.pika_blocking import neutral
from conformance.protocol import PATIENCE, Client, Properties, idle, until
from conformance.wire import Anything
from otel_waybill import Policy, names
from otel_waybill.clients.shared.topology import request
from otel_waybill.core.topology import plan

PARKED = ".parked"
TRACE_HEADERS = frozenset({"traceparent", "tracestate", "baggage"})


@dataclass(frozen=True, slots=True)
class Taken:
    """One message, taken out of its queue by hand."""

    body: bytes
    exchange: str
    routing_key: str
    properties: Properties

    @property
    def headers(self) -> Mapping[str, object]:
        """Its headers, without those that the broker adds."""
        headers = self.properties.headers or {}
        return {name: value for name, value in headers.items() if not name.startswith("x-")}


class Broker:
    """A connection of nobody: silent, and without a policy."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).hostname or "localhost"
        self.port = urlsplit(url).port or 5672
        self.user = urlsplit(url).username or "guest"
        self._url = url
        self._connection, self._channel = self._connected()

    def declare(self, queue: str, **arguments: object) -> None:
        """Declare a durable quorum queue, or another kind."""
        self._channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum", **arguments})

    def private_queue(self) -> str:
        """Declare a queue that nobody else may use, and return its name."""
        name: str = self._channel.queue_declare("", exclusive=True).method.queue
        return name

    def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Bind *queue* to a topic exchange, which vanishes with its last binding."""
        self._channel.exchange_declare(exchange, "topic", auto_delete=True)
        self._channel.queue_bind(queue, exchange, routing_key)

    def bind_return(self, queue: str) -> None:
        """Bind *queue* to where retries come from, as a policy does."""
        unrouted = {"alternate-exchange": names.UNROUTED}
        self._channel.exchange_declare(names.RETURN_EXCHANGE, "direct", durable=True, arguments=unrouted)
        self._channel.queue_bind(queue, names.RETURN_EXCHANGE, queue)

    def prepare(self, queue: str, policy: Policy) -> None:
        """Declare what *policy* needs on *queue*, as an administrator does."""
        for step in plan(queue, replace(policy.terms.spec, topology="declare")).steps:
            request(self._channel, step)

    def exists(self, queue: str) -> bool:
        """Return whether there is such a queue."""
        return self._count(queue) is not None

    def divert_parking(self, queue: str, elsewhere: str) -> None:
        """Have what *queue* parks refused, by a queue *elsewhere* that is full."""
        full = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
        self._channel.queue_declare(elsewhere, durable=True, arguments=full)
        # Filled past its limit before anything else comes: a quorum queue takes one or two more.
        for _ in range(4):
            self.publish(elsewhere)
        self._channel.queue_bind(elsewhere, names.PARKING_EXCHANGE, queue)
        self._channel.queue_unbind(queue + PARKED, names.PARKING_EXCHANGE, queue)

    def restore_parking(self, queue: str, elsewhere: str) -> None:
        """Undo `divert_parking`."""
        self._channel.queue_bind(queue + PARKED, names.PARKING_EXCHANGE, queue)
        self._channel.queue_delete(elsewhere)

    def delete(self, queue: str) -> None:
        """Delete *queue* and where its messages are parked."""
        for name in (queue, queue + PARKED):
            self._channel.queue_delete(name)

    def publish(
        self, routing_key: str, body: bytes = b"", exchange: str = "", properties: Properties | None = None
    ) -> None:
        """Publish what some program in some language might have published."""
        with suppress_instrumentation():
            self._channel.basic_publish(exchange, routing_key, body, Anything(properties or Properties()))

    def left(self, *queues: str) -> list[int]:
        """Return the number of messages in each of *queues*, once they stand still; 0 when there is none.

        What a consumer leaves comes back a moment after its connection is gone.
        """
        counts = [[self._ready(queue) for queue in queues]]
        while len(counts) < 3 or any(count != counts[-1] for count in counts[-3:]):
            time.sleep(0.02)
            counts.append([self._ready(queue) for queue in queues])
        return counts[-1]

    def take(self, queue: str) -> list[Taken]:
        """Take all messages out of *queue*; none when there is no such queue."""
        taken: list[Taken] = []
        while True:
            try:
                with suppress_instrumentation():
                    method, properties, body = self._channel.basic_get(queue, auto_ack=True)
            except ChannelClosedByBroker:
                self._channel = self._connection.channel()
                return taken
            except ConnectionClosedByBroker:
                # RabbitMQ 3.10 does that to whoever looks into a quorum queue while it is being declared.
                self._connection, self._channel = self._connected()
                return taken
            if method is None or properties is None or body is None:
                return taken
            taken.append(Taken(body, method.exchange, method.routing_key, neutral(properties)))

    def take_back(self, queue: str, count: int) -> list[Taken]:
        """Take the *count* messages that return to *queue* a moment after their consumer is gone."""
        limit = time.monotonic() + PATIENCE
        taken: list[Taken] = []
        while len(taken) < count:
            assert time.monotonic() < limit, f"{len(taken)} of {count} messages came back"
            taken += self.take(queue)
        return taken

    def wear(self, queue: str, times: int) -> None:
        """Take the one message of *queue* and put it back, as consumers do that crash."""
        limit = time.monotonic() + PATIENCE
        for _ in range(times):
            method = None
            with suppress_instrumentation():
                while method is None:
                    assert time.monotonic() < limit, "it is not there any more"
                    method, _, _ = self._channel.basic_get(queue)
                self._channel.basic_reject(method.delivery_tag, requeue=True)

    def wait(self, queue: str) -> Taken:
        """Take one message out of *queue*, which is on its way there."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            with suppress_instrumentation():
                method, properties, body = self._channel.basic_get(queue, auto_ack=True)
            if method is not None and properties is not None and body is not None:
                return Taken(body, method.exchange, method.routing_key, neutral(properties))
            time.sleep(0.02)
        msg = f"no message came to {queue}"
        raise AssertionError(msg)

    def kill(self, queue: str) -> None:
        """Take the one message of *queue* and lose the connection, as a consumer that dies with it."""
        connection, channel = self._connected()
        method = None
        with suppress_instrumentation():
            while method is None:
                method, _, _ = channel.basic_get(queue)
        connection.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _connected(self) -> tuple[pika.BlockingConnection, BlockingChannel]:
        connection = pika.BlockingConnection(pika.URLParameters(self._url))
        return connection, connection.channel()

    def _ready(self, queue: str) -> int:
        return self._count(queue) or 0

    def _count(self, queue: str) -> int | None:
        try:
            count: int = self._channel.queue_declare(queue, passive=True).method.message_count
        except ChannelClosedByBroker:
            self._channel = self._connection.channel()
            return None
        return count


def foreign(headers: Mapping[str, object]) -> dict[str, object]:
    """Return *headers* without those of a trace."""
    return {name: value for name, value in headers.items() if name not in TRACE_HEADERS}


def wait_for(client: Client, broker: Broker, queue: str, count: int = 1) -> list[Taken]:
    """Let *client* work until so many messages are in *queue*, and take them.

    Then let it work a little longer: what follows a confirm, or must not follow, is still to come.
    """
    taken: list[Taken] = []

    def enough() -> bool:
        taken.extend(broker.take(queue))
        return len(taken) >= count

    until(client, enough)
    idle(client)
    return taken


def wait_for_parked(client: Client, broker: Broker, queue: str, count: int = 1) -> list[Taken]:
    """Let *client* work until so many messages of *queue* are parked, and take them."""
    return wait_for(client, broker, queue + PARKED, count)
