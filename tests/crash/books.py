"""What was published, what became of it, and the one assertion in which every scenario ends."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker
from pika.spec import BasicProperties, Queue

from otel_waybill.core.topology import delay_name, parked_name
from otel_waybill.names import UNROUTED

_MOMENT = 0.1


class Publisher(threading.Thread):
    """Publishes numbered messages, each once, and knows which of them the broker has confirmed."""

    def __init__(  # noqa: PLR0913 - a publisher, each part of it by its name
        self,
        url: str,
        queue: str,
        *,
        count: int,
        rate: float,
        headers: dict[str, str] | None,
        ready: Callable[[], bool],
    ) -> None:
        """Publish *count* messages, at most *rate* a second, while it is *ready* for more."""
        super().__init__(daemon=True)
        self.sent = 0
        self.confirmed: set[int] = set()
        self.times: list[float] = []
        self._url, self._queue, self._count, self._rate, self._ready = url, queue, count, rate, ready
        self._properties = BasicProperties(delivery_mode=2, headers=headers)
        self._channel: BlockingChannel | None = None
        self._enough = threading.Event()

    def run(self) -> None:
        """Publish; what the broker does not confirm is not published again."""
        began = time.monotonic()
        while self.sent < self._count and not self._enough.is_set():
            self._enough.wait(began + self.sent / self._rate - time.monotonic())
            if not self._ready():
                began += _MOMENT
                self._enough.wait(_MOMENT)
                continue
            number, self.sent = self.sent, self.sent + 1
            self.times.append(time.time())
            try:
                self._publish(number)
            except (AMQPError, OSError):
                self._channel = None
                self._enough.wait(_MOMENT)
            else:
                self.confirmed.add(number)
        if self._channel is not None:
            with suppress(AMQPError):
                self._channel.connection.close()

    def stop(self) -> None:
        """Publish no more."""
        self._enough.set()

    def _publish(self, number: int) -> None:
        if self._channel is None:
            parameters = pika.URLParameters(self._url)
            parameters.socket_timeout, parameters.stack_timeout = 2, 4
            self._channel = pika.BlockingConnection(parameters).channel()
            self._channel.confirm_delivery()
        self._channel.basic_publish("", self._queue, str(number).encode(), self._properties, mandatory=True)


@dataclass(slots=True)
class Books:
    """What became of the messages of one queue.

    Attributes:
        url: of the broker.
        queue: which they were published to.
        rungs: milliseconds of the delay queues in which they may wait.
        journal: what the consumer writes.
        begun: how often each run, a message and an attempt, has begun.
        handled: how often each message was.
        parked: how often each message was, those that came back to a deleted queue included.
        first_begun: when the first run of each message began first, in Unix time.
        probes: runs that an open circuit breaker has let through.
        changed: when there was news last.
    """

    url: str
    queue: str
    rungs: tuple[int, ...]
    journal: Path
    begun: Counter[tuple[int, int]] = field(default_factory=Counter)
    handled: Counter[int] = field(default_factory=Counter)
    parked: Counter[int] = field(default_factory=Counter)
    first_begun: dict[int, float] = field(default_factory=dict)
    probes: int = 0
    changed: float = field(default_factory=time.monotonic)
    _read: int = 0
    _news: int = 0
    _channel: BlockingChannel | None = None

    @property
    def done(self) -> AbstractSet[int]:
        """The messages that were handled or parked."""
        return self.handled.keys() | self.parked.keys()

    @property
    def duplicates(self) -> int:
        """How often messages ended again that had ended already."""
        return self.handled.total() + self.parked.total() - len(self.done)

    def update(self) -> None:
        """Read on in the journal and take what is parked."""
        before = self._news
        self._read_journal()
        with suppress(AMQPError, OSError):
            for queue in (parked_name(self.queue), UNROUTED):
                self._take(queue)
        if self._news > before:
            self.changed = time.monotonic()

    def runs(self, message: int) -> dict[int, int]:
        """Return how often each attempt of *message* has begun."""
        return {attempt: count for (each, attempt), count in self.begun.items() if each == message}

    def left(self) -> list[tuple[int, object, dict[int, int]]]:
        """Take what is left in the queue: each message, its headers and the runs that it had."""
        taken = []
        with suppress(AMQPError, OSError):
            while True:
                method, properties, body = self._open().basic_get(self.queue, auto_ack=True)
                if method is None or properties is None or body is None:
                    break
                taken.append((int(body), properties.headers, self.runs(int(body))))
        return taken

    def consumed(self) -> bool:
        """Return whether somebody consumes the queue."""
        with suppress(AMQPError, OSError):
            return bool(self._declared(self.queue).consumer_count)
        return False

    def ready(self) -> int | None:
        """Return the number of messages that wait to be handled or retried; None if the broker is away."""
        with suppress(AMQPError, OSError):
            return self._count(self.queue) + self.delayed()
        return None

    def delayed(self) -> int:
        """Return the number of messages that wait to be retried."""
        return sum(self._count(delay_name(ms)) for ms in self.rungs)

    def _read_journal(self) -> None:
        with self.journal.open("rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            fact, *facts, moment = line.split()
            message, attempt = map(int, facts)
            self._read += len(line)
            self._news += 1
            if fact == b"handled":
                self.handled[message] += 1
                continue
            self.probes += fact == b"probed"
            self.begun[message, attempt] += 1
            if attempt == 1:
                self.first_begun.setdefault(message, float(moment))

    def _take(self, queue: str) -> None:
        while True:
            try:
                method, _, body = self._open().basic_get(queue, auto_ack=True)
            except ChannelClosedByBroker:  # there is none yet
                return
            if method is None or body is None:
                return
            self.parked[int(body)] += 1
            self._news += 1

    def _count(self, queue: str) -> int:
        try:
            return int(self._declared(queue).message_count)
        except ChannelClosedByBroker:  # there is none
            return 0

    def _declared(self, queue: str) -> Queue.DeclareOk:
        declared: Queue.DeclareOk = self._open().queue_declare(queue, passive=True).method
        return declared

    def _open(self) -> BlockingChannel:
        if self._channel is None or not self._channel.connection.is_open:
            parameters = pika.URLParameters(self.url)
            parameters.socket_timeout, parameters.stack_timeout = 2, 4
            self._channel = pika.BlockingConnection(parameters).channel()
        elif not self._channel.is_open:
            self._channel = self._channel.connection.channel()
        return self._channel

    def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            with suppress(AMQPError):
                self._channel.connection.close()


@dataclass(frozen=True, slots=True)
class Figures:
    """What one scenario came to.

    Attributes:
        confirmed: messages whose publish the broker confirmed.
        handled: messages that were handled.
        parked: messages that were parked.
        crashes: of the consumer, its connection or its broker.
        duplicates: messages that ended more than once.
        bound: how many may.
        repeated: runs that began again.
        seconds: that it took.
    """

    confirmed: int
    handled: int
    parked: int
    crashes: int
    duplicates: int
    bound: int
    repeated: int
    seconds: float


def check(publisher: Publisher, books: Books, left: list[int | None], bound: int) -> None:
    """Nothing is lost, nothing is left over, nothing is made up, and no more is doubled than the docs say.

    Args:
        publisher: knows what was published.
        books: what became of it.
        left: messages that wait once no consumer is left, at each of a few looks.
        bound: messages that may end twice.
    """
    assert set() == publisher.confirmed - books.done
    assert set() == books.done - set(range(publisher.sent))
    assert {0} == set(left)
    assert books.duplicates <= bound
