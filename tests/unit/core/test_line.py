"""Lines: in turn, never too many, and nobody waits while there is room."""

import math
import threading
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otel_waybill.core.bucket import TokenBucket
from otel_waybill.core.line import Bell, Pace, Slots
from otel_waybill.resilience.limits import SharedLine

# The bell.


def test_bell_calls_whoever_listens() -> None:
    """A ring reaches the one who waits, each time."""
    bell, heard = Bell(), []
    bell.listen(lambda: heard.append(1))
    assert [] == heard
    bell.ring()
    bell.ring()
    assert [1, 1] == heard


def test_bell_that_rang_before_anybody_listened_is_heard() -> None:
    """A place that becomes free between the refusal and the wait is not missed."""
    bell, heard = Bell(), []
    bell.ring()
    bell.listen(lambda: heard.append(1))
    assert [1] == heard


def test_hushed_bell_has_forgotten() -> None:
    """What a bell said about an earlier wait says nothing about the next one."""
    bell, heard = Bell(), []
    bell.listen(lambda: heard.append("old"))
    bell.hush()
    bell.ring()
    bell.hush()
    bell.listen(lambda: heard.append("new"))
    assert [] == heard


def test_no_ring_is_lost_between_threads() -> None:
    """Whoever rings while another begins to listen is heard, whichever of them comes first."""
    for _ in range(200):
        bell, heard = Bell(), threading.Event()
        ringing = threading.Thread(target=bell.ring)
        ringing.start()
        bell.listen(heard.set)
        ringing.join()
        assert heard.is_set()


# One line of each kind, step by step.


def test_places_are_given_in_turn() -> None:
    """The third of three waits for a place; a newcomer waits behind it although a place is free."""
    slots, bells = Slots(2), [Bell() for _ in range(4)]
    assert [0.0, 0.0, math.inf] == [slots.ask(bell, 0.0) for bell in bells[:3]]
    assert slots.next() is None
    slots.leave(bells[0])
    assert bells[2] is slots.next()
    assert math.inf == slots.ask(bells[3], 0.0)
    assert 0.0 == slots.ask(bells[2], 0.0)
    assert slots.next() is None


def test_place_is_kept_until_it_is_given_back() -> None:
    """Whoever has a place and asks again has it still, and takes no second one."""
    slots, first, second = Slots(2), Bell(), Bell()
    assert [0.0, 0.0, 0.0] == [slots.ask(bell, 0.0) for bell in (first, first, second)]
    slots.leave(first)
    slots.leave(first)
    third, fourth = Bell(), Bell()
    assert [0.0, math.inf] == [slots.ask(third, 0.0), slots.ask(fourth, 0.0)]


@pytest.mark.parametrize("make", [lambda: Slots(1), lambda: Pace(TokenBucket(rate=1.0, burst=1.0))])
def test_whoever_is_forgotten_blocks_nobody(make: Callable[[], Slots | Pace]) -> None:
    """A connection that is dropped takes its deliveries along: who runs, and who is next."""
    line = make()
    running, waiting, last = Bell(), Bell(), Bell()
    for bell in (running, waiting, last):
        line.ask(bell, 0.0)
    del running, waiting, bell
    assert last is line.next()
    assert 0.0 == line.ask(last, 1.0)


def test_whoever_gives_up_waiting_blocks_nobody() -> None:
    """A delivery that is parked or gone while it waits lets those behind it move up."""
    slots, bells = Slots(1), [Bell() for _ in range(3)]
    for bell in bells:
        slots.ask(bell, 0.0)
    slots.leave(bells[1])
    slots.leave(bells[0])
    assert bells[2] is slots.next()
    assert 0.0 == slots.ask(bells[2], 0.0)


def test_pace_lets_go_one_by_one() -> None:
    """One after the other, each when its time has come; only the first in line has a time."""
    pace, bells = Pace(TokenBucket(rate=0.5, burst=1.0)), [Bell() for _ in range(3)]
    assert [0.0, 2.0, math.inf] == [pace.ask(bell, 10.0) for bell in bells]
    assert bells[1] is pace.next()
    assert math.inf == pace.ask(bells[2], 12.0)
    assert 0.0 == pace.ask(bells[1], 12.0)
    assert bells[2] is pace.next()
    pace.leave(bells[2])
    assert pace.next() is None


def test_idle_lines_are_as_good_as_new() -> None:
    """A line may be forgotten only when nobody has, awaits or just used up anything of it."""
    slots, pace, bell, other = Slots(1), Pace(TokenBucket(rate=1.0, burst=1.0)), Bell(), Bell()
    assert slots.idle(0.0)
    assert pace.idle(0.0)
    for line in (slots, pace):
        line.ask(bell, 0.0)
        line.ask(other, 0.0)
    slots.leave(bell)
    assert not slots.idle(0.0)
    assert not pace.idle(0.0)
    for line in (slots, pace):
        line.leave(other)
    assert slots.idle(0.0)
    assert not pace.idle(0.5)
    assert pace.idle(1.0)


# Whatever comes, in whatever order.


class Crowd(RuleBasedStateMachine):
    """Deliveries that come, ask when they are called or when their time has come, and leave at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.calls: dict[Bell, int] = {}  # since it asked last
        self.waiting: dict[Bell, float] = {}  # until when
        self.inside: list[Bell] = []
        self.let_in: list[float] = []

    def line(self) -> Slots | Pace:
        """A new line."""
        raise NotImplementedError

    @initialize()
    def open(self) -> None:
        """Nobody is there yet."""
        self.shared = SharedLine(self.line())

    def ask(self, bell: Bell) -> None:
        """Ask as a delivery does."""
        first = next(iter(self.waiting), bell)
        self.calls[bell] = 0
        wait = self.shared.ask(bell, self.now)
        if wait == 0.0:
            assert first is bell, "in turn"
            self.waiting.pop(bell, None)
            self.inside.append(bell)
            self.let_in.append(self.now)
        else:
            self.waiting[bell] = self.now + wait

    @rule()
    def somebody_comes(self) -> None:
        """A new delivery."""
        bell = Bell()
        self.calls[bell] = 0

        def heard() -> None:
            self.calls[bell] += 1

        bell.listen(heard)
        self.ask(bell)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def somebody_asks_again(self, data: st.DataObject) -> None:
        """A delivery wakes up for a reason of its own."""
        self.ask(data.draw(st.sampled_from(list(self.waiting))))

    @precondition(lambda self: self.ready())
    @rule()
    def who_is_called_asks(self) -> None:
        """The bell of one has rung, or its time has come."""
        self.ask(self.ready()[0])

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def somebody_gives_up(self, data: st.DataObject) -> None:
        """A delivery is parked, or its channel is gone."""
        bell = data.draw(st.sampled_from(list(self.waiting)))
        del self.waiting[bell]
        self.shared.leave(bell)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def somebody_is_done(self, data: st.DataObject) -> None:
        """A handler has ended."""
        bell = data.draw(st.sampled_from(self.inside))
        self.inside.remove(bell)
        self.shared.leave(bell)

    @rule(seconds=st.floats(0.01, 5.0))
    def time_passes(self, seconds: float) -> None:
        """Nothing else happens."""
        self.now += seconds

    def ready(self) -> list[Bell]:
        """Those who are called, or whose time has come."""
        return [bell for bell, until in self.waiting.items() if self.calls[bell] or until <= self.now]

    def teardown(self) -> None:
        """In the end everybody gets in, by nothing but calls and time."""
        for _ in range(10_000):
            if not self.waiting:
                break
            if self.ready():
                self.ask(self.ready()[0])
            elif self.inside:
                self.shared.leave(self.inside.pop())
            else:
                self.now = min(self.waiting.values())
        assert not self.waiting


class SlotsCrowd(Crowd):
    """At places."""

    @initialize(places=st.integers(1, 3))
    def open(self, places: int) -> None:
        """So many places."""
        self.places = places
        self.shared = SharedLine(Slots(places))

    @invariant()
    def never_too_many(self) -> None:
        """No more are inside than there are places."""
        assert len(self.inside) <= getattr(self, "places", 0)

    @invariant()
    def no_call_is_lost(self) -> None:
        """While there is room, the first in line has been called."""
        if self.waiting and len(self.inside) < self.places:
            assert self.calls[next(iter(self.waiting))]


class PaceCrowd(Crowd):
    """At a pace."""

    RATE, BURST = 2.0, 3

    def line(self) -> Pace:
        """Two per second, three at once."""
        return Pace(TokenBucket(rate=self.RATE, burst=self.BURST))

    @invariant()
    def never_too_fast(self) -> None:
        """In no stretch of time are more let in than pace and burst allow."""
        for i, begin in enumerate(self.let_in):
            in_time = self.BURST + (self.now - begin) * self.RATE
            assert len(self.let_in) - i <= in_time + 0.001

    @invariant()
    def no_call_is_lost(self) -> None:
        """The first in line has been called, or knows when to ask."""
        for bell, until in list(self.waiting.items())[:1]:
            assert self.calls[bell] or until < math.inf


TestSlots = SlotsCrowd.TestCase
TestPace = PaceCrowd.TestCase
for machine in (TestSlots, TestPace):
    machine.settings = settings(stateful_step_count=30)


@pytest.mark.parametrize("line", [lambda: Slots(1), lambda: Pace(TokenBucket(rate=1.0, burst=1.0))])
def test_leaving_what_one_never_entered_is_nothing(line: Callable[[], Slots | Pace]) -> None:
    """Every delivery leaves every line at its end, also one that it never came to."""
    made = line()
    made.leave(Bell())
    assert made.idle(0.0)
