"""What a full policy costs a message that is handled at once: added CPU time over tracing alone.

Retries, a breaker, a rate, a concurrency and the deadline that each message carries; nothing is ever full or
late. Both programs are traced, and take turns in one run on one broker.
"""

import argparse

from rich.console import Console
from rich.table import Table
from workers import Costs, Plan, Turn, measured

from otel_waybill.testing.broker import broker

VARIANTS = ("ours", "ours with a full policy")
CLIENTS = ("pika", "aio-pika")
AIM = 60.0


def table(costs: Costs) -> Table:
    """Return the costs, and what the policy adds."""
    result = Table("client", "tracing only", "full policy", "added", "aim", title="µs per delivery")
    for column in result.columns[1:]:
        column.justify = "right"
    for client in CLIENTS:
        traced, guarded = (costs[Turn(client, "consume"), variant] for variant in VARIANTS)
        result.add_row(
            client, f"{traced:.1f}", f"{guarded:.1f}", f"{guarded - traced:+.1f}", f"at most {AIM:.0f}"
        )
    return result


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="Added CPU time per message under a full policy.")
    options.add_argument("--starts", type=int, default=4, help="of each program")
    options.add_argument("--rounds", type=int, default=10, help="of each start")
    options.add_argument("--messages", type=int, default=300, help="per round")
    chosen = options.parse_args()
    plan = Plan(chosen.starts, chosen.rounds, chosen.messages)
    turns = [Turn(client, operation) for client in CLIENTS for operation in ("request", "consume")]
    with broker() as rabbit:
        costs = measured(rabbit.url, VARIANTS, turns, plan)
    Console().print(table(costs))


if __name__ == "__main__":
    main()
