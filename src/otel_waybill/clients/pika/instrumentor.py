"""The standard instrumentor of pika, which the launcher finds by its entry point."""

from collections.abc import Collection
from typing import Unpack

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from otel_waybill.clients.contrib import Contrib
from otel_waybill.clients.pika import live
from otel_waybill.clients.shared.instrumenting import Options, switch_off, switch_on

_REQUIREMENT = "pika >= 1.2, < 2"
_contrib = Contrib("opentelemetry.instrumentation.pika", "PikaInstrumentor")


class PikaInstrumentor(BaseInstrumentor):
    """Instruments pika; `otel_waybill.instrument()` does it for every client that is installed."""

    live = live

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return what it instruments."""
        return (_REQUIREMENT,)

    def _instrument(self, **options: Unpack[Options]) -> None:
        # Imported here: without the client this module imports, and fails here in the way the launcher knows.
        from otel_waybill.clients.pika.patches import complete  # noqa: PLC0415

        _contrib.step_aside()
        switch_on(live, complete(), _REQUIREMENT, options)

    def _uninstrument(self, **_: object) -> None:
        from otel_waybill.clients.pika.patches import patches  # noqa: PLC0415

        switch_off(live, patches)
        _contrib.come_back()
