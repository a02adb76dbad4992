"""The circuit breaker that programs hold."""

from otel_waybill.resilience.breaker.circuit import CircuitBreaker

__all__ = ["CircuitBreaker"]
