"""What the consumers do: the same on every client, and told to a journal as it happens."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import otel_waybill as waybill
from otel_waybill.core.breaker import State

ATTEMPTS = 3
_FAILURES = (0, 1, 2, 1, ATTEMPTS)


class Failed(Exception):  # noqa: N818 - what a handler raises may have any name
    """What a run raises that is meant to fail."""


def retrying(first: float) -> waybill.Retry:
    """Return how failed messages are retried; *first* is the longest wait after a first run, in seconds."""
    return waybill.Retry(attempts=ATTEMPTS, backoff=waybill.Backoff(first=first, ceiling=2 * first))


def failures(message: int) -> int:
    """Return how many runs of *message* fail; of five messages one never fails and one always does."""
    return _FAILURES[message % len(_FAILURES)]


@dataclass(frozen=True, slots=True)
class Orders:
    """What a program is started with.

    Attributes:
        url: of the broker.
        queue: to consume.
        policy: for its consumer.
        dependency: of the work, and down as long as the file *outage* exists.
        outage: that file.
        journal: an open file; each line goes there by one write, so that being killed tears none.
    """

    url: str
    queue: str
    policy: waybill.Policy
    dependency: waybill.CircuitBreaker
    outage: Path
    journal: int

    @classmethod
    def given(cls) -> Self:
        """Read them from the command line."""
        url, queue, prefetch, first, folder = sys.argv[1:]
        # The runs that are meant to fail neither open it nor keep it open.
        dependency = waybill.CircuitBreaker(
            "dependency", window=1.0, failure_rate=1.0, open_for=0.5, open_ceiling=1.0, probe_success=0.01
        )
        policy = waybill.Policy(retry=retrying(float(first)), prefetch=int(prefetch), breaker=dependency)
        journal = os.open(Path(folder) / "journal", os.O_APPEND | os.O_WRONLY)
        return cls(url, queue, policy, dependency, Path(folder) / "outage", journal)

    def begin(self, body: bytes) -> None:
        """Note that a run begins."""
        self._note("probed" if self.dependency.state is State.HALF_OPEN else "begun", body)

    def end(self, body: bytes) -> None:
        """Note that the message is handled, or fail if this run of it is to fail.

        Raises:
            Failed: it is.
        """
        if waybill.current().attempt <= failures(int(body)) or self.outage.exists():
            raise Failed
        self._note("handled", body)

    def _note(self, fact: str, body: bytes) -> None:
        line = f"{fact} {body.decode()} {waybill.current().attempt} {time.time()}\n"
        os.write(self.journal, line.encode())
