"""One call that instruments whichever of the clients is installed."""

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from otel_waybill.clients.aio_pika.instrumentor import AioPikaInstrumentor
from otel_waybill.clients.pika.instrumentor import PikaInstrumentor
from otel_waybill.config import Settings
from otel_waybill.policy import Policy
from otel_waybill.telemetry.hooks import Hooks


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    policies: Mapping[str, Policy] | None = None,
    settings: Settings | None = None,
    hooks: Hooks | None = None,
) -> None:
    """Instrument pika and aio-pika, whichever are installed; calling it again does nothing.

    Without policies nothing changes for the program but telemetry and headers.

    Args:
        tracer_provider: where spans go; the global provider by default.
        meter_provider: where metrics go; likewise.
        policies: policies by queue name or glob (``*``, ``?``, ``[...]``); an exact name beats a glob, and
            among globs the first counts. They apply to consumers that start from now on.
        settings: what is chosen about telemetry; from the environment by default.
        hooks: what the program wants to be asked or told.

    Raises:
        InvalidPolicy: an environment variable of ours has a value that it does not take.
    """
    chosen = settings or Settings.from_env(os.environ)
    terms = {name: policy.terms for name, policy in (policies or {}).items()}
    for instrumentor in _installed():
        instrumentor.instrument(
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            terms=terms,
            settings=chosen,
            hooks=hooks,
        )


def uninstrument() -> None:
    """Take it all back; open channels fall silent, and consumers that are under a policy keep it."""
    for instrumentor in _installed():
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def _installed() -> Iterator[BaseInstrumentor]:
    if find_spec("pika") is not None:
        yield PikaInstrumentor()
    if find_spec("aio_pika") is not None:
        yield AioPikaInstrumentor()
