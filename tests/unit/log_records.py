"""Log records in memory, with every OpenTelemetry that is allowed."""

import pytest

from otel_waybill.clients.shared.instrumenting import LOGS_EXCEPTIONS

try:
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
except ImportError:  # its name before 1.39
    from opentelemetry.sdk._logs.export import InMemoryLogExporter as InMemoryLogRecordExporter

__all__ = ["InMemoryLogRecordExporter", "with_exceptions"]

with_exceptions = pytest.mark.skipif(
    not LOGS_EXCEPTIONS, reason="log records take exceptions since opentelemetry-api 1.42"
)
"""Run a test only where an exception can be logged; elsewhere it stays on its span."""
