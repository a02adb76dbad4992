"""Beside OpenTelemetry's own instrumentations of the same clients: ours traces, and the user is told once.

An instrumentation of theirs that is active is uninstrumented. One that comes later is asked to do nothing,
whatever the order in which the launcher loads them: two of them would give every message two spans.
"""

import importlib
import importlib.util
import logging
from collections.abc import Callable

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from otel_waybill.patching import PatchSet

_DOING = ("_instrument", "_uninstrument", "instrument_channel", "uninstrument_channel")
"""What they do something by; the last two are pika's."""

_log = logging.getLogger("otel_waybill")


class Contrib:
    """The instrumentation by others of one client."""

    def __init__(self, module: str, instrumentor: str) -> None:
        """Name the *module* and the class of its *instrumentor*."""
        self._module = module
        self._name = instrumentor
        self._patches = PatchSet()
        self._told = False

    def step_aside(self) -> None:
        """Have it undo what it did and do nothing from now on, if it is installed at all."""
        instrumentor = self._class()
        if instrumentor is None:
            return
        if instrumentor().is_instrumented_by_opentelemetry:
            instrumentor().uninstrument()
            self._tell()
        self._patches = PatchSet()
        for name in _DOING:
            if hasattr(instrumentor, name):
                self._patches.add(instrumentor, name, self._nothing)
        self._patches.apply()

    def come_back(self) -> None:
        """Let it do again whatever it is told."""
        self._patches.restore()

    def _class(self) -> type[BaseInstrumentor] | None:
        try:
            if importlib.util.find_spec(self._module) is None:
                return None
            return getattr(importlib.import_module(self._module), self._name, None)
        except ImportError:
            return None  # installed, but not for this version of the client: it cannot be active

    def _nothing(
        self, wrapped: Callable[..., object], _instance: object, _args: object, _kwargs: object
    ) -> None:
        if getattr(wrapped, "__name__", "") in {"_instrument", "instrument_channel"}:
            self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            _log.warning(
                "otel-waybill traces this client, so %s is switched off: uninstall it, or exclude it with "
                "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=%s",
                self._module,
                # What its entry point is called.
                self._module.rpartition(".")[2].replace("_", "-"),
            )
