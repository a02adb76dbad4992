"""A proxy between a consumer and its broker that breaks the connection at a chosen step of a settlement.

It reads just enough of AMQP 0-9-1 to know the steps: frames, and the few methods that settle a delivery.
"""

import asyncio
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple

LOOPBACK = "127.0.0.1"

_GREETING = 8  # octets of the protocol header, the only thing on the wire that is not a frame
_HEAD = struct.Struct(">BHI")
_METHOD, _HEADER, _BODY = 1, 2, 3
_PUBLISH, _DELIVER, _ACK = (60, 40), (60, 60), (60, 80)


class Step(Enum):
    """A step of a settlement, in the order in which they come."""

    DELIVERED = "the delivery has reached the client"
    COPY_UNSENT = "the client publishes the copy, which does not reach the broker"
    COPY_SENT = "the copy is on its way to the broker"
    UNCONFIRMED = "the broker has stored the copy, and its confirm does not reach the client"
    UNACKED = "the copy is confirmed, and the ack of the client does not reach the broker"
    ACKED = "the ack is on its way to the broker"


class Strike(NamedTuple):
    """When to break a connection: at every n-th occurrence of a step, so many times."""

    step: Step
    every: int
    times: int


class Proxy:
    """Forwards to a broker from a port of its own; it lives in a thread of its own.

    Attributes:
        port: where to connect.
        upstream: where the broker listens; another one is for connections to come.
        broken: connections that it has broken at a step of a settlement.
    """

    def __init__(self, port: int, strike: Strike | None = None, act: Callable[[], object] = bool) -> None:
        """Start.

        Args:
            port: where the broker listens.
            strike: when to break a connection.
            act: what to do first when that moment has come.
        """
        self.broken = 0
        self.upstream = port
        self._strike = strike
        self._act = act
        self._seen: Counter[Step] = Counter()
        self._links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, LOOPBACK, 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def stall(self) -> None:
        """Hold back what the broker says, until `resume`."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def resume(self) -> None:
        """Let through what was held back."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def cut(self) -> None:
        """Break every connection that there is."""
        self._call(self._cut())

    def close(self) -> None:
        """Break every connection and stop."""
        self._server.close()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def flowing(self) -> None:
        """Wait while the broker is held back."""
        await self._flowing.wait()

    def reached(self, step: Step) -> bool:
        """Take note of *step* and tell whether the connection is to be broken now."""
        strike = self._strike
        if strike is None or strike.step is not step or self.broken >= strike.times:
            return False
        self._seen[step] += 1
        if self._seen[step] % strike.every:
            return False
        self.broken += 1
        self._act()
        return True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, Broken):
            upstream = await asyncio.open_connection(LOOPBACK, self.upstream)
            link = Link(self, (reader, writer), upstream)
            self._links.add(link)
            try:
                await link.run()
            finally:
                self._links.discard(link)
        writer.close()

    async def _cut(self) -> None:
        for link in list(self._links):
            link.close()

    def _call(self, coroutine: "Coroutine[Any, Any, Any]") -> Any:  # noqa: ANN401 - whatever it returns
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


class Broken(Exception):  # noqa: N818 - it is what is meant to happen
    """This connection has reached the step at which it was to be broken."""


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: Stream, broker: Stream) -> None:
        self._proxy = proxy
        self._client = client
        self._broker = broker
        self._copying: set[int] = set()
        self._delivering = False
        self._confirmed = False
        self._missing: Counter[tuple[str, int]] = Counter()

    async def run(self) -> None:
        """Forward both ways until one of them ends."""
        reader, writer = self._client[0], self._broker[1]
        writer.write(await reader.readexactly(_GREETING))
        ways = [asyncio.create_task(self._from_client()), asyncio.create_task(self._from_broker())]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self.close()

    def close(self) -> None:
        """End both sides; what was forwarded is still sent."""
        for _, writer in (self._client, self._broker):
            writer.close()

    async def _from_client(self) -> None:
        reader, writer = self._client[0], self._broker[1]
        while True:
            kind, channel, frame, method = await _frame(reader)
            if method == _PUBLISH and _exchange(frame).startswith(b"waybill."):
                self._strike_at(Step.COPY_UNSENT)
                self._copying.add(channel)
            elif method == _ACK and self._confirmed:
                self._strike_at(Step.UNACKED)
            writer.write(frame)
            await writer.drain()
            if method == _ACK and self._confirmed:
                self._confirmed = False
                self._strike_at(Step.ACKED)
            elif channel in self._copying and self._complete("client", kind, channel, frame):
                self._copying.discard(channel)
                self._strike_at(Step.COPY_SENT)

    async def _from_broker(self) -> None:
        reader, writer = self._broker[0], self._client[1]
        while True:
            kind, channel, frame, method = await _frame(reader)
            await self._proxy.flowing()
            if method == _ACK:
                self._strike_at(Step.UNCONFIRMED)
                self._confirmed = True
            self._delivering = method == _DELIVER or self._delivering
            writer.write(frame)
            await writer.drain()
            if self._delivering and self._complete("broker", kind, channel, frame):
                self._delivering = False
                self._strike_at(Step.DELIVERED)

    def _complete(self, sender: str, kind: int, channel: int, frame: bytes) -> bool:
        """Take note of a part of a message, and tell whether it was the last."""
        if kind == _HEADER:
            # Class and weight, two octets each, then the size of the body.
            self._missing[sender, channel] = int.from_bytes(frame[11:19])
        elif kind == _BODY:
            self._missing[sender, channel] -= len(frame) - _HEAD.size - 1
        return kind in {_HEADER, _BODY} and not self._missing[sender, channel]

    def _strike_at(self, step: Step) -> None:
        if self._proxy.reached(step):
            raise Broken


async def _frame(reader: asyncio.StreamReader) -> tuple[int, int, bytes, tuple[int, int] | None]:
    """Return the next frame: its kind, its channel, all of it, and which method it is if it is one."""
    head = await reader.readexactly(_HEAD.size)
    kind, channel, size = _HEAD.unpack(head)
    frame = head + await reader.readexactly(size + 1)
    method = struct.unpack_from(">HH", frame, _HEAD.size) if kind == _METHOD else None
    return kind, channel, frame, method


def _exchange(publish: bytes) -> bytes:
    """Return the exchange of a Basic.Publish: after class, method and a reserved short, a short string."""
    start = _HEAD.size + 6
    return publish[start + 1 : start + 1 + publish[start]]
