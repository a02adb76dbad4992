"""The ledger: what a settlement by the program may speak of, and that it costs a bounded amount of memory."""

import gc
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otel_waybill.clients.shared.ledger import Ledger, Ledgers, Owned, Plan, Table
from otel_waybill.core.verdicts import Settled
from otel_waybill.telemetry.hooks import Message


class Channel:
    """Something that can be a channel."""


class Delivered:
    """A delivery under a policy."""

    def __init__(self, *, entrusted: bool = True, settled: Settled | None = None) -> None:
        self.entrusted = entrusted
        self.settled = settled


class Small(Ledger[Delivered]):
    """A ledger that forgets soon."""

    MOST = 6
    MOST_CLOSED = 2


def noted(*plain: int, **policed: Delivered) -> Ledger[Delivered]:
    """A ledger with *plain* deliveries, and with others under a policy, by tags such as ``t2``."""
    ledger: Ledger[Delivered] = Ledger()
    for tag in plain:
        ledger.note(Message(delivery_tag=tag))
    for name, entry in policed.items():
        tag = int(name.removeprefix("t"))
        ledger.entries[tag] = entry
        ledger.note(Message(delivery_tag=tag))
    return ledger


def test_one_tag_speaks_of_one_delivery() -> None:
    """An ack goes to the broker as it is, also for what nobody has seen: a mistake is the program's own."""
    ledger = noted(1, 2, 3)
    assert Plan(whole=True, tags=[2], entries=[]) == ledger.settle(2, multiple=False, refusing=False)
    assert Plan(whole=True, tags=[9], entries=[]) == ledger.settle(9, multiple=False, refusing=False)
    assert Plan(whole=True, tags=[0], entries=[]) == ledger.settle(0, multiple=False, refusing=False)


@pytest.mark.parametrize(
    ("expected", "tag"), [([1, 3], 3), ([1, 3], 4), ([1, 3, 5], 0), ([], 0), ([1, 3, 5], 9)]
)
def test_multiple_speaks_of_all_up_to_the_tag(expected: list[int], tag: int) -> None:
    """The tag itself need not be there, 0 means all, and they come in the order of delivery."""
    ledger = noted(*([] if not expected else [5, 1, 3]))
    assert expected == ledger.settle(tag, multiple=True, refusing=False).tags
    assert [] == ledger.settle(tag, multiple=True, refusing=False).tags


def test_what_a_policy_holds_is_not_the_programs() -> None:
    """A delivery that waits for a breaker, or whose copy is on its way, is left out of the ack of all."""
    held, running = Delivered(entrusted=False), Delivered()
    ledger = noted(1, 4, t2=held, t3=running)
    assert Plan(whole=False, tags=[1, 3, 4], entries=[running]) == ledger.settle(
        0, multiple=True, refusing=False
    )
    assert Plan(whole=False, tags=[], entries=[]) == ledger.settle(2, multiple=False, refusing=False)


def test_ack_of_what_handlers_have_goes_as_it_is() -> None:
    """One frame stays one frame where nothing is in its way, and the policies hear of it."""
    one, other = Delivered(), Delivered()
    ledger = noted(1, t2=one, t3=other)
    assert Plan(whole=True, tags=[1, 2, 3], entries=[one, other]) == ledger.settle(
        3, multiple=True, refusing=False
    )


def test_refusal_never_reaches_the_broker_for_a_policy() -> None:
    """A nack of a delivery under a policy is a failure for it to deal with; the others get their nack."""
    running, held = Delivered(), Delivered(entrusted=False)
    ledger = noted(1, 4, t2=running, t3=held)
    assert Plan(whole=False, tags=[], entries=[running]) == ledger.settle(2, multiple=False, refusing=True)
    assert Plan(whole=False, tags=[1, 4], entries=[running]) == ledger.settle(0, multiple=True, refusing=True)
    assert Plan(whole=True, tags=[7], entries=[]) == noted(7).settle(7, multiple=True, refusing=True)


@pytest.mark.parametrize("settled", Settled)
def test_second_word_about_a_delivery_is_none(settled: Settled) -> None:
    """A handler that acks twice, or nacks and then acks, has said what it had to say with the first."""
    ledger = noted(t1=Delivered(settled=settled))
    for refusing in (False, True):
        assert Plan(whole=False, tags=[], entries=[]) == ledger.settle(1, multiple=False, refusing=refusing)


@pytest.mark.parametrize("refusing", [False, True])
def test_late_word_about_a_delivery_is_none(*, refusing: bool) -> None:
    """What a policy has settled is settled; with `multiple` the others are settled one by one."""
    ledger, running = noted(1, 3, t2=Delivered(), t4=Delivered()), Delivered()
    ledger.entries[5] = running
    ledger.note(Message(delivery_tag=5))
    ledger.close(2)
    ledger.close(4)
    assert Plan(whole=False, tags=[], entries=[], late=True) == ledger.settle(
        2, multiple=False, refusing=refusing
    )
    assert Plan(whole=False, tags=[1, 3], entries=[], late=True) == ledger.settle(
        4, multiple=True, refusing=refusing
    )
    assert [running] == ledger.settle(5, multiple=False, refusing=refusing).entries


def test_ledger_remembers_so_many_late_ones() -> None:
    """Who is later than that makes a mistake like any other program."""
    ledger = Small()
    for tag in (1, 2, 3):
        ledger.entries[tag] = Delivered()
        ledger.close(tag)
    assert [False, True, True] == [
        ledger.settle(tag, multiple=False, refusing=False).late for tag in (1, 2, 3)
    ]


def test_ledger_remembers_what_was_delivered_but_not_its_body() -> None:
    """The span of an ack names what it is about; megabytes are not kept for that."""
    ledger: Ledger[Delivered] = Ledger()
    about = Message("shop", "order.new", "orders", delivery_tag=1)
    ledger.note(about._replace(body=b"x" * 1000, properties=object()))
    ledger.note(Message(body=b"got without a tag"))
    assert (about, Message(delivery_tag=2), Message()) == tuple(map(ledger.about, (1, 2, None)))
    ledger.entries[1] = Delivered()
    ledger.close(1)
    ledger.close(1)
    assert Message(delivery_tag=1) == ledger.about(1)
    assert {} == ledger.entries


def test_ledger_is_bounded() -> None:
    """A program that never settles costs a bounded amount of memory: the oldest are forgotten."""
    ledger = Small()
    for tag in range(1, 10):
        ledger.note(Message(delivery_tag=tag))
    assert [4, 5, 6, 7, 8, 9] == ledger.settle(0, multiple=True, refusing=False).tags


def test_what_a_policy_has_is_not_forgotten() -> None:
    """However many plain deliveries come after it, a held one is never acknowledged with them."""
    ledger, held = Small(), Delivered(entrusted=False)
    ledger.entries[1] = held
    for tag in range(1, 10):
        ledger.note(Message(delivery_tag=tag))
    plan = ledger.settle(0, multiple=True, refusing=False)
    assert Plan(whole=False, tags=[5, 6, 7, 8, 9], entries=[]) == plan


def test_ledger_of_nothing_but_policies_keeps_them_all() -> None:
    """There is nothing to forget, and the prefetch is the bound."""
    ledger = Small()
    for tag in range(1, 10):
        ledger.entries[tag] = Delivered()
        ledger.note(Message(delivery_tag=tag))
    assert list(range(1, 10)) == ledger.settle(0, multiple=True, refusing=False).tags


class Traffic(RuleBasedStateMachine):
    """One channel on which anything happens in any order, and a broker that takes everything literally."""

    def __init__(self) -> None:
        super().__init__()
        self.tag = 0
        self.outstanding: set[int] = set()  # as the broker sees it
        self.plain: set[int] = set()  # of those, the ones that no policy has
        self.closed: list[int] = []  # the ones that a policy was done with
        self.forgets = False

    @initialize(forgets=st.booleans())
    def open(self, *, forgets: bool) -> None:
        """A channel opens."""
        self.forgets = forgets
        self.ledger: Ledger[Delivered] = Small() if forgets else Ledger()

    @rule()
    def plain_delivery(self) -> None:
        """Something comes that no policy is for."""
        self.tag += 1
        self.outstanding.add(self.tag)
        self.plain.add(self.tag)
        self.ledger.note(Message(delivery_tag=self.tag))

    @precondition(lambda self: len(self.ledger.entries) < 4)
    @rule(entrusted=st.booleans())
    def policed_delivery(self, *, entrusted: bool) -> None:
        """Something comes under a policy, which runs it or holds it."""
        self.tag += 1
        self.outstanding.add(self.tag)
        self.ledger.entries[self.tag] = Delivered(entrusted=entrusted)
        self.ledger.note(Message(delivery_tag=self.tag))

    @precondition(lambda self: self.ledger.entries)
    @rule(data=st.data(), entrusted=st.booleans())
    def turn(self, data: st.DataObject, *, entrusted: bool) -> None:
        """A policy starts a handler again, or a handler ends."""
        entry = self.ledger.entries[data.draw(st.sampled_from(sorted(self.ledger.entries)))]
        if entry.settled is not Settled.ACK:
            entry.entrusted = entrusted
            entry.settled = None if entrusted else entry.settled

    @precondition(lambda self: self.ledger.entries)
    @rule(data=st.data())
    def policy_settles(self, data: st.DataObject) -> None:
        """A policy is done with a delivery: it acks, unless the program has."""
        tag = data.draw(st.sampled_from(sorted(self.ledger.entries)))
        entry = self.ledger.entries[tag]
        if entry.settled is not Settled.ACK:
            assert tag in self.outstanding
        self.outstanding.discard(tag)
        self.closed.append(tag)
        self.ledger.close(tag)

    @rule(data=st.data(), multiple=st.booleans(), refusing=st.booleans())
    def program_settles(self, data: st.DataObject, *, multiple: bool, refusing: bool) -> None:
        """The program acks or refuses one, several or all."""
        late = self.closed[-self.ledger.MOST_CLOSED :]
        known = sorted([*self.outstanding, *late])
        tag = data.draw(st.integers(0, self.tag + 1) if multiple else st.sampled_from(known or [1]))
        if not multiple and tag not in known:
            return  # its own mistake, and the broker closes the channel
        entries = dict(self.ledger.entries)
        theirs = {each for each, entry in entries.items() if entry.entrusted and entry.settled is None}
        meant = {each for each in self.outstanding if each == tag or (multiple and (each < tag or tag == 0))}
        plan = self.ledger.settle(tag, multiple=multiple, refusing=refusing)

        assert plan.late == (tag in late)
        assert not (plan.late and plan.whole)
        settled = meant if plan.whole else set(plan.tags)
        assert settled <= self.outstanding
        assert plan.whole or len(plan.tags) == len(settled)
        assert not settled & (entries.keys() if refusing else entries.keys() - theirs)
        if not self.forgets:
            assert meant & self.plain == settled & self.plain
            assert set(plan.tags) == settled
        assert [entries[each] for each in sorted(meant & theirs)] == plan.entries
        for entry in plan.entries:
            entry.settled = Settled.REFUSED if refusing else Settled.ACK
        self.outstanding -= settled
        self.plain -= settled

    @invariant()
    def nothing_is_lost_on_the_way(self) -> None:
        """What a policy has and nobody acknowledged is still the broker's to hand out again."""
        kept = {tag for tag, entry in self.ledger.entries.items() if entry.settled is not Settled.ACK}
        assert kept <= self.outstanding


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


# What lives with a channel.


def test_every_channel_has_its_own_ledger() -> None:
    """The same tag on two channels is two deliveries, and a channel that is gone leaves nothing behind."""
    ledgers: Ledgers[Delivered] = Ledgers()
    one, other = Channel(), Channel()
    assert ledgers.seen(one) is None
    about = Message("shop", "order.new", "orders", delivery_tag=1)
    ledgers.note(one, about)
    assert (about, Message(delivery_tag=1)) == (ledgers.about(one, 1), ledgers.about(other, 1))
    assert ledgers.of(one) is ledgers.seen(one) is not ledgers.of(other)
    gone = weakref.ref(ledgers.of(one))
    del one
    gc.collect()
    assert gone() is None


def test_value_lives_and_dies_with_its_owner() -> None:
    """Also one that refers to its owner, as a table of weak keys would keep both alive."""
    owned: Owned[list[object]] = Owned("values", list)
    owner = Channel()
    assert owned.seen(owner) is None
    owned.of(owner).append(owner)
    assert [owner] == owned.of(owner) == owned.seen(owner)
    replacement: list[object] = ["another"]
    owned.put(owner, replacement)
    assert replacement is owned.of(owner)
    owned.of(owner).append(owner)
    gone = weakref.ref(owner)
    del owner, replacement
    gc.collect()
    assert gone() is None


def test_values_of_different_names_do_not_meet() -> None:
    """Two things known of one channel are two things."""
    owner = Channel()
    one: Owned[list[str]] = Owned("one", list)
    other: Owned[list[str]] = Owned("other", list)
    assert one.of(owner) is not other.of(owner)
    assert {"_otel_waybill_one", "_otel_waybill_other"} == set(vars(owner))


def test_table_tells_once() -> None:
    """What is known of a fetched message is for its processing, and that comes once."""
    table: Table[str] = Table("pulled")
    channel = Channel()
    assert table.take(channel, 1) is None
    table.add(channel, 1, "one")
    table.add(channel, None, "without a tag")
    assert [None, None, "one", None] == [table.take(channel, tag) for tag in (None, 2, 1, 1)]
    assert table.take(Channel(), 1) is None


def test_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that are fetched and never processed are forgotten, the oldest first."""
    monkeypatch.setattr(Table, "MOST", 3)
    table: Table[int] = Table("pulled")
    channel = Channel()
    for tag in range(1, 6):
        table.add(channel, tag, tag)
    assert [None, None, 3, 4, 5] == [table.take(channel, tag) for tag in range(1, 6)]
