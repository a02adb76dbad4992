"""How much of what arrives is believed: whose facts, and whose clocks."""

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal, NamedTuple

from otel_waybill.core.rules import require

Trust = Literal["all", "none"] | frozenset[str]
Inheritance = Literal["inherit", "ignore"]
Trusted = Literal["all", "none"] | AbstractSet[str] | list[str] | tuple[str, ...]
"""What programs write for `Trust`."""

LONGEST_DEADLINE = 86_400.0
"""Seconds; a deadline further away is no deadline that anybody waits for."""
SKEW_TOLERANCE = 1.0
"""Seconds by which clocks of machines may differ without anybody taking note."""
LARGEST_SKEW = 600.0
"""Seconds; a clock that is wrong by more than this does not tell time."""

_ROUNDING = 0.001  # deadline and timeout are rounded to milliseconds, each by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """How much of the end-to-end facts of a message is believed.

    Attributes:
        trust: whose facts count: everybody's, nobody's, or those of messages whose ``user_id``, which the
            broker validates, is one of these.
        deadline: whether a deadline that arrives is taken over.
        skew_tolerance: seconds by which clocks may differ.
        max_deadline: seconds; a deadline further away is shortened to it.
    """

    trust: Trust = "all"
    deadline: Inheritance = "inherit"
    skew_tolerance: float = SKEW_TOLERANCE
    max_deadline: float = LONGEST_DEADLINE

    def in_sender(self, user_id: str | None) -> bool:
        """Return whether a message that was sent with *user_id* is believed."""
        if isinstance(self.trust, frozenset):
            return user_id in self.trust
        return self.trust == "all"


BELIEF = Belief()
"""What is believed where no policy says anything else."""


class Claim(NamedTuple):
    """What a message says of its deadline: Unix time, and what was left when it was sent; milliseconds."""

    deadline: int
    timeout: int | None


class Judged(NamedTuple):
    """What is made of a claim.

    Attributes:
        deadline: Unix time by the clock of this machine, seconds; None when the claim is worth nothing.
        skew: seconds by which the sender's clock is ahead of ours, at least; 0 within the tolerance.
    """

    deadline: float | None
    skew: float = 0.0


def judge(claim: Claim, belief: Belief, now: float) -> Judged:
    """Return what to make of *claim* at Unix time *now*.

    By its own words the message was sent at ``deadline - timeout``. A moment before now is ordinary: it
    waited. A moment after now shows that the sender's clock is ahead, by that much or more. One that is
    behind cannot be told from waiting; the tolerance covers it. In no case is more time left than was left
    when the message was sent.
    """
    deadline = claim.deadline / 1000
    if claim.timeout is None:
        return Judged(min(deadline, now + belief.max_deadline))
    timeout = claim.timeout / 1000
    ahead = deadline - timeout - now
    skew = ahead if ahead > belief.skew_tolerance + _ROUNDING else 0.0
    if skew > LARGEST_SKEW:
        return Judged(None, skew)
    return Judged(min(deadline, now + min(timeout, belief.max_deadline)), skew)


def trusting(whom: object) -> Trust:
    """Return *whom*, as a program or its settings name them, as a policy keeps it.

    Raises:
        InvalidPolicy: it is neither "all" nor "none" nor a collection of user ids.
    """
    if whom == "all":
        return "all"
    if whom == "none":
        return "none"
    users = whom if isinstance(whom, Collection) and not isinstance(whom, str | bytes) else ()
    require(
        rule="trust to be 'all', 'none' or a collection of user ids, at least one",
        holds=bool(users) and all(isinstance(user, str) and user for user in users),
        seen=whom,
    )
    return frozenset(users)
