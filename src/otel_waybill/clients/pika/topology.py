"""Sees to it that the broker has what a policy needs, on a channel beside the consumer's."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pika.adapters.blocking_connection import BlockingConnection
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker

from otel_waybill.clients.pika.loop import open_beside
from otel_waybill.clients.pika.read import AnyChannel, underlying
from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.clients.shared.topology import Key, key, request
from otel_waybill.core.declarations import Step, refusal
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import plan


class Declaration:
    """Everything that one policy needs on one queue, asked for step by step; nothing here waits but `wait`.

    On a channel of its own, because a refusal closes the channel.
    """

    def __init__(self, surface: AnyChannel, steps: Sequence[Step]) -> None:
        self.complete = not steps
        self.error: Exception | None = None
        self._steps = deque(steps)
        self._step: Step | None = None
        self._successors: deque[Callable[[], None]] = deque()
        self._mourners: list[Callable[[Exception], None]] = []
        self._channel: Channel | None = None
        if steps:
            self._channel = open_beside(surface, self._next)
            self._channel.add_on_close_callback(self._closed)

    def then(self, successor: Callable[[], None]) -> None:
        """Call *successor* once everything is there; never, if it cannot be."""
        if self.complete:
            successor()
        else:
            self._successors.append(successor)

    def otherwise(self, mourner: Callable[[Exception], None]) -> None:
        """Call *mourner* with the reason if it turns out that not everything is there."""
        if self.error is not None:
            mourner(self.error)
        elif not self.complete:
            self._mourners.append(mourner)

    def wait(self, connection: BlockingConnection) -> None:
        """Return when everything is there.

        Raises:
            TopologyMismatch: the broker has one of them already, with other arguments.
            TopologyMissing: it lacks one that the policy does not declare.
            TopologyRefused: the user may not declare one.
            AMQPError: the broker refused for another reason, or the connection failed.
        """
        channel = self._channel
        if channel is not None and not channel.is_closed:
            # BlockingConnection.close() cannot bear channels that end while it is at work on others.
            connection._flush_output(lambda: channel.is_closed)
        if self.error is not None:
            raise self.error

    def _next(self, answer: object) -> None:
        channel = answer if isinstance(answer, Channel) else self._channel
        if channel is None or not channel.is_open:
            return  # the program is closing its connection meanwhile
        if self._steps:
            self._step = self._steps.popleft()
            request(_Asked(channel, self._next), self._step)
        else:
            self.complete = True
            channel.close()
            self._succeed(channel)

    def _succeed(self, channel: Channel) -> None:
        try:
            while self._successors:
                self._successors.popleft()()
        finally:
            if self._successors:  # a handler was interrupted, which is nothing to the deliveries after it
                channel.connection._adapter_call_later(0, lambda: self._succeed(channel))

    def _closed(self, _: Channel, reason: Exception) -> None:
        if self.complete:
            return
        self.error = reason
        if isinstance(reason, ChannelClosedByBroker) and self._step is not None:
            # What else the broker may say, its own words say best.
            self.error = refusal(self._step, reason.reply_code, reason.reply_text) or reason
            self.error.__cause__ = None if self.error is reason else reason
        mourners, self._mourners = self._mourners, []
        for mourner in mourners:
            mourner(self.error)


class _Asked:
    """A channel of pika's whose answers go to one callback."""

    def __init__(self, channel: Channel, answered: Callable[[object], None]) -> None:
        self._channel = channel
        self._answered = answered

    def exchange_declare(self, exchange: str, **facts: Any) -> None:  # noqa: ANN401 - pika says what they are; so below
        self._channel.exchange_declare(exchange, callback=self._answered, **facts)

    def queue_declare(self, queue: str, **facts: Any) -> None:  # noqa: ANN401
        self._channel.queue_declare(queue, callback=self._answered, **facts)

    def queue_bind(self, queue: str, exchange: str, routing_key: str) -> None:
        self._channel.queue_bind(queue, exchange, routing_key, callback=self._answered)


_declarations: Owned[dict[Key, Declaration]] = Owned("declarations", dict)


def declare(surface: AnyChannel, queue: str, spec: PolicySpec, *, anew: bool) -> Declaration:
    """Declare or check what *spec* needs on *queue*, as it says, once for each connection unless it failed.

    Args:
        surface: the consumer's channel.
        queue: what it consumes.
        spec: its policy.
        anew: whether a consumer begins, for which what may have gone with the queue is there once more.

    Raises:
        InvalidPolicy: no such policy can stand on *queue*.
    """
    known = _declarations.of(underlying(surface).connection)
    wanted = key(queue, spec)
    declaration = known.get(wanted)
    failed = declaration is None or declaration.error is not None
    if declaration is None or failed or (anew and declaration.complete):
        declaration = known[wanted] = Declaration(surface, plan(queue, spec, known=not failed).steps)
    return declaration
