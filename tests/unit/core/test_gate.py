"""The turn of one delivery at a breaker: its permit is closed once, however its attempt ends."""

from collections.abc import Callable

import pytest

from otel_waybill.core.breaker import Admission, Permit
from otel_waybill.core.events import BreakerChanged
from otel_waybill.core.gate import Turn

CHANGED = BreakerChanged(breaker="payments", before="closed", after="open")
PERMIT = Permit(generation=1, probe=False, id=1)
NOW, CHANCE = 12.0, 0.5

CLOSINGS: dict[str, Callable[[Turn], object]] = {
    "succeed": lambda turn: turn.succeed(NOW),
    "fail": lambda turn: turn.fail(NOW, CHANCE),
    "release": lambda turn: turn.release(),
}


class Gate:
    """A breaker that says what it was told to say, and remembers what it was asked."""

    name = "payments"

    def __init__(self, admission: Admission, changed: BreakerChanged | None = None) -> None:
        self.admission = admission
        self.changed = changed
        self.asked: list[tuple[object, ...]] = []

    def acquire(self, now: float, u: float) -> Admission:
        """Let in or not."""
        self.asked.append(("acquire", now, u))
        return self.admission

    def succeed(self, permit: Permit, now: float) -> BreakerChanged | None:
        """Note a success."""
        self.asked.append(("succeed", permit, now))
        return self.changed

    def fail(self, permit: Permit, now: float, u: float) -> BreakerChanged | None:
        """Note a failure."""
        self.asked.append(("fail", permit, now, u))
        return self.changed

    def release(self, permit: Permit) -> None:
        """Note a permit that came back."""
        self.asked.append(("release", permit))


def let_in(changed: BreakerChanged | None = None) -> tuple[Gate, Turn]:
    """A turn that has its permit."""
    gate = Gate(Admission(permit=PERMIT), changed)
    turn = Turn(gate)
    turn.ask(NOW, CHANCE)
    gate.asked.clear()
    return gate, turn


def test_everybody_passes_where_no_gate_is() -> None:
    """A delivery without a breaker asks nobody, has no permit and changes nothing."""
    turn = Turn(None)
    assert ((None, ()), None) == (turn.ask(NOW, CHANCE), turn.permit)
    assert [(), (), None] == [close(turn) for close in CLOSINGS.values()]


def test_permit_is_kept_until_the_attempt_ends() -> None:
    """The answer of the breaker is handed on as it is."""
    gate = Gate(Admission(permit=PERMIT))
    turn = Turn(gate)
    assert (None, ()) == turn.ask(NOW, CHANCE)
    assert PERMIT is turn.permit
    assert [("acquire", NOW, CHANCE)] == gate.asked


def test_refused_delivery_has_nothing_to_close() -> None:
    """What was held and is then given back tells the breaker nothing."""
    gate = Gate(Admission(permit=None, retry_after=3.0))
    turn = Turn(gate)
    turn.ask(NOW, CHANCE)
    for close in CLOSINGS.values():
        close(turn)
    assert [("acquire", NOW, CHANCE)] == gate.asked


@pytest.mark.parametrize(
    ("expected", "how"),
    [
        (("succeed", PERMIT, NOW), "succeed"),
        (("fail", PERMIT, NOW, CHANCE), "fail"),
        (("release", PERMIT), "release"),
    ],
)
@pytest.mark.parametrize("after", CLOSINGS)
def test_permit_is_closed_once(expected: tuple[object, ...], how: str, after: str) -> None:
    """Whatever comes after the first ending of an attempt, as a late ack, changes nothing."""
    gate, turn = let_in()
    CLOSINGS[how](turn)
    CLOSINGS[after](turn)
    assert [expected] == gate.asked
    assert turn.permit is None


@pytest.mark.parametrize("how", ["succeed", "fail"])
def test_change_of_the_breaker_is_handed_on(how: str) -> None:
    """What the end of an attempt changes at the breaker is there to be told, and nothing else."""
    assert (CHANGED,) == CLOSINGS[how](let_in(CHANGED)[1])
    assert () == CLOSINGS[how](let_in()[1])
