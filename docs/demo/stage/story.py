"""The story that the demo tells: four chapters, each waiting for what really happens."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from stage.journal import Journals
from stage.otlp_json import encode, merge
from stage.processes import SERVICES, DemoError, Services
from stage.queues import Queues
from stage.receiver import Receiver
from stage.spans import Change, changes, read

PATIENCE: Final = 20.0
LONG: Final = 30.0
ORDINARY, RETRIED, LATE = "order-1", "order-2", "order-3"
OUTAGE: Final = tuple(f"order-{n}" for n in range(4, 10))


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that it takes to tell the story; the gateway is down while the file *outage* exists."""

    console: Console
    services: Services
    journals: Journals
    queues: Queues
    receiver: Receiver
    outage: Path
    began: float = field(default_factory=time.monotonic)

    def tell(self) -> None:
        """Tell it.

        Raises:
            DemoError: something that has to happen does not.
        """
        self._until(
            lambda: all(self.journals.facts(name, "ready") for name in SERVICES), "the services to be ready"
        )
        self._say(", ".join(f"[bold]{name}[/] ({client})" for name, client in SERVICES.items()) + " are up")
        self._ordinary()
        self._retried()
        self._late()
        self._gateway_down()

    def _ordinary(self) -> None:
        self._chapter("1  an ordinary order")
        self._publish(ORDINARY)
        self._receipts(ORDINARY)

    def _retried(self) -> None:
        self._chapter("2  a payment that fails twice")
        self._publish(RETRIED, timeouts=2)
        for attempt in (1, 2):
            self._until(partial(self._timed_out, attempt), f"charge {attempt} to time out")
            self._say(f"[red]charge {attempt} times out[/]; the broker keeps the order and returns it later")
        self._receipts(RETRIED)

    def _late(self) -> None:
        self._chapter("3  a deadline that is too short")
        self._publish(LATE, deadline=0.4, engraving=1.8)
        self._say("the engraver takes 1.8 s …")
        self._until(lambda: self.queues.parked_count("payments") > 0, "the late order to be parked")
        self._say(f"payments [bold red]parks[/] {LATE} without charging it: nobody waits for it any more")

    def _gateway_down(self) -> None:
        self._chapter("4  the gateway is down")
        self.outage.touch()
        for order in OUTAGE:
            self._publish(order, quiet=True)
            self.queues.breathe(0.15)
        self._say(f"{OUTAGE[0]} … {OUTAGE[-1]} published during the outage")
        self._until(lambda: self._opened() >= 1, "the breaker to open")
        self._say("breaker [bold red]opens[/]: no more charges, orders wait unacknowledged")
        self._until(lambda: self.queues.ready("payments") == 0, "payments to hold what is waiting")
        if self.queues.consumers("payments") != 1:
            msg = "payments lost its consumer while it was paused"
            raise DemoError(msg)
        self._say("payments is [bold]paused, not gone[/]: its consumer is connected, its queue is empty")
        self._until(lambda: self._opened() >= 2, "a probe to fail")  # noqa: PLR2004 - tripped, and tripped again
        self._say("a [yellow]probe[/] fails, the breaker opens [bold red]again[/], for longer")
        self.outage.unlink()
        self._say("the gateway is back")
        self._receipts(*OUTAGE)
        self._until(lambda: self._changes()[-1].after == "closed", "the breaker to close")
        self._say("breaker [bold green]closed[/]: a probe went through, and what waited is worked off")

    def _publish(
        self,
        order: str,
        *,
        deadline: float = LONG,
        engraving: float = 0.0,
        timeouts: int = 0,
        quiet: bool = False,
    ) -> None:
        facts = {"id": order, "deadline": deadline, "engraving": engraving, "timeouts": timeouts}
        self.services.order(json.dumps(facts).encode())
        self._until(lambda: bool(self.journals.facts("shop", "published", order)), f"{order} to be confirmed")
        if not quiet:
            self._say(f"{order} published, due in {deadline:g} s")

    def _receipts(self, *orders: str) -> None:
        self._until(
            lambda: set(orders) <= set(self.journals.orders("mail", "receipt")), "receipts to be sent"
        )
        self._say(f"[green]✓[/] receipt sent for {orders[0]}" + (f" … {orders[-1]}" if orders[1:] else ""))

    def _timed_out(self, times: int) -> bool:
        return len(self.journals.facts("payments", "timed out", RETRIED)) >= times

    def _opened(self) -> int:
        return sum(change.after == "open" for change in self._changes())

    def _changes(self) -> list[Change]:
        """Return what the breaker did, from the spans so far: the demo looks where its user would."""
        return changes(read(encode(merge(self.receiver.exports()))))

    def _until(self, happened: Callable[[], bool], what: str) -> None:
        limit = time.monotonic() + PATIENCE
        while not happened():
            self.services.check()
            if time.monotonic() > limit:
                msg = f"waited {PATIENCE:.0f} s in vain for {what}"
                raise DemoError(msg)
            self.queues.breathe(0.05)

    def _chapter(self, title: str) -> None:
        self.console.print(f"[bold]{title}[/]")

    def _say(self, line: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self.began:6.2f} s[/]  {line}")
