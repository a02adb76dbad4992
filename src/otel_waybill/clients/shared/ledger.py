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


class Recent:
    """What the deliveries of each channel were about, for as long as they may still be settled.

    Without their bodies, and bounded by the channel and by number: a program that never settles costs no
    more than that.
    """

    _MOST = 1024

    def __init__(self) -> None:
        self._by_channel: WeakKeyDictionary[object, dict[int, Message]] = WeakKeyDictionary()

    def add(self, channel: object, message: Message) -> None:
        """Remember what was delivered."""
        if message.delivery_tag is None:
            return
        known = self._by_channel.setdefault(channel, {})
        if len(known) >= self._MOST:
            del known[next(iter(known))]
        known[message.delivery_tag] = message._replace(properties=None, body=None)

    def take(self, channel: object, tag: int) -> Message:
        """Return what is known of *tag*, once."""
        return self._by_channel.get(channel, {}).pop(tag, None) or Message(delivery_tag=tag)
