"""The payment gateway that the demo pretends to call: flaky by script, never by chance."""

import asyncio
from collections import Counter

from common import JOURNAL, note

OUTAGE = JOURNAL / "gateway-is-down"
"""While this file exists, nobody can be charged."""


class GatewayTimeout(Exception):  # noqa: N818 - called what a payment provider's library would call it
    """The gateway did not answer in time; trying again later may help."""


class GatewayDown(Exception):  # noqa: N818 - see above
    """The gateway cannot be reached at all."""


class Gateway:
    """Charges orders, except during an outage and for as many calls as an order is scripted to fail."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()

    async def charge(self, order: str, *, timeouts: int) -> None:
        """Charge *order*.

        Raises:
            GatewayTimeout: this is one of the first *timeouts* calls for this order.
            GatewayDown: there is an outage.
        """
        await asyncio.sleep(0.12)
        self._calls[order] += 1
        if OUTAGE.exists():
            note("payments", "refused", order=order)
            msg = "the gateway cannot be reached"
            raise GatewayDown(msg)
        if self._calls[order] <= timeouts:
            note("payments", "timed out", order=order)
            msg = "no answer from the gateway"
            raise GatewayTimeout(msg)
        note("payments", "charged", order=order)
