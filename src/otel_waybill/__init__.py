"""OpenTelemetry for pika and aio-pika, with deadlines, retries by the broker and circuit breakers."""

from otel_waybill.clients.aio_pika.instrumentor import AioPikaInstrumentor
from otel_waybill.clients.pika.instrumentor import PikaInstrumentor
from otel_waybill.closing import shutdown
from otel_waybill.config.settings import Settings
from otel_waybill.context import check, current, deadline, detached, remaining, request
from otel_waybill.core.backoff import Backoff
from otel_waybill.core.breaker import State as BreakerState
from otel_waybill.core.delivery import Outcome, Reason, Result
from otel_waybill.core.events import BreakerChanged
from otel_waybill.core.limits import ConcurrencyLimit, RateLimit
from otel_waybill.core.retry import Retry, RetryBudget
from otel_waybill.core.waybill import Waybill
from otel_waybill.errors import (
    CircuitOpen,
    DeadlineExceeded,
    InvalidPolicy,
    InvalidPolicyFile,
    InvalidRequest,
    RetryAfter,
    ThreadBusy,
    TopologyMismatch,
    TopologyMissing,
    TopologyRefused,
    Unconfirmed,
    WaybillError,
    WrongThread,
)
from otel_waybill.instrumentation import instrument, uninstrument
from otel_waybill.policy import Policy
from otel_waybill.resilience.breaker import CircuitBreaker
from otel_waybill.telemetry.hooks import Hooks, Message
from otel_waybill.transport import extract, inject

__all__ = [
    "AioPikaInstrumentor",
    "Backoff",
    "BreakerChanged",
    "BreakerState",
    "CircuitBreaker",
    "CircuitOpen",
    "ConcurrencyLimit",
    "DeadlineExceeded",
    "Hooks",
    "InvalidPolicy",
    "InvalidPolicyFile",
    "InvalidRequest",
    "Message",
    "Outcome",
    "PikaInstrumentor",
    "Policy",
    "RateLimit",
    "Reason",
    "Result",
    "Retry",
    "RetryAfter",
    "RetryBudget",
    "Settings",
    "ThreadBusy",
    "TopologyMismatch",
    "TopologyMissing",
    "TopologyRefused",
    "Unconfirmed",
    "Waybill",
    "WaybillError",
    "WrongThread",
    "check",
    "current",
    "deadline",
    "detached",
    "extract",
    "inject",
    "instrument",
    "remaining",
    "request",
    "shutdown",
    "uninstrument",
]
