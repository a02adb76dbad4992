"""What the consumers do: the same on every client, and told to a journal as it happens."""

import os
import sys
from dataclasses import dataclass
from typing import Self

import otel_waybill as waybill

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
        journal: an open file; each line goes there by one write, so that being killed tears none.
    """

    url: str
    queue: str
    policy: waybill.Policy
    journal: int

    @classmethod
    def given(cls) -> Self:
        """Read them from the command line."""
        url, queue, prefetch, first, journal = sys.argv[1:]
        policy = waybill.Policy(retry=retrying(float(first)), prefetch=int(prefetch))
        return cls(url, queue, policy, os.open(journal, os.O_APPEND | os.O_WRONLY))

    def begin(self, body: bytes) -> None:
        """Note that a run begins."""
        self._note("begun", body)

    def end(self, body: bytes) -> None:
        """Note that the message is handled, or fail if this run of it is to fail.

        Raises:
            Failed: it is.
        """
        if waybill.current().attempt <= failures(int(body)):
            raise Failed
        self._note("handled", body)

    def _note(self, fact: str, body: bytes) -> None:
        os.write(self.journal, f"{fact} {body.decode()} {waybill.current().attempt}\n".encode())
