"""The waybill on another way than RabbitMQ: in a row of an outbox, or in the headers of another protocol."""

from collections.abc import Iterable, Mapping, MutableMapping

from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry.context import Context

from otel_waybill import names
from otel_waybill.clients.shared.arrival import tell
from otel_waybill.clients.shared.departure import departing
from otel_waybill.context import Block, cleared, entered, inherited
from otel_waybill.core.waybill import decode_end_to_end
from otel_waybill.resilience.clock import instant
from otel_waybill.telemetry import carrier


def inject(mapping: MutableMapping[str, str]) -> None:
    """Write trace, baggage and waybill of the running code into *mapping*, as a message would carry them.

    What is there of an older trace or waybill is removed first, whatever the case of its names; everything
    else stays. The facts of a single message, such as its attempt, are not written.

    Args:
        mapping: names and values, as of a row's column or of HTTP headers.
    """
    stale = {field.lower() for field in carrier.fields()}
    for name in list(mapping):
        if name.lower() in stale or name.lower().startswith(names.HEADER_PREFIX):
            del mapping[name]
    mapping.update({name: str(value) for name, value in departing(None, otel.get_current()).items()})


def extract(mapping: Mapping[str, object] | None) -> Block:
    """Open a block in which trace, baggage and waybill are those that *mapping* carries.

    ``with waybill.extract(row.headers): channel.basic_publish(...)``. Its deadline is inherited, so it
    refuses nothing, and its time goes on running while the row waits. Facts of ours that are around do not
    hold inside.

    Args:
        mapping: what `inject` has written, here or elsewhere; names count in any case. It is not trusted:
            whatever else it holds is read as absent. None is an empty one.
    """
    return Block(lambda around: _extracted(mapping or {}, around))


def _extracted(mapping: Mapping[str, object], around: Context) -> Context:
    received = instant()
    items: Iterable[tuple[object, object]] = mapping.items()
    headers = {name.lower(): value for name, value in items if isinstance(name, str)}
    # Some propagators spell their names in another case, and find them only there.
    context = carrier.extract({**headers, **mapping}, cleared(around))
    decoded = decode_end_to_end(headers, baggage.get_all(context), now=received.wall)
    tell(decoded)
    return entered(inherited(decoded.waybill, received), context)
