"""The queues of one run: declared before the services start, read and removed at the end."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import pika
import pika.exceptions

NAMES: Final = ("orders", "payments", "receipts")


@dataclass(frozen=True, slots=True)
class Parked:
    """A message that was found in a parked queue."""

    order: str
    queue: str
    reason: str | None


class Queues:
    """The queues of run *run*, on a connection of the conductor's own."""

    def __init__(self, url: str, run: str) -> None:
        self._run = run
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()

    def __enter__(self) -> Self:
        for name in NAMES:
            self._channel.queue_declare(self.name(name), durable=True, arguments={"x-queue-type": "quorum"})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for name in NAMES:
                # Deleting what does not exist is no error.
                self._channel.queue_delete(self.name(name))
                self._channel.queue_delete(self.parked_name(name))
            self._connection.close()
        except pika.exceptions.AMQPError:
            if kind is None:
                raise

    def name(self, name: str) -> str:
        """Return the full name of a queue."""
        return f"demo.{name}.{self._run}"

    def parked_name(self, name: str) -> str:
        """Return the full name of the queue for what was given up on."""
        return self.name(name) + ".parked"

    def breathe(self, seconds: float) -> None:
        """Wait on the connection, so that its heartbeats go on."""
        self._connection.sleep(seconds)

    def consumers(self, name: str) -> int:
        """Return how many consumers are connected."""
        return int(self._channel.queue_declare(self.name(name), passive=True).method.consumer_count)

    def ready(self, name: str) -> int:
        """Return how many messages nobody has been given yet."""
        return int(self._channel.queue_declare(self.name(name), passive=True).method.message_count)

    def parked_count(self, name: str) -> int:
        """Return how many messages are parked."""
        return int(self._channel.queue_declare(self.parked_name(name), passive=True).method.message_count)

    def take_parked(self) -> Iterator[Parked]:
        """Take every message out of the parked queues of this run."""
        for name in NAMES:
            while True:
                method, properties, body = self._channel.basic_get(self.parked_name(name), auto_ack=True)
                if method is None or properties is None or body is None:
                    break
                headers = properties.headers or {}
                yield Parked(json.loads(body)["id"], name, headers.get("waybill-reason"))
