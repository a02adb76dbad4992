"""What instrumenting costs: added CPU time per message, in one interleaved run on one broker.

The programs do the same: *bare*; the *floor*, which emits the same telemetry by hand; OpenTelemetry's own
instrumentation (*contrib*, whose spans are fewer and differ); and *ours*. ``--starts``, ``--rounds`` and
``--messages`` set how long it takes.
"""

import argparse
import itertools

from rich.console import Console
from rich.table import Table
from workers import Costs, Plan, Turn, measured

from otel_waybill.testing.broker import broker

VARIANTS = ("bare", "floor", "contrib", "ours", "ours without settle spans")
TURNS = tuple(Turn(*each) for each in itertools.product(("pika", "aio-pika"), ("publish", "consume")))
AIM = 1.3


def table(costs: Costs) -> Table:
    """Return the costs, and what each variant adds to the bare program."""
    result = Table("client", "operation", "variant", "µs per message", "added", "x floor", "aim")
    for column in result.columns[3:]:
        column.justify = "right"
    for turn in TURNS:
        bare = costs[turn, "bare"]
        floor = costs[turn, "floor"] - bare
        for variant in VARIANTS:
            added = costs[turn, variant] - bare
            ratio = "" if variant in {"bare", "floor"} else f"{added / floor:.2f}"
            aim = f"at most {AIM}" if variant == "ours" else ""
            result.add_row(*turn, variant, f"{bare + added:.1f}", f"{added:+.1f}", ratio, aim)
        result.add_section()
    return result


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="Added CPU time per message.")
    options.add_argument("--starts", type=int, default=5, help="of each program")
    options.add_argument("--rounds", type=int, default=10, help="of each start")
    options.add_argument("--messages", type=int, default=300, help="per round")
    chosen = options.parse_args()
    plan = Plan(chosen.starts, chosen.rounds, chosen.messages)
    with broker() as rabbit:
        costs = measured(rabbit.url, VARIANTS, TURNS, plan)
    Console().print(table(costs))


if __name__ == "__main__":
    main()
