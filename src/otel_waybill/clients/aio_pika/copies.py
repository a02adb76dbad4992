"""Copies of deliveries, published on a confirm channel of our own beside the consumer's."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import DeliveryError, PublishError
from pamqp.commands import Basic

from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.core.verdicts import Published


class Copies:
    """The confirm channel of one connection, which a reconnect replaces with everything else of it."""

    def __init__(self, connection: AbstractConnection) -> None:
        """Publish on *connection*; the channel opens with the first use."""
        self._connection = connection
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._users: Counter[AbstractChannel] = Counter()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def open(self) -> AbstractChannel:
        """Return the channel, a new one if there is none that is open."""
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                # Without this, a message that nobody can route comes back as if it had been delivered.
                self._channel = await self._connection.channel(on_return_raises=True)
            return self._channel

    def publish(
        self, exchange: str, routing_key: str, body: bytes, properties: Basic.Properties
    ) -> "asyncio.Task[Published]":
        """Send a copy, mandatory; its fate is the result of the task, which never raises."""
        return asyncio.create_task(self._publish(exchange, routing_key, body, properties))

    async def _publish(
        self, exchange: str, routing_key: str, body: bytes, properties: Basic.Properties
    ) -> Published:
        try:
            # aiormq finds the publish that a return speaks of by its message id: no two of one id at a time.
            turn = self._turns.setdefault(properties.message_id or str(id(properties)), asyncio.Lock())
            async with turn, self._lent() as channel:
                result = await channel.basic_publish(
                    body, exchange=exchange, routing_key=routing_key, properties=properties, mandatory=True
                )
        except PublishError as error:
            return Published(f"returned by the broker: {error.frame!r}")
        except DeliveryError:
            return Published("refused by the broker (nack)")
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the copy is not proven to be safe
            return Published(f"not confirmed: {error!r}")
        return Published() if isinstance(result, Basic.Ack) else Published(f"not confirmed: {result!r}")

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[AbstractChannel]:
        """Lend the channel for one copy; once it has refused one, the next copies go over a new channel.

        RabbitMQ refuses on and on what comes on a channel that a quorum queue has once refused: also when
        its limit is gone, or when another node leads it (seen on 3.10).
        """
        channel = await self.open()
        self._users[channel] += 1
        try:
            yield channel
        except PublishError:
            raise  # returned, which says nothing about the channel
        except DeliveryError:
            if self._channel is channel:
                self._channel = None
            raise
        finally:
            self._users[channel] -= 1
            if not self._users[channel]:
                del self._users[channel]
                if self._channel is not channel:
                    await channel.close()


def fate(copy: "asyncio.Task[Published]") -> Published:
    """Return what became of *copy*, which is done; whoever cancels all tasks of a loop cancels copies too."""
    return Published("not confirmed: cancelled") if copy.cancelled() else copy.result()


_copies: Owned[Copies | None] = Owned("copies", lambda: None)


def copies(connection: AbstractConnection) -> Copies:
    """Return the copies of *connection*."""
    known = _copies.seen(connection)
    if known is None:
        known = Copies(connection)
        _copies.put(connection, known)
    return known
