"""The turn of one delivery at its limits and its breaker: whatever it took is given back, once."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill.core.breaker import Admission, Breaker, Permit
from otel_waybill.core.bucket import TokenBucket
from otel_waybill.core.events import BreakerChanged, BreakerEvent
from otel_waybill.core.gate import Limits, Refusal, Turn
from otel_waybill.core.line import Bell, Pace, Slots
from otel_waybill.core.spec import BreakerSpec

CHANGED = BreakerChanged(breaker="payments", before="closed", after="open", trigger="tripped")
PERMIT = Permit(breaker=None, generation=1, since=0.0)
NOW, CHANCE, ERROR = 12.0, 0.5, ValueError()

CLOSINGS: dict[str, Callable[[Turn], object]] = {
    "succeed": lambda turn: turn.succeed(NOW, CHANCE),
    "fail": lambda turn: turn.fail(ERROR, NOW, CHANCE),
    "release": lambda turn: turn.release(),
    "leave": lambda turn: turn.leave(),
}


class Gate:
    """A breaker that says what it was told to say, and remembers what it was asked."""

    name = "payments"

    def __init__(self, admission: Admission, *told: BreakerEvent) -> None:
        self.admission = admission
        self.told = told
        self.asked: list[tuple[object, ...]] = []

    def acquire(self, now: float, u: float) -> Admission:
        """Let in or not."""
        self.asked.append(("acquire", now, u))
        return self.admission

    def succeed(self, permit: Permit, now: float, u: float) -> tuple[BreakerEvent, ...]:
        """Note a success."""
        self.asked.append(("succeed", permit, now, u))
        return self.told

    def fail(
        self, permit: Permit, now: float, u: float, error: BaseException | None = None
    ) -> tuple[BreakerEvent, ...]:
        """Note a failure."""
        self.asked.append(("fail", permit, now, u, error))
        return self.told

    def release(self, permit: Permit) -> tuple[BreakerEvent, ...]:
        """Note a permit that came back."""
        self.asked.append(("release", permit))
        return self.told


def let_in(*told: BreakerEvent) -> tuple[Gate, Turn]:
    """A turn that has its permit."""
    gate = Gate(Admission(permit=PERMIT), *told)
    turn = Turn(gate)
    turn.ask(NOW, CHANCE)
    gate.asked.clear()
    return gate, turn


def test_everybody_passes_where_no_gate_is() -> None:
    """A delivery without a breaker asks nobody, has no permit and changes nothing."""
    turn = Turn(None)
    assert ((None, ()), None) == (turn.ask(NOW, CHANCE), turn.permit)
    assert [(), (), (), ()] == [close(turn) for close in CLOSINGS.values()]


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
        (("succeed", PERMIT, NOW, CHANCE), "succeed"),
        (("fail", PERMIT, NOW, CHANCE, ERROR), "fail"),
        (("release", PERMIT), "release"),
        (("release", PERMIT), "leave"),
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


@pytest.mark.parametrize("how", CLOSINGS)
def test_what_the_breaker_has_to_tell_is_handed_on(how: str) -> None:
    """What the end of an attempt changes at the breaker is there to be told, and nothing else."""
    assert (CHANGED,) == CLOSINGS[how](let_in(CHANGED)[1])
    assert () == CLOSINGS[how](let_in()[1])


# With limits.


class Everything:
    """Real limits and a real breaker, for many turns."""

    def __init__(self) -> None:
        self.slots, self.pace = Slots(2), Pace(TokenBucket(rate=1.0, burst=1.0))
        self.breaker = Breaker(BreakerSpec(name="payments", probes=1, minimum_calls=1, open_jitter=0.0))
        self.permits: list[Permit] = []
        self.name = "payments"

    def turn(self) -> Turn:
        """A new turn at all of them."""
        return Turn(self, Limits(self.slots, self.pace))

    def acquire(self, now: float, u: float) -> Admission:
        """Ask the breaker."""
        admission = self.breaker.acquire(now, u)
        self.permits += [] if admission.permit is None else [admission.permit]
        return admission

    def succeed(self, permit: Permit, now: float, u: float) -> tuple[BreakerEvent, ...]:
        """Tell the breaker."""
        return self.breaker.succeed(permit, now, u)

    def fail(
        self, permit: Permit, now: float, u: float, error: BaseException | None = None
    ) -> tuple[BreakerEvent, ...]:
        """Tell the breaker."""
        del error
        return self.breaker.fail(permit, now, u)

    def release(self, permit: Permit) -> tuple[BreakerEvent, ...]:
        """Tell the breaker."""
        return self.breaker.release(permit)


def test_place_comes_first_then_breaker_then_pace() -> None:
    """A token cannot be given back, so nobody takes one who is refused elsewhere."""
    all_of_it = Everything()
    first, second, third = (all_of_it.turn() for _ in range(3))
    assert (None, ()) == first.ask(NOW, CHANCE)
    assert (Refusal(1.0, limit="rate"), ()) == second.ask(NOW, CHANCE)
    assert second.permit is None
    assert (Refusal(math.inf, limit="concurrency"), ()) == third.ask(NOW, CHANCE)
    first.fail(ERROR, NOW, CHANCE)
    assert "open" == all_of_it.breaker.state
    assert (Refusal(5.0, breaker="payments"), ()) == second.ask(NOW, CHANCE)
    assert second.bell is all_of_it.pace.next(), "it keeps its place in line"


def test_every_limit_is_asked_at_the_moment() -> None:
    """What a limit decides may depend on the time."""
    moments: list[float] = []

    class Clocked(Slots):
        def ask(self, bell: Bell, now: float) -> float:
            moments.append(now)
            return super().ask(bell, now)

    Turn(None, Limits(Clocked(1), Clocked(1))).ask(NOW, CHANCE)
    assert [NOW, NOW] == moments


def test_refused_pace_gives_the_permit_back() -> None:
    """Whoever has to wait for its pace is no probe that others wait for."""
    gate = Gate(Admission(permit=PERMIT, changed=CHANGED))
    turn = Turn(gate, Limits(rate=Pace(TokenBucket(rate=1.0, burst=1.0))))
    turn.ask(NOW, CHANCE)
    turn.release()
    gate.asked.clear()
    assert (Refusal(1.0, limit="rate"), (CHANGED,)) == turn.ask(NOW, CHANCE)
    assert [("acquire", NOW, CHANCE), ("release", PERMIT)] == gate.asked
    assert turn.permit is None


def test_asking_forgets_an_old_ring() -> None:
    """A bell that rang for the last wait does not end the next one at once."""
    slots, rung = Slots(1), []
    slots.ask(Bell(), NOW)
    turn = Turn(None, Limits(slots))
    turn.bell.ring()
    turn.ask(NOW, CHANCE)
    turn.bell.listen(lambda: rung.append(1))
    assert [] == rung


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4), st.sampled_from(["ask", *CLOSINGS]), st.floats(0.0, 3.0), st.floats(0, 0.99)
        ),
        max_size=40,
    )
)
def test_nothing_taken_is_kept(story: list[tuple[int, str, float, float]]) -> None:
    """Five deliveries ask, end and leave in any order: never too many run, and in the end all is free."""
    all_of_it, now = Everything(), NOW
    turns = [all_of_it.turn() for _ in range(5)]
    admitted: set[int] = set()
    for who, what, after, u in story:
        now += after
        if what != "ask":
            CLOSINGS[what](turns[who])
            admitted -= {who} if what == "leave" else set()
        elif who not in admitted and turns[who].ask(now, u)[0] is None:
            admitted.add(who)
        assert len(admitted) <= 2
    for turn in turns:
        turn.leave()
    assert all_of_it.slots.idle(now)
    assert all_of_it.pace.next() is None
    assert not any(permit.open for permit in all_of_it.permits)
