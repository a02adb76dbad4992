"""What a scenario may ask of a client, whichever it is.

A scenario is synchronous code; only its handlers are coroutine functions, because on asyncio they must be.
A client without a loop runs them in one go: nothing in them really waits there.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

from otel_waybill import Outcome, Policy

PATIENCE = 15.0
"""Seconds after which something that should happen has not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """The properties of a message that every client knows; *expiration* in seconds."""

    headers: Mapping[str, object] | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: float | None = None
    message_id: str | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What clients differ in.

    Attributes:
        ambient: whether a callback runs in the context of whoever drives the connection.
        fetches: whether pulling takes one message at a time, without a consumer.
        stops: whether a running handler can be stopped when its deadline passes.
        process: whether messages have `process()`.
        reconnects: whether a lost connection comes back, with its consumers.
        surfaces: whether an exception that leaves a callback leaves the client's loop, too.
        tells_returns: whether publish returns, rather than raises, that nobody could route the message.
        workers: threads in which the handlers of policies run; only scenarios with a policy run there.
        waits: whether consuming, or `Policy.run`, waits for the broker and says what came of it.
    """

    ambient: bool = False
    fetches: bool = False
    stops: bool = False
    process: bool = False
    reconnects: bool = False
    surfaces: bool = True
    tells_returns: bool = False
    workers: int = 0
    waits: bool = True


class Received(Protocol):
    """One delivery, as a handler of a scenario sees it."""

    @property
    def body(self) -> bytes:
        """Its body."""

    @property
    def exchange(self) -> str:
        """Where it was published to."""

    @property
    def routing_key(self) -> str:
        """With which routing key."""

    @property
    def redelivered(self) -> bool:
        """Whether the broker handed it out before."""

    @property
    def properties(self) -> Properties:
        """Its properties."""

    @property
    def headers(self) -> Mapping[str, object]:
        """Its headers; empty when there are none."""

    async def ack(self, *, multiple: bool = False) -> None:
        """Acknowledge it."""

    async def nack(self, *, requeue: bool = True) -> None:
        """Refuse it."""

    async def reject(self, *, requeue: bool = False) -> None:
        """Refuse it in the other way."""

    async def publish(self, routing_key: str, body: bytes) -> None:
        """Publish another message, as handlers do."""

    async def forward(self, routing_key: str) -> None:
        """Publish it again with the very properties that it came with."""

    async def pause(self, seconds: float) -> None:
        """Be at work for some time."""

    def process(self, **flags: bool) -> AbstractAsyncContextManager[object]:
        """Return the client's own block that settles, with its own *flags*; only with `Features.process`."""


Handler = Callable[[Received], Awaitable[object]]
Native = Callable[..., Any]  # whatever the client calls
Message: TypeAlias = Any  # whatever the client publishes


class Client(Protocol):
    """One client with one connection: a channel that consumes and one that publishes with confirms.

    Attributes:
        raised: what has left its callbacks, as the program would see it.
        outcomes: what `Policy.run` has returned.
    """

    name: ClassVar[str]
    features: ClassVar[Features]
    public: ClassVar[Sequence[tuple[type, str]]]
    """The methods of the client that we replace, as their owner and name."""
    unroutable: ClassVar[type[Exception]]
    """What publishing raises when nobody can route the message."""
    locked: ClassVar[type[Exception]]
    """What meeting the private queue of another connection raises."""
    interruption: ClassVar[type[BaseException]]
    """What stops a handler from outside."""
    raised: list[BaseException]
    outcomes: list[Outcome]

    def open(self) -> None:
        """Open both channels; otherwise each opens when it is used first."""

    def close(self) -> None:
        """Close everything; a second time does nothing."""

    def cut(self) -> None:
        """Lose the connection; only with `Features.reconnects`."""

    def pump(self) -> None:
        """Let it work for a moment."""

    def message(self, body: bytes, properties: Properties) -> Message:
        """Return the client's own object for a message to be published."""

    def headers(self, message: Message) -> Mapping[str, object] | None:
        """Return the headers of what `message` made, the very object."""

    def send(self, message: Message, routing_key: str, exchange: str = "") -> None:
        """Publish what `message` made."""

    def send_unasked(self, routing_key: str) -> None:
        """Publish in the way of the client's tutorial: on a channel with nothing set."""

    def native(self, handler: Handler) -> Native:
        """Return *handler* as the client's kind of callback."""

    def plain(self, handler: Handler) -> Native:
        """Return *handler*, which must not wait, as a plain function."""

    def prefetch(self, count: int) -> None:
        """Set the prefetch of the consuming channel."""

    def consume(self, queue: str, callback: Native, *, acknowledges: bool = True) -> None:
        """Consume *queue* with *callback*."""

    def pull(self, queue: str, policy: Policy, handler: Handler) -> None:
        """Fetch the messages of *queue* one by one and run each under *policy*."""

    def private_queue(self, name: str = "") -> str:
        """Declare an exclusive queue, named by the broker or the client if not here, and return its name."""

    def stream(self, name: str) -> None:
        """Declare a stream."""

    def ack_elsewhere(self, received: Received, *, multiple: bool = False) -> None:
        """Acknowledge from outside the handler."""

    def reject_elsewhere(self, received: Received) -> None:
        """Refuse from outside the handler."""


def raised(client: Client) -> list[BaseException]:
    """Take what has left the callbacks of *client*, which is then accounted for."""
    taken, client.raised = client.raised, []
    return taken


def publish(
    client: Client,
    routing_key: str,
    body: bytes = b"",
    *,
    exchange: str = "",
    **facts: Any,  # noqa: ANN401 - see Properties
) -> None:
    """Publish one message with the properties in *facts*."""
    client.send(client.message(body, Properties(**facts)), routing_key, exchange)


def until(client: Client, condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Let *client* work until *condition* holds."""
    limit = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        client.pump()


def idle(client: Client, seconds: float = 0.1) -> None:
    """Let *client* work for as long as it takes to notice what must not happen."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        client.pump()
