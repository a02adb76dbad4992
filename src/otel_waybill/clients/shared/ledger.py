"""The deliveries of one channel that are not settled yet, and whose they are.

A program settles by delivery tag, from wherever it likes, and with `multiple` for tags that it does not even
name. The ledger tells what it may settle: what its handlers have been given, and nothing that a policy
holds, runs again or is copying, because an ack for that loses a message or closes the channel.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from otel_waybill.core.verdicts import Settled
from otel_waybill.telemetry.hooks import Message


class Entry(Protocol):
    """One delivery under a policy."""

    @property
    def entrusted(self) -> bool:
        """Whether it is for the program to settle: while its handler runs, or left it open."""

    @property
    def settled(self) -> Settled | None:
        """What the program has said about it so far."""


T = TypeVar("T")
E = TypeVar("E", bound=Entry)


class Plan(NamedTuple, Generic[E]):
    """What becomes of one settlement by the program.

    Attributes:
        whole: whether its own frame may go to the broker as it is.
        tags: if not, the tags to settle one by one instead.
        entries: the deliveries under a policy that it speaks of.
        late: whether its own tag was settled before, by a policy or under one: a frame with that tag would
            close the channel (AMQP 0-9-1, basic.ack).
    """

    whole: bool
    tags: list[int]
    entries: list[E]
    late: bool = False


class Ledger(Generic[E]):
    """The unsettled deliveries of one channel."""

    MOST = 65_536
    """More than any limited prefetch allows; a program that never settles costs no more than that."""

    MOST_CLOSED = 10_000
    """Deliveries that a policy is done with, and of which a slow thread of the program may speak still."""

    def __init__(self) -> None:
        self.entries: dict[int, E] = {}
        self._about: dict[int, Message] = {}
        self._closed: OrderedDict[int, None] = OrderedDict()

    def note(self, message: Message) -> None:
        """Remember what was delivered, without its body."""
        tag = message.delivery_tag
        if tag is None:
            return
        if len(self._about) >= self.MOST:
            # Never one under a policy: an ack of all would speak for it.
            oldest = next((each for each in self._about if each not in self.entries), tag)
            self._about.pop(oldest, None)
        exchange, routing_key, queue, _, _, _, temporary = message
        self._about[tag] = Message(exchange, routing_key, queue, None, None, tag, temporary)

    def about(self, tag: int | None) -> Message:
        """Return what the delivery with *tag* was about, as far as that is known."""
        known = None if tag is None else self._about.get(tag)
        return Message(delivery_tag=tag) if known is None else known

    def close(self, tag: int) -> None:
        """Forget the delivery with *tag*, but that it was: its policy has settled it, or nobody can."""
        self.entries.pop(tag, None)
        self._about.pop(tag, None)
        self._closed[tag] = None
        if len(self._closed) > self.MOST_CLOSED:
            self._closed.popitem(last=False)

    def settle(self, tag: int, *, multiple: bool, refusing: bool) -> Plan[E]:
        """Decide what a settlement of *tag* by the program may say, and forget what it settles.

        Args:
            tag: the delivery tag; 0 with *multiple* means all (AMQP 0-9-1, basic.ack).
            multiple: whether it speaks of all up to *tag* as well.
            refusing: whether it is a nack or a reject, which for a delivery under a policy is a failure
                for the policy to deal with.
        """
        late = tag in self._closed
        if not multiple and not late and tag not in self.entries:
            self._about.pop(tag, None)
            return Plan(whole=True, tags=[tag], entries=[])
        if not multiple:
            covered = [] if late else [tag]
        else:
            covered = sorted(each for each in self._about if tag in {0, each} or each < tag)
        entries = {each: self.entries[each] for each in covered if each in self.entries}
        open_ = [entry for entry in entries.values() if entry.entrusted and entry.settled is None]
        if refusing:
            tags = [each for each in covered if each not in entries]
            whole = not entries and not late
        else:
            tags = [each for each in covered if each not in entries or entries[each] in open_]
            whole = len(open_) == len(entries) and not late
        for each in tags:
            self._about.pop(each, None)
        return Plan(whole, tags, open_, late)


class Owned(Generic[T]):
    """A value that lives and dies with an object of the client's, such as a channel.

    Kept as an attribute of that object: a table of our own would keep alive what its values refer to.
    """

    def __init__(self, name: str, make: Callable[[], T]) -> None:
        """Name the value; *make* makes one for an owner that has none."""
        self._name = f"_otel_waybill_{name}"
        self._make = make

    def of(self, owner: object) -> T:
        """Return the value of *owner*, a new one if it has none."""
        value: T | None = self.seen(owner)
        if value is None:
            value = vars(owner)[self._name] = self._make()
        return value

    def seen(self, owner: object) -> T | None:
        """Return the value of *owner* if it has one."""
        return vars(owner).get(self._name)

    def put(self, owner: object, value: T | None) -> None:
        """Give *owner* another value."""
        vars(owner)[self._name] = value


class Table(Generic[T]):
    """Something about each delivery of each channel, by delivery tag; the oldest are forgotten first."""

    MOST = 4096
    """A program that never asks for any of it again costs no more than that."""

    def __init__(self, name: str) -> None:
        """Name what it is."""
        self._of: Owned[dict[int, T]] = Owned(name, dict)

    def add(self, channel: object, tag: int | None, value: T) -> None:
        """Remember *value*; a delivery without a tag cannot be asked for again."""
        if tag is None:
            return
        known = self._of.of(channel)
        if len(known) >= self.MOST:
            del known[next(iter(known))]
        known[tag] = value

    def take(self, channel: object, tag: int | None) -> T | None:
        """Return what is known of *tag*, once."""
        known = self._of.seen(channel)
        return None if known is None or tag is None else known.pop(tag, None)


class Ledgers(Owned[Ledger[E]]):
    """The ledger of each channel: tags of an old channel mean nothing on a new one."""

    def __init__(self) -> None:
        super().__init__("ledger", Ledger)

    def note(self, channel: object, message: Message) -> None:
        """Remember what was delivered on *channel*."""
        self.of(channel).note(message)

    def about(self, channel: object, tag: int | None) -> Message:
        """Return what the delivery with *tag* was about, as far as that is known."""
        return self.of(channel).about(tag)
