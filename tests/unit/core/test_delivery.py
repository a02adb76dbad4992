"""Outcomes: whether a message has come to its end."""

import pytest

from otel_waybill.core.delivery import Outcome, Result

FINAL = {Result.HANDLED, Result.PARKED, Result.DROPPED}


@pytest.mark.parametrize("result", Result)
def test_final_outcomes_are_those_after_which_nobody_sees_the_message(result: Result) -> None:
    """Handled, parked or dropped: everything else comes again, or is still open."""
    assert (result in FINAL) == Outcome(result=result, attempt=1).final
