"""The driver for clients that call back: it never waits, and answers lead on."""

import time

from otel_waybill.core.backoff import Backoff
from otel_waybill.core.delivery import Delivery, Instant, Reason, Result
from otel_waybill.core.events import Confirmed, Ended, Event, RunEnded, RunStarted, Unconfirmed
from otel_waybill.core.pipeline import Execution
from otel_waybill.core.retry import Retry
from otel_waybill.core.spec import PolicySpec, Settle
from otel_waybill.core.verdicts import (
    Ack,
    GiveBack,
    Gone,
    Leave,
    Published,
    Raised,
    Report,
    Republish,
    Returned,
    Run,
    Settled,
    Wait,
    Waited,
)
from otel_waybill.core.waybill import Waybill
from otel_waybill.resilience.callbacks import drive
from otel_waybill.resilience.clock import instant
from otel_waybill.resilience.port import Answer

START = Instant(1000.0, 1_764_000_000.0)
DELIVERY = Delivery(
    queue="orders", exchange="shop", routing_key="order.created", headers={}, message_id="4711"
)


class Script:
    """A client that keeps every answer until the test gives it, and writes down what it was told."""

    def __init__(self, settle: Settle = "return", deadline: float | None = None) -> None:
        self.now = START
        self.pending: Answer | None = None
        self.told: list[object] = []
        spec = PolicySpec(retry=Retry(backoff=Backoff(jitter="none")), settle=settle)
        self.execution = Execution(
            spec, DELIVERY, Waybill(id="4711", deadline=deadline), received=START, identity=str
        )
        self.later = drive(self.execution, self, clock=lambda: self.now, chance=lambda: 0.0)

    def emit(self, event: Event) -> None:
        """Write down *event*."""
        self.told.append(event)

    def wait(self, wait: Wait, answer: Answer) -> None:
        """Start a timer."""
        self.told.append(wait.seconds)
        self.pending = answer

    def attempt(self, run: Run, answer: Answer) -> None:
        """Start the handler."""
        self.told.append(run)
        self.pending = answer

    def republish(self, copy: Republish, answer: Answer) -> None:
        """Send the copy."""
        self.told.append(copy)
        self.pending = answer

    def settle(self, verdict: Ack | GiveBack | Leave) -> None:
        """Settle."""
        self.told.append(verdict)

    def answer(self, report: Report, after: float = 0.0) -> list[object]:
        """Answer *after* so many seconds, once, and return what that led to."""
        assert self.pending is not None
        answer, self.pending = self.pending, None
        self.told.clear()
        self.now = Instant(self.now.monotonic + after, self.now.wall + after)
        answer(report)
        return self.told


def test_every_verdict_finds_its_performer() -> None:
    """A message that fails, and whose copy is refused once, is acknowledged when it is confirmed."""
    script = Script()
    assert [RunStarted(queue="orders", remaining=None), Run(attempt=1)] == script.told
    stopped, copy = script.answer(Raised(ValueError()))
    assert RunEnded(queue="orders") == stopped
    assert isinstance(copy, Republish)
    assert [Unconfirmed(queue="orders", error="nack"), 0.5] == script.answer(Published("nack"))
    assert [copy] == script.answer(Waited(), 0.5)
    outcome = copy.outcome
    assert [
        Confirmed(queue="orders", seconds=0.5),
        Ended(queue="orders", outcome=outcome),
        Ack(outcome=outcome),
    ] == script.answer(Published())
    assert script.pending is None


def test_late_settlement_is_reported_by_the_answer_that_drive_returned() -> None:
    """A program that acknowledges after its handler has returned ends the delivery then."""
    script = Script(settle="handler")
    *_, left = script.answer(Returned())
    assert isinstance(left, Leave)
    assert Result.OPEN is left.outcome.result
    script.told.clear()
    script.later(Returned(Settled.ACK))
    *_, last = script.told
    assert isinstance(last, Leave)
    assert Result.HANDLED is last.outcome.result


def test_delivery_whose_channel_is_gone_already_ends_at_once() -> None:
    """Nothing is run, and nothing is sent."""
    script = Script()
    script.told.clear()
    drive(script.execution, script, Gone())
    *_, last = script.told
    assert isinstance(last, Leave)
    assert Result.GIVEN_BACK is last.outcome.result


def test_time_is_asked_for_at_every_step() -> None:
    """A handler that took too long is found out when it reports, not when it was started."""
    script = Script(deadline=START.wall + 5.0)
    *_, copy = script.answer(Raised(ValueError()), 6.0)
    assert isinstance(copy, Republish)
    assert Reason.DEADLINE is copy.outcome.reason


def test_both_clocks_are_read_together() -> None:
    """The present moment is that of the machine, on both of its clocks."""
    before = time.monotonic(), time.time()
    now = instant()
    assert before[0] <= now.monotonic <= time.monotonic()
    assert abs(now.wall - before[1]) < 60
