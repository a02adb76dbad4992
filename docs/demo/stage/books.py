"""What really became of every order, and what the run has to show for it."""

from collections.abc import Iterable
from dataclasses import dataclass

from stage.journal import Journals
from stage.queues import Parked


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The sums of one run.

    Attributes:
        published: orders whose publish the broker has confirmed.
        handled: orders for which a receipt was sent.
        parked: orders found in a parked queue, with a reason.
        charged: orders that the gateway has charged.
        duplicates: receipts sent more than once; at-least-once allows them, and they are worth knowing.
    """

    published: int
    handled: int
    parked: int
    charged: frozenset[str]
    duplicates: int

    @property
    def lost(self) -> int:
        """How many orders are nowhere; below 0, some are in two places."""
        return self.published - self.handled - self.parked

    def __str__(self) -> str:
        return f"published {self.published} = handled {self.handled} + parked {self.parked}, lost {self.lost}"


def balance(journals: Journals, parked: Iterable[Parked]) -> Books:
    """Count: *journals* say what the services did, *parked* is what was read from the parked queues."""
    receipts = journals.orders("mail", "receipt")
    return Books(
        published=len(set(journals.orders("shop", "published"))),
        handled=len(set(receipts)),
        parked=len({message.order for message in parked if message.reason}),
        charged=frozenset(journals.orders("payments", "charged")),
        duplicates=len(receipts) - len(set(receipts)),
    )
