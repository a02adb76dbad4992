"""Drives a delivery at a client that calls back: nothing here waits."""

import random
from collections.abc import Callable

from otel_waybill.core.delivery import Instant
from otel_waybill.core.pipeline import Execution
from otel_waybill.core.verdicts import Report, Republish, Run, Step, Wait
from otel_waybill.resilience.clock import instant
from otel_waybill.resilience.port import Answer, Performer


def drive(
    execution: Execution,
    performer: Performer,
    report: Report | None = None,
    *,
    clock: Callable[[], Instant] = instant,
    chance: Callable[[], float] = random.random,
) -> Answer:
    """Have *performer* do what *execution* decides, step by step.

    Args:
        execution: the decisions about one delivery.
        performer: its client.
        report: what has become of it before anything was decided; None starts the delivery.
        clock: tells the time.
        chance: draws from [0, 1).

    Returns:
        The answer that reports a settlement which comes after the handler has returned.
    """

    def answer(report: Report) -> None:
        take(execution.resume(report, clock(), chance()))

    def take(step: Step) -> None:
        for event in step.events:
            performer.emit(event)
        match step.verdict:
            case Run() as run:
                performer.attempt(run, answer)
            case Wait() as wait:
                performer.wait(wait, answer)
            case Republish() as copy:
                performer.republish(copy, answer)
            case last:
                performer.settle(last)

    if report is None:
        take(execution.start(clock(), chance()))
    else:
        answer(report)
    return answer
