"""What a client must be able to do for a policy, in the two colours that drivers know."""

from collections.abc import Callable
from typing import Protocol

from otel_waybill.core.events import Event
from otel_waybill.core.verdicts import Ack, GiveBack, Leave, Report, Republish, Run, Settled, Wait

Answer = Callable[[Report], None]
"""Continues a delivery with the report on its last verdict; called exactly once for each."""


class Performer(Protocol):
    """One delivery at a client that calls back: it must never wait, only answer later."""

    def emit(self, event: Event) -> None:
        """Tell whoever listens what happened to this delivery."""

    def wait(self, wait: Wait, answer: Answer) -> None:
        """Hold the delivery and answer when the wait is over."""

    def attempt(self, run: Run, answer: Answer) -> None:
        """Call the handler and answer with what it did."""

    def republish(self, copy: Republish, answer: Answer) -> None:
        """Publish the copy and answer once it is confirmed and routed, or is known or feared not to be."""

    def settle(self, verdict: Ack | GiveBack | Leave) -> None:
        """Do the last thing for this delivery."""


class AsyncPerformer(Protocol):
    """One delivery at a client that is awaited."""

    @property
    def settled(self) -> Settled | None:
        """What the handler itself has said to the broker so far."""

    @property
    def copied(self) -> bool:
        """Whether a copy is confirmed and routed, so that there is nothing to give back."""

    def emit(self, event: Event) -> None:
        """Tell whoever listens what happened to this delivery."""

    async def wait(self, wait: Wait) -> Report:
        """Hold the delivery."""

    async def attempt(self, run: Run) -> Report:
        """Call the handler; what is no `Exception`, as a cancellation, passes through unreported."""

    async def republish(self, copy: Republish) -> Report:
        """Publish the copy and wait until it is confirmed and routed, or is known or feared not to be."""

    async def settle(self, verdict: Ack | GiveBack | Leave) -> None:
        """Do the last thing for this delivery."""
