"""Measured programs, each in a process of its own, that take turns in short rounds.

Whatever else the machine does falls on all of them. Two processes of one program differ by several per cent,
by where their memory happens to lie, so all are started anew several times.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Turn(NamedTuple):
    """What every program does once in a round.

    Attributes:
        client: pika or aio-pika.
        operation: one that `worker.py` knows.
    """

    client: str
    operation: str


Costs = dict[tuple[Turn, str], float]
"""CPU microseconds per message of each turn and variant."""


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

    def measure(self, turn: Turn, messages: int) -> float:
        """Return the CPU microseconds that one message cost."""
        assert self._process.stdin is not None  # it is a pipe
        self._process.stdin.write(f"{turn.client} {turn.operation} {messages}\n")
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


class Plan(NamedTuple):
    """How long to measure: *starts* of each program, *rounds* of each start, *messages* in each round."""

    starts: int
    rounds: int
    messages: int


def measured(url: str, variants: Sequence[str], turns: Sequence[Turn], plan: Plan) -> Costs:
    """Return the median of all rounds for each of the *turns* of each of the *variants*."""
    samples: dict[tuple[Turn, str], list[float]] = {}
    for _ in range(plan.starts):
        workers = {variant: Worker(variant, url) for variant in variants}
        try:
            for current in range(-1, plan.rounds):  # the first round warms up
                for turn in turns:
                    for variant, worker in workers.items():
                        cost = worker.measure(turn, plan.messages)
                        if current >= 0:
                            samples.setdefault((turn, variant), []).append(cost)
        finally:
            for worker in workers.values():
                worker.stop()
    return {key: statistics.median(costs) for key, costs in samples.items()}
