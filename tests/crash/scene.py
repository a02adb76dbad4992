"""One scenario: a publisher, a consumer in a process of its own behind a proxy, and their broker."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import pika

from crash.books import Books, Figures, Publisher, check
from crash.bounds import BOUNDS, PREFETCH, Row
from crash.nodes import Node
from crash.programs.work import retrying
from crash.proxy import LOOPBACK, Proxy, Strike
from otel_waybill.core.topology import reachable

CLIENTS = ("pika_blocking", "aio_pika_robust")
MESSAGES = 400

_QUIET = 1.2
"""Seconds after which nothing more comes: twice the longest wait in the ladder."""

_PATIENCE = 90
_MOMENT = 0.1
_IMPORTS = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
_LOOKS = 5


class Consumer:
    """A program that is started again whenever it was killed."""

    def __init__(self, program: str, url: str, queue: str, first: float, folder: Path) -> None:
        arguments = [url, queue, str(PREFETCH), str(first), str(folder)]
        self._command = [sys.executable, "-m", f"crash.programs.{program}", *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = True

    @property
    def memory(self) -> int:
        """Octets of memory that it occupies."""
        assert self._process is not None
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    def revive(self) -> None:
        """Start it unless it runs."""
        if self._process is None or self._process.poll() is not None:
            assert self._killed, "the program ended by itself"
            environ = {**os.environ, "PYTHONPATH": _IMPORTS}
            self._process = subprocess.Popen(self._command, env=environ)  # noqa: S603 - our own program
            self._killed = False

    def kill(self) -> None:
        """End it without a chance to do anything."""
        if self._process is not None:
            self._killed = True
            self._process.kill()

    def stop(self) -> None:
        """Kill it and wait for its end."""
        self.kill()
        if self._process is not None:
            self._process.wait()


class Scene:
    """Everything that a scenario needs; leaving its block ends all of it."""

    def __init__(  # noqa: PLR0913 - a scenario, each part of it by its name
        self,
        broker: Node,
        client: str,
        queue: str,
        folder: Path,
        *,
        strike: Strike | None = None,
        killing: bool = False,
        heartbeat: int = 60,
        messages: int = MESSAGES,
        rate: float = 2000,
        headers: dict[str, str] | None = None,
        first: float = 0.25,
        through: Node | None = None,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """Prepare everything.

        Args:
            broker: of everybody.
            client: the program that consumes.
            queue: which is declared.
            folder: where it finds what it shares with its consumer.
            strike: when to break the connection of the consumer.
            killing: whether to kill the consumer then as well.
            heartbeat: of all connections, in seconds.
            messages: how many to publish.
            rate: messages a second.
            headers: of each message.
            first: the longest wait after a first run, in seconds.
            through: another node of its cluster, on which everything is declared and the consumer begins.
            ready: whether to go on publishing.
        """
        self._broker = broker
        begins = through or broker
        self.proxy = Proxy(begins.port, strike, lambda: self.consumer.kill() if killing else None)
        journal = folder / "journal"
        journal.touch()
        self.consumer = Consumer(client, _url(self.proxy.port, heartbeat), queue, first, folder)
        around = _url(broker.port, heartbeat)
        self.books = Books(around, queue, reachable(retrying(first)), journal)
        self.publisher = Publisher(around, queue, count=messages, rate=rate, headers=headers, ready=ready)
        with pika.BlockingConnection(pika.URLParameters(_url(begins.port, heartbeat))) as connection:
            connection.channel().queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.publisher.stop()
        self.consumer.stop()
        self.proxy.close()
        self.books.close()
        if self.publisher.is_alive():
            self.publisher.join(_PATIENCE)

    def begin(self, after: float = 0) -> None:
        """Consume, then publish *after* some seconds: what a policy needs is declared by then."""
        self.consumer.revive()
        self.until(self.books.consumed)
        time.sleep(after)
        self.publisher.start()

    def until(self, happened: Callable[[], bool], patience: float = _PATIENCE) -> None:
        """Keep the consumer alive and the books up to date until something has happened."""
        limit = time.monotonic() + patience
        while not happened():
            assert time.monotonic() < limit, f"not within {patience} s: {self.books}"
            self.consumer.revive()
            self.books.update()
            time.sleep(_MOMENT)

    def finish(self, row: Row, crashes: int | None = None, *, quiet: float = _QUIET) -> Figures:
        """Wait until nothing more happens, check the books and return the figures.

        Args:
            row: of the table of bounds.
            crashes: that there were, if not those that the proxy has made.
            quiet: seconds without news after which there is none to come.
        """
        crashes = self.proxy.broken if crashes is None else crashes
        with suppress(AssertionError):  # `check` says better what is missing
            self.until(lambda: self._quiet(quiet))
        self.consumer.stop()
        # What it had not settled comes back to the queue a moment later.
        looks = []
        for _ in range(_LOOKS):
            time.sleep(_MOMENT)
            looks.append(self.books.ready())
        self.books.update()
        figures = Figures(
            confirmed=len(self.publisher.confirmed),
            handled=len(self.books.handled),
            parked=len(self.books.parked),
            crashes=crashes,
            duplicates=self.books.duplicates,
            bound=BOUNDS[row].of(crashes, len(self.books.rungs)),
            repeated=self.books.begun.total() - len(self.books.begun),
            seconds=time.monotonic() - self._began,
        )
        self._tell(figures, looks)
        check(self.publisher, self.books, looks, figures.bound)
        return figures

    def _quiet(self, seconds: float) -> bool:
        if self.publisher.is_alive() or self.publisher.confirmed - self.books.done:
            return False
        return time.monotonic() - self.books.changed > seconds and self.books.ready() == 0

    def _tell(self, figures: Figures, left: list[int | None]) -> None:
        """Print the figures, and what helps when the check fails."""
        print(figures)  # noqa: T201 - pytest shows it then
        missing = self.publisher.confirmed - self.books.done
        if missing or any(left):
            columns = "name", "messages", "messages_ready", "messages_unacknowledged"
            print("missing:", {each: self.books.runs(each) for each in missing})  # noqa: T201 - likewise
            print("left:", left, self.books.left())  # noqa: T201 - likewise
            print(self._broker.control("list_queues", *columns))  # noqa: T201 - likewise


def _url(port: int, heartbeat: int) -> str:
    return f"amqp://guest:guest@{LOOPBACK}:{port}/?heartbeat={heartbeat}"
