"""What a closed breaker costs around a call that does nothing: added CPU time per call.

Ours as a block and as a decorator, beside pybreaker and circuitbreaker in the form that those document.
All of them take turns in short rounds, so that whatever else the machine does falls on all of them.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import circuitbreaker
import pybreaker
from rich.console import Console
from rich.table import Table

from otel_waybill import CircuitBreaker

AIM = 2.0
OURS = CircuitBreaker("benchmark")


def call() -> None:
    """Do nothing."""


def block() -> None:
    """Do nothing, in a block."""
    with OURS:
        call()


VARIANTS: dict[str, Callable[[], object]] = {
    "bare": call,
    "ours, with": block,
    "ours, decorator": OURS(call),
    "pybreaker": pybreaker.CircuitBreaker()(call),
    "circuitbreaker": circuitbreaker.CircuitBreaker()(call),
}


def measured(rounds: int, calls: int) -> dict[str, float]:
    """Return CPU microseconds per call of each variant, the median of the rounds."""
    samples: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, variant in VARIANTS.items():
            started = time.process_time()
            for _ in range(calls):
                variant()
            samples[name].append((time.process_time() - started) / calls * 1e6)
    return {name: statistics.median(costs) for name, costs in samples.items()}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="Added CPU time per call through a closed breaker.")
    options.add_argument("--rounds", type=int, default=50)
    options.add_argument("--calls", type=int, default=5000, help="per round")
    chosen = options.parse_args()
    costs = measured(chosen.rounds, chosen.calls)
    table = Table("breaker", "µs per call", "added", "aim")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, cost in costs.items():
        aim = f"at most {AIM:.0f}" if name.startswith("ours") else ""
        table.add_row(name, f"{cost:.2f}", f"{cost - costs['bare']:+.2f}", aim)
    Console().print(table)


if __name__ == "__main__":
    main()
