"""What an instrumented client works with at this moment; the patches of a process are as global as this."""

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from otel_waybill.clients.shared.policies import Policies
from otel_waybill.resilience import hub
from otel_waybill.telemetry.recorder import SILENT, Recorder, breaker_on_span


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
        hub.add(breaker_on_span)
        if recorder.meters is not None:
            hub.add(recorder.meters)

    def off(self) -> None:
        """Fall silent, on channels that are open as well; consumers under a policy keep it."""
        hub.remove(breaker_on_span)
        if self._recorder.meters is not None:
            hub.remove(self._recorder.meters)
        self._recorder, self.policies, self.patched = SILENT, Policies(), False

    def recorder(self) -> Recorder:
        """Return what to record with here and now: nothing where instrumentation is suppressed."""
        recorder = self._recorder
        return recorder if recorder.silent or is_instrumentation_enabled() else SILENT
