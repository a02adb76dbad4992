"""For tests of programs that use this package, and for its own: docs/testing.md shows how."""

from otel_waybill.testing.clock import ManualClock
from otel_waybill.testing.memory import Journey, Sent, deliver, deliver_async
from otel_waybill.testing.sink import RecordingSink
from otel_waybill.testing.station import Received

__all__ = ["Journey", "ManualClock", "Received", "RecordingSink", "Sent", "deliver", "deliver_async"]
