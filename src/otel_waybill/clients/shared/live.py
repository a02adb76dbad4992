"""What an instrumented client works with at this moment; the patches of a process are as global as this."""

from importlib.metadata import version
from typing import Final

from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import TracerProvider

from otel_waybill import names
from otel_waybill.clients.shared.policies import Policies
from otel_waybill.config import Settings
from otel_waybill.resilience import hub
from otel_waybill.telemetry.recorder import SILENT, Recorder

_recorders: Final[list[Recorder]] = []
"""Those of the clients that are instrumented."""


class Live:
    """Recorder and policies of one client; silent and without any until it is instrumented.

    Attributes:
        policies: those given by name.
        patched: whether the client's own methods tell us of settlements.
    """

    def __init__(self) -> None:
        self._recorder = SILENT
        self.policies = Policies()
        self.patched = False

    def on(self, recorder: Recorder, policies: Policies) -> None:
        """Start to record with *recorder* and to apply *policies*."""
        self._recorder, self.policies, self.patched = recorder, policies, True
        _listen(recorder)

    def off(self) -> None:
        """Fall silent, on channels that are open as well; consumers under a policy keep it."""
        _ignore(self._recorder)
        self._recorder, self.policies, self.patched = SILENT, Policies(), False

    def recorder(self) -> Recorder:
        """Return what to record with here and now: nothing where instrumentation is suppressed."""
        recorder = self._recorder
        return recorder if recorder.silent or is_instrumentation_enabled() else SILENT


def recorder(tracer_provider: TracerProvider | None, settings: Settings) -> Recorder:
    """Return a recorder for *tracer_provider*, or for the global one."""
    tracer = trace.get_tracer(
        names.DISTRIBUTION, version(names.DISTRIBUTION), tracer_provider, schema_url=names.SCHEMA_URL
    )
    return Recorder(tracer, settle_spans=settings.settle_spans)


def _listen(recorder: Recorder) -> None:
    """Let one recorder hear events for all clients: they share the spans to put them on."""
    _recorders.append(recorder)
    hub.add(_recorders[0])


def _ignore(recorder: Recorder) -> None:
    hub.remove(recorder)
    if recorder in _recorders:
        _recorders.remove(recorder)
    if _recorders:
        hub.add(_recorders[0])
