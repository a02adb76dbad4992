"""Deliveries that the program fetched itself, and waits for."""

from typing import TYPE_CHECKING

from otel_waybill.clients.pika.enforce import Guard
from otel_waybill.core.delivery import Outcome
from otel_waybill.core.verdicts import Wait
from otel_waybill.resilience.port import Answer

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingConnection

_LOOK = 0.05
"""Seconds after which a delivery that the program fetched itself looks whether a limit has room for it."""


class Pull(Guard):
    """A delivery that the program fetched itself: it waits here, where the program waits for it.

    Only on a BlockingConnection does a program wait.
    """

    _counted = True
    _seconds = 0.0

    def wait(self, wait: Wait, answer: Answer) -> None:
        """Leave the waiting to `complete`: this may be called from within the connection's I/O."""
        self._held = answer
        # Nobody can ring for it in there.
        self._seconds = wait.seconds if wait.bell is None else min(wait.seconds, _LOOK)

    def complete(self) -> Outcome:
        """Pump the connection until the delivery has ended, and return how.

        Raises:
            AMQPError: the connection failed; the broker takes the delivery back.
        """
        self.drive()
        connection: BlockingConnection = self._channel.connection
        try:
            while self.outcome is None:
                if self._held is None:
                    connection._flush_output(lambda: self.outcome is not None or self._held is not None)
                else:
                    hold = self._held
                    connection.sleep(self._seconds)
                    self._waited(hold)  # unless that has ended meanwhile, with its channel
        except BaseException:
            self.interrupt()  # nobody waits for it any more
            raise
        connection._flush_output()
        return self.outcome
