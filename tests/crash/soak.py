"""Consumers at full rate for a while, with failures, broken connections and outages: nothing may grow.

``nox -s soak -- --seconds 600``. Each client has a consumer, and a publisher that keeps so much on its way
that the consumer never waits.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from crash.bounds import Row
from crash.nodes import Node, nodes
from crash.scene import CLIENTS, Scene

ON_THE_WAY = 500
"""Messages of each publisher that are neither handled nor parked yet."""

SAMPLES = 40
"""How often each consumer is looked at in all."""

_CUT, _OUTAGE = 7.0, 20.0  # seconds between two of them, on average
_OUTAGE_LASTS = 2.0
_QUIET = 5.0  # longer than the circuit breaker holds a message
_MOMENT = 0.1
# Times as much as in the middle; how long a message waits depends on what else the machine does.
_MEMORY_GROWS, _LAG_GROWS = 1.1, 2.0


class Sample(NamedTuple):
    """What one consumer is like at a moment.

    Attributes:
        memory: octets that it occupies.
        lag: seconds from the publish of a message to its first run, the median since the last sample.
        rate: messages a second since then.
    """

    memory: float
    lag: float
    rate: float


@dataclass(slots=True)
class Times:
    """Comes due at random, so many seconds apart on average."""

    apart: float
    count: int = 0
    _next: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Tell whether the next one is due, and count it."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + random.expovariate(1 / self.apart)
        self.count += 1
        return True


class Subject:
    """One consumer, broken again and again, and observed."""

    def __init__(self, broker: Node, client: str, folder: Path) -> None:
        """Have it consume."""
        self.client = client
        self.samples: list[Sample] = []
        self.cuts, self.outages = Times(_CUT), Times(_OUTAGE)
        self._outage = folder / "outage"
        self._since, self._known = time.monotonic(), 0
        self.scene = Scene(broker, client, f"soak-{client}", folder, messages=sys.maxsize, ready=self._ready)

    def go_on(self) -> None:
        """Keep its books, and break what is due to be broken."""
        self.scene.books.update()
        if self.cuts.due():
            self.scene.proxy.cut()
        if self._outage.exists():
            if time.time() > self._outage.stat().st_mtime + _OUTAGE_LASTS:
                self._outage.unlink()
        elif self.outages.due():
            self._outage.touch()

    def sample(self) -> Sample:
        """Take a sample."""
        times, begun = self.scene.publisher.times, self.scene.books.first_begun
        lags = [moment - times[message] for message, moment in list(begun.items())[self._known :]]
        now = time.monotonic()
        rate = len(lags) / (now - self._since)
        self._since, self._known = now, len(begun)
        self.samples.append(Sample(self.scene.consumer.memory, statistics.median(lags or [0.0]), rate))
        return self.samples[-1]

    def finish(self) -> None:
        """Wait until nothing more happens and check the books, and that nothing has grown."""
        self._outage.unlink(missing_ok=True)
        self.scene.publisher.stop()
        self.scene.finish(Row.RUNNING, crashes=self.cuts.count, quiet=_QUIET)
        memory = growth([each.memory for each in self.samples])
        lag = growth([each.lag for each in self.samples])
        print(
            f"{self.client}: {self.outages.count} outages, {self.scene.books.probes} probes, "
            f"memory x{memory:.2f}, delivery lag x{lag:.2f}"
        )
        assert self.scene.books.probes, "the circuit breaker has never opened"
        assert memory < _MEMORY_GROWS, "memory grows"
        assert lag < _LAG_GROWS, "delivery lag grows"

    def _ready(self) -> bool:
        books = self.scene.books
        return self.scene.publisher.sent - len(books.handled) - len(books.parked) < ON_THE_WAY


def growth(values: Sequence[float]) -> float:
    """Return how many times as large *values* are in their last third as in their second."""
    third = len(values) // 3
    return statistics.median(values[-third:]) / statistics.median(values[third : 2 * third])


def main(seconds: float) -> None:
    """Run for so many seconds, and then as long as it takes to come to rest."""
    with ExitStack() as resources:
        (broker,) = resources.enter_context(nodes(1))
        subjects = []
        for client in CLIENTS:
            folder = Path(resources.enter_context(tempfile.TemporaryDirectory()))
            subjects.append(Subject(broker, client, folder))
            resources.enter_context(subjects[-1].scene)
            subjects[-1].scene.begin()
        began = sampled = time.monotonic()
        while time.monotonic() < began + seconds:
            time.sleep(_MOMENT)
            for subject in subjects:
                subject.go_on()
            if time.monotonic() > sampled + seconds / SAMPLES:
                sampled = time.monotonic()
                for subject in subjects:
                    seen = subject.sample()
                    print(
                        f"{sampled - began:5.0f} s  {subject.client:16}"
                        f"{seen.memory / 2**20:8.1f} MiB{seen.lag:8.3f} s lag{seen.rate:7.0f} messages/s",
                        flush=True,
                    )
        for subject in subjects:
            subject.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to go on; 600 by default")
    main(parser.parse_args().seconds)
