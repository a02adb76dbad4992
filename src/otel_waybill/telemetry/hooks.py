"""Where a program joins in: hooks on spans, templates for destinations, redaction of headers."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from opentelemetry.trace import Span


class Message(NamedTuple):
    """What one operation is about, as far as the client tells.

    Attributes:
        exchange: published to, or delivered from.
        routing_key: of the message.
        queue: consumed from; None for a publish.
        properties: the client's own object: pika's ``BasicProperties``, aio-pika's ``Message``. Not to be
            changed.
        body: of the message; None for a settlement.
        delivery_tag: of a delivery or a settlement.
        temporary: whether the queue goes with its consumer, as far as the client tells: aio-pika does.
    """

    exchange: str = ""
    routing_key: str = ""
    queue: str | None = None
    properties: object = None
    body: object = None
    delivery_tag: int | None = None
    temporary: bool = False


Hook: TypeAlias = Callable[[Span, Message], object]
ContribHook: TypeAlias = Callable[[Span, object, object], object]
"""The form of OpenTelemetry's own pika instrumentation: span, body, properties."""

_SECRET = re.compile(r"auth|cookie|token|secret|passw|api.?key|credential|session", re.IGNORECASE)
REDACTED = "[redacted]"
_CONTRIB_ARGUMENTS = 3


def redact_secrets(name: str, value: str) -> str:
    """Return *value*, or ``[redacted]`` if the *name* of its header suggests a secret."""
    return REDACTED if _SECRET.search(name) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What a program wants to be asked or told; a hook that raises is logged once and changes nothing.

    The three span hooks are called as ``hook(span, message)`` when a recorded span has started, or in the
    form that OpenTelemetry's pika instrumentation calls them, ``hook(span, body, properties)``, if they take
    three arguments.

    Attributes:
        publish: called for every publish.
        consume: called for every delivery, pushed or pulled.
        settle: called for every ack, nack and reject.
        destination_template: called with a destination, as in ``orders:eu.4711:billing``, once while it is
            remembered; returns what to call all destinations of its kind, as in ``orders:{region}.{id}``,
            or None. Use it where routing keys contain ids: it names spans and metrics.
        redact: called with name and value of each captured header; returns what may be seen of it.
    """

    publish: Hook | ContribHook | None = None
    consume: Hook | ContribHook | None = None
    settle: Hook | ContribHook | None = None
    destination_template: Callable[[str], str | None] | None = None
    redact: Callable[[str, str], str] = redact_secrets

    def for_operation(self, kind: str) -> Hook | None:
        """Return the hook for operations of ``messaging.operation.type`` *kind*, in our form."""
        hook = {"send": self.publish, "settle": self.settle}.get(kind, self.consume)
        return None if hook is None else _adapted(hook)


def _adapted(hook: Callable[..., object]) -> Hook:
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):  # some callables written in C do not tell
        return hook
    positional = [
        each for each in parameters if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}
    ]
    required = [each for each in positional if each.default is each.empty]
    if len(required) != _CONTRIB_ARGUMENTS:
        return hook
    return lambda span, message: hook(span, message.body, message.properties)
