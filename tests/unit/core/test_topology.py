"""The topology: where a message waits, comes back and is kept."""

import sys
import uuid
from contextlib import nullcontext
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from otel_waybill.core.anonymity import is_anonymous
from otel_waybill.core.backoff import Backoff
from otel_waybill.core.declarations import Binding, Exchange, Queue, Step, Topology, refusal
from otel_waybill.core.limits import ConcurrencyLimit, RateLimit
from otel_waybill.core.retry import Retry
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import (
    RUNGS,
    delay_name,
    misplaced,
    parking_key,
    plan,
    rung,
    rungs,
)
from otel_waybill.errors import InvalidPolicy, TopologyMismatch, TopologyMissing, TopologyRefused
from unit.core.objections import objection

KEPT: dict[str, str | int] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 1_000_000,
    "x-overflow": "reject-publish",
}
TO_UNROUTED = {"alternate-exchange": "waybill.unrouted.v1"}
SERVER_NAMED = "amq.gen-JzTY20BRgKO-HjmUJj0wLg"
OUTLIVES = (
    "the queue is server-named or exclusive, so what is parked would outlive it; "
    "name a queue to park in, as in Policy(parking='orders.dlq')"
)
FOR_EVER = "it is the queue in which this policy parks, so what fails there would come back for ever"
UNBOUND = (
    "its name was generated, so nobody can have bound it to where delayed messages come back from; "
    "use topology='declare', or a policy that neither retries by the broker nor holds"
)
SPECS = st.builds(
    PolicySpec,
    retry=st.none() | st.builds(Retry, attempts=st.integers(1, 12)),
    topology=st.sampled_from(("declare", "passive", "none")),
    parking=st.none() | st.sampled_from(("orders.dlq", "dlq")),
)


def rungs_of(retry: Retry) -> tuple[int, ...]:
    """The rungs of a policy that does nothing but retry."""
    return rungs(PolicySpec(retry=retry))


def test_rungs_are_those_of_the_wire_format() -> None:
    """The ladder is the literal list that other languages know."""
    assert (
        *(250, 354, 500, 707, 1000, 1414, 2000, 2828, 4000, 5657, 8000, 11314, 16000, 22627, 32000, 45255),
        *(64000, 90510, 128000, 181019, 256000, 362039, 512000, 724077, 1024000, 1448155, 2048000, 2896309),
    ) == RUNGS


@pytest.mark.parametrize(
    ("delay", "ms"),
    [
        (0.125, 250),
        (0.25, 250),
        (0.2501, 354),
        (1.0, 1000),
        (1.414, 1414),
        (30.0, 32000),
        (2896.309, 2896309),
    ],
)
def test_rung_rounds_up(delay: float, ms: int) -> None:
    """A wait is as long as asked or a little longer; one that is a rung is kept."""
    assert ms == rung(delay, RUNGS)


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.12499, -1.0])
def test_rung_leaves_short_delays_to_the_caller(delay: float) -> None:
    """Less than 125 ms is not worth a trip through the broker."""
    assert rung(delay, RUNGS) is None


def test_rung_clamps_to_the_last() -> None:
    """What the ladder cannot hold waits as long as it can."""
    assert RUNGS[-1] == rung(10_000.0, RUNGS)


def test_rungs_are_their_own() -> None:
    """A delay that is exactly a rung stays on it, whatever binary fractions make of it."""
    assert list(RUNGS) == [rung(ms / 1000, RUNGS) for ms in RUNGS]


@given(st.floats(0.25, RUNGS[-1] / 1000))
def test_rung_is_never_early_and_at_most_an_octave_half_late(delay: float) -> None:
    """A message never comes back too early, and not much more than 41 % too late."""
    ms = rung(delay, RUNGS)
    assert ms is not None
    assert delay <= ms / 1000 <= delay * 1.42


@given(
    st.integers(1, 12),
    st.floats(0.01, 100),
    st.floats(1, 5),
    st.sampled_from(("equal", "full", "none")),
    st.data(),
)
def test_every_delay_finds_its_rung_declared(
    attempts: int, first: float, factor: float, jitter: str, data: st.DataObject
) -> None:
    """Whatever chance decides, the queue a message waits in exists."""
    backoff = Backoff(first=first, ceiling=200.0, factor=factor, jitter=jitter)  # type: ignore[arg-type]  # drawn
    declared = rungs_of(Retry(attempts=attempts, backoff=backoff))
    for attempt in range(1, attempts):
        ms = rung(backoff.delay(attempt, data.draw(st.floats(0, 1, exclude_max=True))), RUNGS)
        assert ms is None or ms in declared


def test_only_reachable_rungs_are_declared() -> None:
    """A policy costs the broker no queue that none of its messages can wait in."""
    assert (500, 707, 1000) == rungs_of(Retry(attempts=2))
    assert (1000, 2000, 4000) == rungs_of(Retry(attempts=4, backoff=Backoff(jitter="none")))
    assert (250, 354, 500) == rungs_of(Retry(attempts=2, backoff=Backoff(first=0.5, jitter="full")))
    assert () == rungs_of(Retry(attempts=9, backoff=Backoff(first=0.05, ceiling=0.1)))
    assert () == rungs_of(Retry(attempts=1))
    assert 32000 == rungs_of(Retry(attempts=sys.maxsize))[-1]


def test_long_waits_have_rungs_for_what_is_left_of_them() -> None:
    """A backoff beyond the last rung goes round on it, and the rest may be of any length."""
    retry = Retry(attempts=2, backoff=Backoff(first=7200.0, ceiling=7200.0, jitter="none"))
    assert RUNGS[-8:] == rungs_of(retry)
    assert RUNGS[-1] == rung(7200.0, rungs_of(retry))


def test_guard_of_classic_queues_needs_the_shortest_rung() -> None:
    """Where there is a second attempt, a message that may have killed its consumer has a place to wait."""
    steady = Backoff(jitter="none")
    assert (250, 1000) == rungs_of(Retry(attempts=2, backoff=steady, classic_guard=True))
    assert () == rungs_of(Retry(attempts=1, classic_guard=True))


def test_who_may_hold_can_put_off() -> None:
    """A breaker or a rate needs a rung, unless retries have some already or the order is kept."""
    breaker, rate = PolicySpec(breaker="payments"), PolicySpec(rate=RateLimit(1))
    assert [(32000,), (32000,)] == [rungs(breaker), rungs(rate)]
    blink = Retry(backoff=Backoff(first=0.05, ceiling=0.1))
    assert (32000,) == rungs(replace(rate, retry=blink))
    steady = Retry(attempts=2, backoff=Backoff(jitter="none"))
    assert (1000,) == rungs(replace(rate, retry=steady))
    assert () == rungs(replace(rate, retry=replace(steady, in_order=True)))
    assert () == rungs(PolicySpec(concurrency=ConcurrencyLimit(1)))


@given(
    st.floats(0.0, 1e7),
    st.sets(st.sampled_from(RUNGS), min_size=1).map(sorted),
)
def test_any_wait_finds_a_rung_that_is_there(delay: float, declared: list[int]) -> None:
    """The first that is long enough, else the longest; the message is then early, never lost."""
    ms = rung(delay, declared)
    if delay < 0.125:
        assert ms is None
    else:
        assert ms in declared
        longer = [each for each in declared if each >= delay * 1000]
        assert ms == (longer[0] if longer else declared[-1])


def test_without_a_ladder_nothing_travels() -> None:
    """Whoever declared no rung holds the message."""
    assert rung(3600.0, ()) is None


def test_plan_without_retry_parks_and_takes_back() -> None:
    """A policy that parks at once declares parking, the way back and a place for the unroutable."""
    assert Topology(
        exchanges=(
            Exchange(name="waybill.unrouted.v1", type="fanout"),
            Exchange(name="waybill.return.v1", type="direct", arguments=TO_UNROUTED),
            Exchange(name="waybill.parking.v1", type="direct", arguments=TO_UNROUTED),
        ),
        queues=(
            Queue(name="waybill.unrouted.v1", arguments=KEPT),
            Queue(name="orders.parked", arguments=KEPT),
        ),
        bindings=(
            Binding(exchange="waybill.unrouted.v1", queue="waybill.unrouted.v1", routing_key=""),
            Binding(exchange="waybill.return.v1", queue="orders", routing_key="orders"),
            Binding(exchange="waybill.parking.v1", queue="orders.parked", routing_key="orders"),
        ),
    ) == plan("orders", PolicySpec())


@pytest.mark.parametrize("parking", [None, "orders.dlq"])
def test_plan_of_what_is_known_repeats_only_what_a_queue_takes_with_it(parking: str | None) -> None:
    """The way back, and where to park; the ladder is everybody's."""
    spec = PolicySpec(retry=Retry(), parking=parking)
    full, again = plan("orders", spec), plan("orders", spec, known=True)
    assert () == again.exchanges
    assert {"orders.dlq" if parking else "orders.parked"} == {queue.name for queue in again.queues}
    assert {"waybill.return.v1", "waybill.parking.v1"} == {binding.exchange for binding in again.bindings}
    assert set(map(str, again.steps)) < set(map(str, full.steps))
    assert Topology() == plan("orders", PolicySpec(topology="none"), known=True)


def test_plan_with_retry_adds_its_rungs() -> None:
    """Each rung is a fanout exchange and a quorum queue that hands on at least once, with the key kept."""
    base = plan("orders", PolicySpec())
    retry = Retry(attempts=2, backoff=Backoff(jitter="none"))
    name = "waybill.delay.v1.1000"
    waits: dict[str, str | int] = {
        "x-queue-type": "quorum",
        "x-message-ttl": 1000,
        "x-dead-letter-exchange": "waybill.return.v1",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    assert Topology(
        exchanges=(*base.exchanges, Exchange(name=name, type="fanout")),
        queues=(*base.queues, Queue(name=name, arguments=waits)),
        bindings=(*base.bindings, Binding(exchange=name, queue=name, routing_key="")),
    ) == plan("orders", PolicySpec(retry=retry))


@given(st.integers(1, 12))
def test_plan_binds_only_what_is_declared_and_never_declares_the_users_queue(attempts: int) -> None:
    """Declaring a plan in order never meets a name that is missing, except the user's own queue."""
    topology = plan("orders", PolicySpec(retry=Retry(attempts=attempts)))
    exchanges = [exchange.name for exchange in topology.exchanges]
    queues = [queue.name for queue in topology.queues]
    assert "orders" not in queues
    assert {binding.exchange for binding in topology.bindings} == set(exchanges)
    assert {binding.queue for binding in topology.bindings} == {*queues, "orders"}
    for exchange in topology.exchanges:
        alternate = exchange.arguments.get("alternate-exchange", exchanges[0])
        assert exchanges.index(str(alternate)) <= exchanges.index(exchange.name)


def test_longest_rung_is_the_last_leg_of_longer_waits_only() -> None:
    """What fits onto the last rung needs no others; what is longer comes round again, for any rest."""
    for seconds in (2_500.0, RUNGS[-1] / 1000):
        backoff = Backoff(first=seconds, ceiling=seconds, jitter="none")
        assert RUNGS[-1:] == rungs(PolicySpec(retry=Retry(backoff=backoff)))
    longer = Backoff(first=2_896.4, ceiling=2_896.4, jitter="none")
    assert RUNGS[-8:] == rungs(PolicySpec(retry=Retry(backoff=longer)))


def test_plan_accepts_the_longest_name_and_no_longer() -> None:
    """A queue whose parking queue could not be named is refused before anything is declared."""
    assert "q" * 248 + ".parked" == plan("q" * 248, PolicySpec()).queues[1].name
    too_long = "ü" * 125
    expected = f"need a queue name of at most 248 bytes, to add '.parked', got {too_long!r}"
    assert expected == objection(lambda: plan(too_long, PolicySpec()))


def test_parking_by_choice_needs_the_users_queue_and_declares_none_of_its_own() -> None:
    """A queue of the user's has whatever arguments it has: it is looked for, bound and never declared."""
    base = plan("orders", PolicySpec())
    chosen = plan("orders", PolicySpec(parking="orders.dlq"))
    assert (base.exchanges, base.bindings[:2]) == (chosen.exchanges, chosen.bindings[:2])
    assert (base.queues[0], Queue(name="orders.dlq", passive=True)) == chosen.queues
    assert (
        Binding(exchange="waybill.parking.v1", queue="orders.dlq", routing_key="orders")
        == (chosen.bindings[2])
    )


@given(SPECS)
def test_passive_asks_for_the_same_and_changes_nothing(spec: PolicySpec) -> None:
    """What is checked is what would have been declared, and a binding cannot be checked."""
    declared = plan("orders", replace(spec, topology="declare"))
    checked = plan("orders", replace(spec, topology="passive"))
    assert () == checked.bindings
    assert [replace(each, passive=True) for each in declared.exchanges] == list(checked.exchanges)
    assert [replace(each, passive=True) for each in declared.queues] == list(checked.queues)


@given(SPECS)
def test_none_asks_for_nothing(spec: PolicySpec) -> None:
    """Who says that everything is there is believed."""
    assert () == plan("orders", replace(spec, topology="none")).steps


@given(SPECS)
def test_steps_come_in_an_order_that_a_broker_accepts(spec: PolicySpec) -> None:
    """Nothing is bound before both ends exist, and nothing comes twice."""
    steps = plan("orders", spec).steps
    assert len(steps) == len({repr(step) for step in steps})
    known = {"queue 'orders'"}
    for step in steps:
        if isinstance(step, Binding):
            assert {f"queue {step.queue!r}", f"exchange {step.exchange!r}"} <= known
        known.add(step.entity)


@given(st.uuids(), st.uuids())
def test_generated_names_share_one_key_for_parking(one: uuid.UUID, other: uuid.UUID) -> None:
    """A program that starts a thousand times leaves one binding at its parking queue, not a thousand."""
    names = [f"amq.gen-{one}", f"amq_{other.hex}", str(one), SERVER_NAMED]
    keys = {
        binding.routing_key
        for name in names
        for binding in plan(name, PolicySpec(parking="orders.dlq")).bindings
        if binding.queue == "orders.dlq"
    }
    assert {"waybill.anonymous.orders.dlq"} == keys


@given(st.text(min_size=1, max_size=255), st.text(min_size=1, max_size=255))
def test_every_other_queue_has_a_key_of_its_own(one: str, other: str) -> None:
    """No queue's messages are parked with those of another, unless both are told to park in the same."""
    assume(not is_anonymous(one))
    assume(not other.startswith("waybill."))  # which are our names
    assert one == parking_key(one, "orders.dlq") == parking_key(one, None)
    assert other != parking_key(SERVER_NAMED, one)


@given(st.text(min_size=1, max_size=237))
def test_key_for_parking_fits_into_a_short_string(parking: str) -> None:
    """A parking queue is accepted only if every key that is made of it can be sent."""
    short = len(parking.encode()) <= 237
    with nullcontext() if short else pytest.raises(InvalidPolicy, match="need a name of 1 to 237 bytes"):
        spec = PolicySpec(parking=parking)
        assert len(parking_key(SERVER_NAMED, spec.parking).encode()) <= 255
    with pytest.raises(InvalidPolicy, match="need a name of 1 to 237 bytes"):
        PolicySpec(parking="q" * 238)


@pytest.mark.parametrize(
    ("expected", "queue", "spec"),
    [
        (None, "orders", PolicySpec(retry=Retry())),
        (None, "orders", PolicySpec(retry=Retry(), topology="none")),
        (OUTLIVES, SERVER_NAMED, PolicySpec()),
        (None, SERVER_NAMED, PolicySpec(parking="dlq")),
        (None, SERVER_NAMED, PolicySpec(parking="dlq", retry=Retry())),
        (None, SERVER_NAMED, PolicySpec(parking="dlq", topology="passive")),
        (UNBOUND, SERVER_NAMED, PolicySpec(parking="dlq", retry=Retry(), topology="passive")),
        (UNBOUND, SERVER_NAMED, PolicySpec(parking="dlq", retry=Retry(), topology="none")),
        (UNBOUND, SERVER_NAMED, PolicySpec(parking="dlq", breaker="b", topology="passive")),
        (
            None,
            SERVER_NAMED,
            PolicySpec(parking="dlq", retry=Retry(in_order=True), topology="passive"),
        ),
        (FOR_EVER, "dlq", PolicySpec(parking="dlq")),
        (FOR_EVER, "dlq", PolicySpec(parking="dlq", topology="none")),
    ],
)
def test_where_a_policy_can_stand(expected: str | None, queue: str, spec: PolicySpec) -> None:
    """What would be lost, or come back for ever or never, is refused before anything is declared."""
    assert expected == misplaced(queue, spec)
    if expected is None:
        plan(queue, spec)
    else:
        assert f"a policy cannot stand on queue {queue!r}: {expected}" == objection(lambda: plan(queue, spec))


def test_exclusive_queue_with_a_name_needs_a_queue_to_park_in() -> None:
    """It vanishes with its connection whatever it is called."""
    assert OUTLIVES == misplaced("worker-1", PolicySpec(), exclusive=True)
    assert misplaced("worker-1", PolicySpec(parking="dlq", retry=Retry()), exclusive=True) is None


RETURN = Exchange(name="waybill.return.v1", type="direct", arguments=TO_UNROUTED)
DELAY = Queue(name="waybill.delay.v1.250", arguments={"x-dead-letter-exchange": "waybill.return.v1"})
BACK = Binding(exchange="waybill.return.v1", queue="orders", routing_key="orders")


@pytest.mark.parametrize(
    ("permissions", "step"),
    [
        (("configure on exchange 'waybill.delay.v1.250'",), Exchange(name=delay_name(250), type="fanout")),
        (
            (
                "configure on exchange 'waybill.return.v1'",
                "read on exchange 'waybill.return.v1'",
                "write on exchange 'waybill.unrouted.v1'",
            ),
            RETURN,
        ),
        (
            (
                "configure on queue 'waybill.delay.v1.250'",
                "read on queue 'waybill.delay.v1.250'",
                "write on exchange 'waybill.return.v1'",
            ),
            DELAY,
        ),
        (("write on queue 'orders'", "read on exchange 'waybill.return.v1'"), BACK),
        (("configure, write or read on queue 'dlq'",), Queue(name="dlq", passive=True)),
        (("configure, write or read on exchange 'waybill.return.v1'",), replace(RETURN, passive=True)),
    ],
)
def test_refusal_names_what_the_user_lacks(permissions: tuple[str, ...], step: Step) -> None:
    """Dead-lettering and alternate exchanges take rights on both sides, which the broker does not tell."""
    error = refusal(step, 403, "ACCESS_REFUSED")
    assert isinstance(error, TopologyRefused)
    assert (step.entity, "ACCESS_REFUSED", permissions) == (error.entity, error.reply, error.needs)


def test_refusals_become_errors_that_say_what_to_do() -> None:
    """Whatever else a broker may say is left as it is."""
    assert repr(TopologyMismatch("exchange 'waybill.return.v1'", "x")) == repr(refusal(RETURN, 406, "x"))
    assert repr(TopologyMissing("queue 'waybill.delay.v1.250'", "x")) == repr(refusal(DELAY, 404, "x"))
    assert None is refusal(BACK, 404, "NOT_FOUND"), "the program's own queue, of which its client tells"
    assert "the binding of queue 'orders' to exchange 'waybill.return.v1'" == BACK.entity
    assert None is refusal(BACK, 405, "RESOURCE_LOCKED")


def test_delay_name_contains_the_time() -> None:
    """Two programs that disagree about a delay never share a queue."""
    assert "waybill.delay.v1.250" == delay_name(250)
