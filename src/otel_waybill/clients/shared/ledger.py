"""Deliveries under a policy that are not settled yet, by channel.

A program settles by delivery tag, from wherever it likes. The ledger tells whose tag that is, so that a
refusal can be intercepted and an ack is noticed.
"""

from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from otel_waybill.core.verdicts import Settled
from otel_waybill.telemetry.hooks import Message


class Entry(Protocol):
    """One delivery in the ledger."""

    @property
    def started(self) -> bool:
        """Whether the handler has been given it; one that is held is nobody's to settle yet."""

    @property
    def settled(self) -> Settled | None:
        """What the program has said about it so far."""


E = TypeVar("E", bound=Entry)
T = TypeVar("T")


class Ledger(dict[int, E]):
    """The entries of one channel by delivery tag."""

    def covered(self, tag: int, *, multiple: bool) -> list[tuple[int, E]]:
        """Return the entries that a settlement of *tag* speaks of; 0 with *multiple* means all of them."""
        if not multiple:
            entry = self.get(tag)
            return [] if entry is None else [(tag, entry)]
        return [(each, entry) for each, entry in sorted(self.items()) if tag == 0 or each <= tag]


class Ledgers(Generic[E]):
    """The ledger of each channel, forgotten with it: tags of an old channel mean nothing on a new one."""

    def __init__(self) -> None:
        self._by_channel: WeakKeyDictionary[object, Ledger[E]] = WeakKeyDictionary()

    def of(self, channel: object) -> Ledger[E]:
        """Return the ledger of *channel*, a new one if it has none."""
        return self._by_channel.setdefault(channel, Ledger())

    def seen(self, channel: object) -> Ledger[E] | None:
        """Return the ledger of *channel* if it has one with entries."""
        return self._by_channel.get(channel) or None


class Table(Generic[T]):
    """Something about each delivery of each channel, by delivery tag, for as long as it may be wanted.

    Bounded by the life of the channel and by number: a program that never settles costs no more than that.
    """

    _MOST = 1024

    def __init__(self) -> None:
        self._by_channel: WeakKeyDictionary[object, dict[int, T]] = WeakKeyDictionary()

    def add(self, channel: object, tag: int | None, value: T) -> None:
        """Remember *value*; a delivery without a tag cannot be asked for again."""
        if tag is None:
            return
        known = self._by_channel.setdefault(channel, {})
        if len(known) >= self._MOST:
            del known[next(iter(known))]
        known[tag] = value

    def get(self, channel: object, tag: int | None) -> T | None:
        """Return what is known of *tag*."""
        return None if tag is None else self._by_channel.get(channel, {}).get(tag)

    def take(self, channel: object, tag: int | None) -> T | None:
        """Return what is known of *tag*, once."""
        return None if tag is None else self._by_channel.get(channel, {}).pop(tag, None)


class Recent(Table[Message]):
    """What each delivery was about, without its body."""

    def note(self, channel: object, message: Message) -> None:
        """Remember what was delivered."""
        self.add(channel, message.delivery_tag, message._replace(properties=None, body=None))

    def about(self, channel: object, tag: int) -> Message:
        """Return what a settlement of *tag* is about, once."""
        return self.take(channel, tag) or Message(delivery_tag=tag)

    def queue(self, channel: object, tag: int | None) -> str | None:
        """Return the queue from which *tag* came, if that is known."""
        known = self.get(channel, tag)
        return None if known is None else known.queue
