"""What instrumenting costs: added CPU time per message, in one interleaved run on one broker.

The programs do the same: *bare*; the *floor*, which emits the same telemetry by hand; OpenTelemetry's own
instrumentation (*contrib*, whose spans are fewer and differ); and *ours*. ``--starts``, ``--rounds`` and
``--messages`` set how long it takes.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from otel_waybill.testing.broker import broker

VARIANTS = ("bare", "floor", "contrib", "ours", "ours without settle spans")
MEASURED = tuple(itertools.product(("pika", "aio-pika"), ("publish", "consume")))
AIM = 1.3

Samples = dict[tuple[str, str, str], list[float]]


class Worker:
    """One variant in its own process."""

    def __init__(self, variant: str, url: str) -> None:
        """Start it and wait until it is connected."""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py")), variant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "AMQP_URL": url},
        )
        self._line()

    def measure(self, client: str, operation: str, messages: int) -> float:
        """Return the CPU microseconds that one message cost."""
        assert self._process.stdin is not None  # it is a pipe
        self._process.stdin.write(f"{client} {operation} {messages}\n")
        self._process.stdin.flush()
        return float(self._line()) / messages * 1e6

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None  # it is a pipe
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"a measured program ended early, with exit code {self._process.wait()}")
        return line


def measured(url: str, starts: int, rounds: int, messages: int) -> Samples:
    """Return CPU microseconds per message: client, operation, variant -> one sample for each round.

    Two processes of one program differ by several per cent, by where their memory happens to lie, so all
    are started anew several times.
    """
    samples: Samples = {}
    for _ in range(starts):
        _measure(url, rounds, messages, samples)
    return samples


def _measure(url: str, rounds: int, messages: int, samples: Samples) -> None:
    """Add the samples of one process for each variant."""
    workers = {variant: Worker(variant, url) for variant in VARIANTS}
    try:
        for current in range(-1, rounds):  # the first round warms up
            for client, operation in MEASURED:
                for variant, worker in workers.items():
                    cost = worker.measure(client, operation, messages)
                    if current >= 0:
                        samples.setdefault((client, operation, variant), []).append(cost)
    finally:
        for worker in workers.values():
            worker.stop()


def table(samples: Samples) -> Table:
    """Return the medians, and what each variant adds to the bare program."""
    result = Table("client", "operation", "variant", "µs per message", "added", "x floor")
    for column in result.columns[3:]:
        column.justify = "right"
    for client, operation in MEASURED:
        cost = {variant: statistics.median(samples[client, operation, variant]) for variant in VARIANTS}
        floor = cost["floor"] - cost["bare"]
        for variant in VARIANTS:
            added = cost[variant] - cost["bare"]
            ratio = "" if variant in {"bare", "floor"} else f"{added / floor:.2f}"
            result.add_row(client, operation, variant, f"{cost[variant]:.1f}", f"{added:+.1f}", ratio)
        result.add_section()
    return result


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="Added CPU time per message.")
    options.add_argument("--starts", type=int, default=5, help="of each program")
    options.add_argument("--rounds", type=int, default=10, help="of each start")
    options.add_argument("--messages", type=int, default=300, help="per round")
    chosen = options.parse_args()
    with broker() as rabbit:
        samples = measured(rabbit.url, chosen.starts, chosen.rounds, chosen.messages)
    Console().print(table(samples))
    Console().print(f"The aim for ours is {AIM} x floor, for the same telemetry.")


if __name__ == "__main__":
    main()
