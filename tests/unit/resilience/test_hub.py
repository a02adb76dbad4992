"""The hub: who is told, and which breakers exist."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill import guard
from otel_waybill.core.events import BreakerCalled, BreakerChanged, CallOutcome, Event, RunEnded
from otel_waybill.errors import InvalidPolicy
from otel_waybill.resilience import hub

EVENT = BreakerChanged(breaker="payments", before="closed", after="open", trigger="tripped")


class Recorder:
    """A sink that remembers; two of them are different ones."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        """Remember *event*."""
        self.events.append(event)

    def tell(self, changed: BreakerChanged, /) -> None:
        """Remember what *changed*, as a breaker is told."""
        self.events.append(changed)


class Broken(Recorder):
    """A sink with a fault of its own."""

    def __call__(self, event: Event, /) -> None:
        """Remember *event*, then fail."""
        super().__call__(event)
        msg = "exporter is down"
        raise OSError(msg)


@pytest.fixture
def sinks() -> Iterator[list[Recorder]]:
    """Three sinks, the second of which always raises."""
    sinks = [Recorder(), Broken(), Recorder()]
    for sink in sinks:
        hub.add(sink)
    yield sinks
    for sink in sinks:
        hub.remove(sink)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Faults of the package are logged, as in a user's program, and not raised."""
    loud = guard.harmless.loud
    guard.reraise(on=False)
    yield
    guard.reraise(on=loud)


@pytest.mark.usefixtures("quiet")
def test_a_failing_sink_stops_nobody_and_is_logged_once(
    sinks: list[Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    """Telemetry that breaks costs one line in the log, and neither the program nor the other sinks."""
    hub.emit(EVENT)
    hub.emit(EVENT)
    assert [[EVENT, EVENT]] * 3 == [sink.events for sink in sinks]
    assert 1 == len(caplog.records)
    assert "telling a sink of an event failed" in caplog.text


@pytest.mark.usefixtures("quiet")
def test_removed_sinks_hear_nothing(sinks: list[Recorder]) -> None:
    """After remove() a sink is left alone; removing it again is no error."""
    hub.remove(sinks[0])
    hub.remove(sinks[0])
    hub.emit(EVENT)
    assert [[], [EVENT], [EVENT]] == [sink.events for sink in sinks]


@pytest.mark.usefixtures("quiet")
def test_a_sink_added_twice_hears_once_and_until_both_have_left(sinks: list[Recorder]) -> None:
    """Two clients share what counts: once, and one that stops leaves the other its sink."""
    hub.add(sinks[0])
    hub.emit(EVENT)
    assert [EVENT] == sinks[0].events
    hub.remove(sinks[0])
    hub.emit(EVENT)
    assert [EVENT, EVENT] == sinks[0].events
    hub.remove(sinks[0])
    hub.emit(EVENT)
    assert [EVENT, EVENT] == sinks[0].events


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), max_size=20))
def test_whoever_was_added_more_often_than_removed_hears_once(moves: list[tuple[int, bool]]) -> None:
    """Whatever the order in which clients come and go; removing what is not there owes nothing."""
    pair = [Recorder(), Recorder()]
    counts = [0, 0]
    for who, comes in moves:
        (hub.add if comes else hub.remove)(pair[who])
        counts[who] = counts[who] + 1 if comes else max(0, counts[who] - 1)
    hub.emit(EVENT)
    for sink, count in zip(pair, counts, strict=True):
        for _ in range(count):
            hub.remove(sink)
    hub.emit(EVENT)
    assert [int(count > 0) for count in counts] == [len(sink.events) for sink in pair]


def test_a_sink_may_leave_while_it_is_told(sinks: list[Recorder]) -> None:
    """A sink that removes itself does not make the next one miss the event."""
    for sink in sinks:
        hub.remove(sink)

    def once(_: Event, /) -> None:
        hub.remove(once)

    hub.add(once)
    hub.add(sinks[2])
    hub.emit(EVENT)
    assert [EVENT] == sinks[2].events


def test_a_breaker_is_told_of_its_own_changes() -> None:
    """Listeners of a breaker hear of it whoever brought the change about, and of no other breaker's."""
    payments, stock = Recorder(), Recorder()
    hub.register("payments", payments)
    hub.register("stock", stock)
    hub.emit(EVENT)
    hub.emit(BreakerCalled(breaker="payments", outcome=CallOutcome.SUCCESS))
    hub.emit(RunEnded(queue="payments"))
    assert ([EVENT], []) == (payments.events, stock.events)


def test_two_live_breakers_of_one_name_are_an_error() -> None:
    """Two objects for one dependency would each see half of the failures; the error says what to do."""
    first, second = Recorder(), Recorder()
    hub.register("payments", first)
    with pytest.raises(
        InvalidPolicy, match=r"name 'payments' in a process: share that object .* another name"
    ):
        hub.register("payments", second)
    hub.register("stock", second)


def test_a_breaker_is_forgotten_with_its_last_reference() -> None:
    """The hub keeps nothing alive: a name is free again when its breaker is gone."""
    breaker = Recorder()
    hub.register("payments", breaker)
    del breaker
    replacement = Recorder()
    hub.register("payments", replacement)


def test_a_breaker_kept_only_by_a_traceback_is_forgotten_too() -> None:
    """Tests may each make a breaker of the same name, whatever failed in the test before."""

    def failing_test() -> None:
        kept: list[InvalidPolicy] = []
        breaker = Recorder()
        hub.register("payments", breaker)
        try:
            hub.register("payments", Recorder())
        except InvalidPolicy as error:
            kept.append(error)

    gc.disable()
    try:
        failing_test()
        failing_test()
    finally:
        gc.enable()
