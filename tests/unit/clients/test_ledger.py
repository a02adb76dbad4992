"""The ledger: whose delivery a tag speaks of."""

import gc

import pytest

from otel_waybill.clients.shared.ledger import Ledger, Ledgers, Recent
from otel_waybill.core.verdicts import Settled
from otel_waybill.telemetry.semconv import Destination


class Channel:
    """Something that can be a channel."""


class Entry:
    """A delivery that is with its handler."""

    started = True
    settled: Settled | None = None


ENTRIES = {tag: Entry() for tag in (3, 1, 5, 2)}
ORDERS = Destination("orders", "orders", anonymous=False)


@pytest.fixture
def ledger() -> Ledger[Entry]:
    """A ledger with four deliveries, not in their order."""
    return Ledger(ENTRIES)


def test_one_tag_speaks_of_one_delivery(ledger: Ledger[Entry]) -> None:
    """An ack of one delivery touches no other, and one of a stranger touches none."""
    assert [(2, ENTRIES[2])] == ledger.covered(2, multiple=False)
    assert [] == ledger.covered(4, multiple=False)
    assert [] == ledger.covered(0, multiple=False)


def test_multiple_speaks_of_all_up_to_the_tag(ledger: Ledger[Entry]) -> None:
    """An ack with multiple covers what came before, in the order of delivery; the tag need not be there."""
    assert [(tag, ENTRIES[tag]) for tag in (1, 2, 3)] == ledger.covered(4, multiple=True)
    assert [(tag, ENTRIES[tag]) for tag in (1, 2, 3)] == ledger.covered(3, multiple=True)


def test_zero_with_multiple_speaks_of_all(ledger: Ledger[Entry]) -> None:
    """AMQP's tag 0 means everything that is outstanding."""
    assert [(tag, ENTRIES[tag]) for tag in (1, 2, 3, 5)] == ledger.covered(0, multiple=True)


def test_every_channel_has_its_own_ledger() -> None:
    """The same tag on two channels is two deliveries, and a channel that is gone leaves nothing behind."""
    ledgers: Ledgers[Entry] = Ledgers()
    one, other = Channel(), Channel()
    assert ledgers.seen(one) is None
    ledgers.of(one)[1] = entry = Entry()
    assert {1: entry} == ledgers.of(one) == ledgers.seen(one)
    assert {} == ledgers.of(other)
    assert ledgers.seen(other) is None
    del one
    gc.collect()
    assert 1 == len(ledgers._by_channel)


def test_recent_deliveries_are_told_once() -> None:
    """The span of an ack knows what was delivered; a second ack, or one of a stranger, knows nothing."""
    recent, channel = Recent(), Channel()
    recent.add(channel, 1, ORDERS)
    assert ORDERS is recent.take(channel, 1)
    assert recent.take(channel, 1) is None
    assert recent.take(Channel(), 1) is None


def test_recent_deliveries_are_bounded() -> None:
    """A program that never settles costs a bounded amount of memory: the oldest are forgotten."""
    recent, channel = Recent(), Channel()
    for tag in range(1, 1026):
        recent.add(channel, tag, ORDERS)
    assert recent.take(channel, 1) is None
    assert ORDERS is recent.take(channel, 2)
    assert 1023 == len(recent._by_channel[channel])
