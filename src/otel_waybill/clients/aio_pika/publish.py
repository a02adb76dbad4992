"""Publishing on aio-pika: a producer span, and a copy of the message that carries trace and waybill."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aio_pika.exchange import Exchange
from aio_pika.message import encode_expiration
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import PublishError
from opentelemetry import context as otel

from otel_waybill.clients.aio_pika import live
from otel_waybill.clients.aio_pika.read import endpoint_of
from otel_waybill.clients.aio_pika.settle import clone
from otel_waybill.clients.shared.departure import carrying
from otel_waybill.context import Running, check_publish, expiration_in
from otel_waybill.guard import harmless
from otel_waybill.patching import argument, passthrough, replaced
from otel_waybill.telemetry.carrier import forwarded
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.recorder import Recorder
from otel_waybill.telemetry.semconv import PUBLISH
from otel_waybill.telemetry.work import Work

if TYPE_CHECKING:
    from aio_pika.message import Message as AioMessage

_Call = tuple[tuple[object, ...], dict[str, object]]

_tracing = harmless("tracing a publish")


async def publish(
    wrapped: Callable[..., Awaitable[object]],
    exchange: Exchange,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> object:
    """Stand in for `Exchange.publish`.

    Raises:
        DeadlineExceeded: inside a request block whose deadline has passed; nothing is published.
    """
    state = check_publish()
    if state.expires:
        args, kwargs = _expiring(state, args, kwargs)
    recorder, work = live.recorder(), None
    if not recorder.silent:
        with _tracing:
            work, (args, kwargs) = _traced(recorder, exchange, args, kwargs)
    if work is None:
        return await wrapped(*args, **kwargs)
    with work, passthrough():
        result = await wrapped(*args, **kwargs)
        if isinstance(result, DeliveredMessage):
            # On a channel that does not raise for it, a message that nobody can route comes back like this.
            work.fail(PublishError(result, result.delivery))
        return result


def _expiring(state: Running, args: tuple[object, ...], kwargs: dict[str, object]) -> _Call:
    """Return the arguments with a message that expires with the deadline of *state*."""
    message: AioMessage = argument(args, kwargs, 0, "message")
    own = encode_expiration(message.expiration)
    expiration = expiration_in(state, own)
    if expiration is None or expiration == own:
        return args, kwargs
    # aio-pika takes seconds and cuts off what is below a millisecond, rounding errors included.
    seconds = (int(expiration) + 0.5) / 1000
    return replaced(args, kwargs, 0, "message", clone(message, type(message), expiration=seconds))


def _traced(
    recorder: Recorder, exchange: Exchange, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Work, _Call]:
    message: AioMessage = argument(args, kwargs, 0, "message")
    about = Message(
        exchange=exchange.name,
        routing_key=argument(args, kwargs, 1, "routing_key"),
        properties=message,
        body=message.body,
    )
    links = forwarded(message.headers)
    work = recorder.start(PUBLISH, about, endpoint_of(exchange.channel), otel.get_current(), links=links)
    outgoing = clone(message, type(message), headers=carrying(work, message.headers))
    return work, replaced(args, kwargs, 0, "message", outgoing)
