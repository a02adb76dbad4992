"""Drives a delivery at a client that is awaited.

The only place where a deadline stops running code: `asyncio.timeout_at` around the handler.
"""

import asyncio
import random
from collections.abc import Callable

from otel_waybill.core.delivery import Instant, Outcome
from otel_waybill.core.pipeline import Execution
from otel_waybill.core.verdicts import (
    Ack,
    Cancelled,
    GiveBack,
    Leave,
    Raised,
    Report,
    Republish,
    Run,
    Wait,
)
from otel_waybill.errors import DeadlineExceeded
from otel_waybill.resilience.clock import instant
from otel_waybill.resilience.port import AsyncPerformer


async def drive(
    execution: Execution,
    performer: AsyncPerformer,
    report: Report | None = None,
    *,
    clock: Callable[[], Instant] = instant,
    chance: Callable[[], float] = random.random,
) -> Outcome:
    """Have *performer* do what *execution* decides until the delivery has ended.

    Args:
        execution: the decisions about one delivery.
        performer: its client.
        report: a settlement that came after the handler had returned; None starts the delivery.
        clock: tells the time.
        chance: draws from [0, 1).

    Raises:
        asyncio.CancelledError: the task was cancelled; the delivery has been given back. The same holds for
            `KeyboardInterrupt`, `SystemExit` and whatever else is no `Exception`.
    """
    if report is None:
        step = execution.start(clock(), chance())
    else:
        step = execution.resume(report, clock(), chance())
    interruption: BaseException | None = None
    while True:
        for event in step.events:
            performer.emit(event)
        if isinstance(step.verdict, Ack | GiveBack | Leave):
            await performer.settle(step.verdict)
            if interruption is not None:
                raise interruption
            return step.verdict.outcome
        try:
            report = await _perform(step.verdict, performer, clock)
        except (Exception, GeneratorExit):
            # A client has a fault, or the coroutine is closed: nothing can be sent, but no permit stays out.
            execution.resume(Cancelled(performer.settled), clock(), chance())
            raise
        except BaseException as error:  # noqa: BLE001 - raised again once the delivery is settled
            report, interruption = Cancelled(performer.settled, performer.copied), error
        step = execution.resume(report, clock(), chance())


async def _perform(
    verdict: Run | Wait | Republish, performer: AsyncPerformer, clock: Callable[[], Instant]
) -> Report:
    match verdict:
        case Run() as run:
            return await _attempt(run, performer, clock)
        case Wait() as wait:
            return await performer.wait(wait)
        case copy:
            return await performer.republish(copy)


async def _attempt(run: Run, performer: AsyncPerformer, clock: Callable[[], Instant]) -> Report:
    if run.due is None:
        return await performer.attempt(run)
    left = run.due - clock().monotonic
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + left):
            return await performer.attempt(run)
    except TimeoutError:
        # Only ours can arrive here: whatever the handler raises comes back as a report.
        return Raised(DeadlineExceeded(max(0.0, clock().monotonic - run.due)), performer.settled)
