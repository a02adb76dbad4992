"""The awaiting driver: it does what the core decides, stops what is overdue and passes on what stops it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from otel_waybill.core.backoff import Backoff
from otel_waybill.core.breaker import Admission, Permit
from otel_waybill.core.delivery import Delivery, Instant, Outcome, Reason, Result
from otel_waybill.core.events import (
    BreakerEvent,
    Confirmed,
    Ended,
    Event,
    Held,
    RunEnded,
    RunStarted,
    Unconfirmed,
)
from otel_waybill.core.pipeline import Execution
from otel_waybill.core.retry import Retry
from otel_waybill.core.spec import PolicySpec
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
from otel_waybill.errors import DeadlineExceeded
from otel_waybill.resilience.aio import drive

T = TypeVar("T")
Handler = Callable[["Script"], Awaitable[object]]

START = 1000.0
WALL = 1_764_000_000.0
DELIVERY = Delivery(
    queue="orders", exchange="shop", routing_key="order.created", headers={}, message_id="4711"
)
SPEC = PolicySpec(retry=Retry(backoff=Backoff(jitter="none")), settle="return")


class VirtualTime(asyncio.SelectorEventLoop):
    """A loop whose time passes only while everybody waits, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        loop: Any = self
        select = loop._selector.select

        def jump(timeout: float | None) -> object:
            assert timeout is not None, "everybody waits, and nothing will ever happen"
            self._now += timeout
            return select(0)

        loop._selector.select = jump

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now


class Gate:
    """A breaker that refuses as told and remembers its permits."""

    name = "payments"

    def __init__(self, *refusals: float) -> None:
        self.refusals = list(refusals)
        self.closings: list[str] = []

    def acquire(self, now: float, u: float) -> Admission:
        """Refuse first, then let everybody in."""
        del u
        if self.refusals:
            return Admission(permit=None, retry_after=self.refusals.pop(0))
        return Admission(permit=Permit(breaker=None, generation=1, since=now))

    def succeed(self, permit: Permit, now: float, u: float) -> tuple[BreakerEvent, ...]:
        """Note a success."""
        del permit, now, u
        self.closings.append("succeeded")
        return ()

    def fail(
        self, permit: Permit, now: float, u: float, error: BaseException | None = None
    ) -> tuple[BreakerEvent, ...]:
        """Note a failure."""
        del permit, now, u, error
        self.closings.append("failed")
        return ()

    def release(self, permit: Permit) -> tuple[BreakerEvent, ...]:
        """Note a permit that came back unused."""
        del permit
        self.closings.append("released")
        return ()


class Script:
    """A client whose handler and whose broker do as written, and that remembers what it was told."""

    def __init__(
        self,
        handler: Handler,
        *fates: Report,
        spec: PolicySpec = SPEC,
        left: float | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.handler = handler
        self.fates = list(fates)
        self.gate = gate
        self.settled: Settled | None = None
        self.copied = False
        self.told: list[Event | Ack | GiveBack | Leave] = []
        self.copies: list[Republish] = []
        waybill = Waybill(id="4711", deadline=None if left is None else WALL + left)
        self.execution = Execution(
            spec, DELIVERY, waybill, received=Instant(START, WALL), identity=str, breaker=gate
        )

    def emit(self, event: Event) -> None:
        """Remember *event*."""
        self.told.append(event)

    async def wait(self, wait: Wait) -> Report:
        """Wait in virtual time."""
        await asyncio.sleep(wait.seconds)
        return Waited()

    async def attempt(self, run: Run) -> Report:
        """Call the handler, as a client does."""
        del run
        try:
            await self.handler(self)
        except Exception as error:  # noqa: BLE001 - whatever it raises
            return Raised(error, self.settled)
        return Returned(self.settled)

    async def republish(self, copy: Republish) -> Report:
        """Let the broker say what is next in the script; when that is over it says nothing more."""
        self.copies.append(copy)
        if not self.fates:
            await asyncio.sleep(3600)
        return self.fates.pop(0)

    async def settle(self, verdict: Ack | GiveBack | Leave) -> None:
        """Remember *verdict*."""
        await asyncio.sleep(0)
        self.told.append(verdict)

    async def drive(self, report: Report | None = None) -> Outcome:
        """Drive on the time of the running loop."""
        loop = asyncio.get_running_loop()
        return await drive(
            self.execution,
            self,
            report,
            clock=lambda: Instant(START + loop.time(), WALL + loop.time()),
            chance=lambda: 0.0,
        )

    def verdicts(self) -> list[str]:
        """The settlements it was told, by their names and results."""
        return [
            f"{type(each).__name__} {each.outcome.result}"
            for each in self.told
            if isinstance(each, Ack | GiveBack | Leave)
        ]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(main)


def now() -> float:
    """Seconds of virtual time."""
    return asyncio.get_running_loop().time()


async def returns(_: Script) -> None:
    """A handler that is content."""


async def raises(_: Script) -> None:
    """A handler that is not."""
    msg = "no such order"
    raise ValueError(msg)


async def lasts(_: Script) -> None:
    """A handler that takes very long."""
    await asyncio.sleep(1000)


def test_handled_message_is_acknowledged_and_told() -> None:
    """A handler that returns has its message acknowledged, and the caller learns how it ended."""
    script = Script(returns)
    outcome = run(script.drive())
    assert Outcome(result=Result.HANDLED, attempt=1) == outcome
    assert [
        RunStarted(queue="orders", remaining=None),
        RunEnded(queue="orders"),
        Ended(queue="orders", outcome=outcome),
        Ack(outcome=outcome),
    ] == script.told


def test_copy_comes_before_the_ack() -> None:
    """A copy that is in doubt is sent again after a pause, and only its confirm lets the message go."""

    async def story() -> tuple[Outcome, float]:
        return await script.drive(), now()

    script = Script(raises, Published("nack"), Published())
    outcome, seconds = run(story())
    assert (Result.RETRIED, 0.5) == (outcome.result, seconds)
    assert script.copies[0] is script.copies[1]
    assert [
        Unconfirmed(queue="orders", error="nack"),
        Confirmed(queue="orders", seconds=0.5),
        Ended(queue="orders", outcome=outcome),
    ] == script.told[2:5]
    assert ["Ack retried"] == script.verdicts()


def test_open_breaker_holds_the_message() -> None:
    """While the breaker is open the message waits, and runs when the wait is over."""

    async def story() -> tuple[Outcome, float]:
        return await script.drive(), now()

    script = Script(returns, gate=(gate := Gate(3.0)))
    outcome, seconds = run(story())
    assert (Result.HANDLED, 3.0) == (outcome.result, seconds)
    assert Held(queue="orders", breaker="payments") == script.told[0]
    assert ["succeeded"] == gate.closings


def test_channel_that_goes_ends_the_drive() -> None:
    """When the channel goes, nothing is sent and the drive is over."""
    script = Script(raises, Gone())
    assert Result.GIVEN_BACK is run(script.drive()).result
    assert ["Leave given-back"] == script.verdicts()


def test_late_settlement_goes_on_where_the_handler_left() -> None:
    """A program that acknowledges after its handler has returned ends the delivery then."""
    script = Script(returns, spec=PolicySpec(settle="handler"))
    assert Result.OPEN is run(script.drive()).result
    assert Result.HANDLED is run(script.drive(Returned(Settled.ACK))).result
    assert ["Leave open", "Leave handled"] == script.verdicts()


def test_time_and_chance_have_defaults() -> None:
    """Whoever drives need not say what time it is."""
    script = Script(returns)
    before = time.monotonic()
    script.execution = Execution(
        PolicySpec(),
        DELIVERY,
        Waybill(deadline=time.time() + 60.0),
        received=Instant(before, time.time()),
        identity=str,
    )
    assert Result.HANDLED is run(drive(script.execution, script)).result


# The deadline.


def test_overdue_handler_is_stopped() -> None:
    """A handler that runs past its deadline and the tolerance is cancelled, and that is its failure."""

    async def story() -> tuple[Outcome, float]:
        return await script.drive(), now()

    script = Script(lasts, Published(), left=5.0, gate=(gate := Gate()))
    outcome, seconds = run(story())
    assert (Result.PARKED, Reason.DEADLINE, 6.0) == (outcome.result, outcome.reason, seconds)
    assert isinstance(outcome.error, DeadlineExceeded)
    assert 0.0 == outcome.error.overdue
    assert ["failed"] == gate.closings


def test_handler_in_time_is_not_stopped() -> None:
    """A deadline that is far away is nobody's business."""

    async def almost(script: Script) -> None:
        del script
        await asyncio.sleep(5.5)

    assert Result.HANDLED is run(Script(almost, left=5.0).drive()).result


@pytest.mark.parametrize("left", [None, 5.0])
def test_timeout_of_the_handler_is_its_own(left: float | None) -> None:
    """A TimeoutError of a call that the handler made is not mistaken for the deadline of its message."""

    async def impatient(script: Script) -> None:
        del script
        async with asyncio.timeout(1.0):
            await asyncio.sleep(2.0)

    outcome = run(Script(impatient, Published(), left=left, spec=PolicySpec()).drive())
    assert (Reason.MAX_ATTEMPTS, TimeoutError) == (outcome.reason, type(outcome.error))


def test_handler_that_finishes_when_stopped_has_finished() -> None:
    """A handler that catches its cancellation at the deadline and returns is handled."""

    async def tidy(script: Script) -> None:
        try:
            await lasts(script)
        except asyncio.CancelledError:
            await asyncio.sleep(1.0)

    assert Result.HANDLED is run(Script(tidy, left=5.0).drive()).result


def test_handler_that_fails_when_stopped_keeps_its_error() -> None:
    """What a handler raises when its deadline stops it is what the message is parked with."""

    async def untidy(script: Script) -> None:
        try:
            await lasts(script)
        finally:
            await raises(script)

    outcome = run(Script(untidy, Published(), left=5.0).drive())
    assert (Reason.DEADLINE, ValueError) == (outcome.reason, type(outcome.error))


def test_ack_before_the_deadline_holds() -> None:
    """A handler that acknowledged in time and is stopped later has handled its message."""

    async def acks(script: Script) -> None:
        script.settled = Settled.ACK
        await lasts(script)

    script = Script(acks, left=5.0)
    assert Result.HANDLED is run(script.drive()).result
    assert ["Leave handled"] == script.verdicts()


# What stops the driver.


async def cancelled(script: Script, after: float) -> None:
    """Cancel the drive of *script* from outside, and see it go."""
    task = asyncio.create_task(script.drive())
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("left", [None, 60.0])
def test_cancelled_run_gives_back_and_passes_on(left: float | None) -> None:
    """A shutdown gives the message back, uncounted, and is not swallowed, with or without a deadline."""
    script = Script(lasts, left=left, gate=(gate := Gate()))
    run(cancelled(script, 1.0))
    assert ["GiveBack given-back"] == script.verdicts()
    assert ["released"] == gate.closings


def test_cancelled_hold_gives_back() -> None:
    """A message that is held when the program stops goes back."""
    script = Script(returns, gate=(gate := Gate(60.0)))
    run(cancelled(script, 1.0))
    assert ["GiveBack given-back"] == script.verdicts()
    assert [] == gate.closings


def test_cancelled_copy_gives_back() -> None:
    """A message whose copy is in doubt when the program stops goes back: twice is better than never."""
    script = Script(raises)
    run(cancelled(script, 1.0))
    assert ["GiveBack given-back"] == script.verdicts()


def test_copy_that_is_safe_is_not_made_twice() -> None:
    """A shutdown that comes when the broker has the copy acknowledges the original, and goes on."""
    script = Script(raises)
    script.copied = True
    run(cancelled(script, 1.0))
    assert ["Ack retried"] == script.verdicts()


def test_ack_before_the_cancellation_holds() -> None:
    """A handler that acknowledged before the shutdown has handled its message; the shutdown goes on."""

    async def acks(script: Script) -> None:
        script.settled = Settled.ACK
        await lasts(script)

    script = Script(acks)
    run(cancelled(script, 1.0))
    assert ["Leave handled"] == script.verdicts()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, BaseException])
def test_interrupted_run_gives_back_and_passes_on(kind: type[BaseException]) -> None:
    """Ctrl-C and sys.exit() inside a handler give the message back, uncounted, and end the program."""

    async def exits(script: Script) -> None:
        del script
        raise kind

    script = Script(exits, gate=(gate := Gate()))
    with pytest.raises(kind):
        run(script.drive())
    assert ["GiveBack given-back"] == script.verdicts()
    assert ["released"] == gate.closings


def test_closed_driver_keeps_no_permit() -> None:
    """A drive that is thrown away with its loop leaves no probe of the breaker out for ever."""

    async def pauses(script: Script) -> None:
        del script
        await asyncio.sleep(0)

    script = Script(pauses, gate=(gate := Gate()))
    coroutine = drive(script.execution, script)
    coroutine.send(None)
    coroutine.close()
    assert ["released"] == gate.closings
    assert [] == script.verdicts()


def test_fault_of_a_client_passes_on_and_settles_nothing() -> None:
    """A fault of ours is seen, and no message is acknowledged because of it."""

    class Faulty(Script):
        async def attempt(self, run: Run) -> Report:
            """Fail before the handler is called."""
            del run
            raise RuntimeError

    script = Faulty(returns, gate=(gate := Gate()))
    with pytest.raises(RuntimeError):
        run(script.drive())
    assert [] == script.verdicts()
    assert ["released"] == gate.closings
