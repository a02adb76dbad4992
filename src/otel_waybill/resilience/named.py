"""The policies of a file brought to life: each breaker that is named there is one object."""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from otel_waybill.config.policies import load
from otel_waybill.core.spec import BreakerSpec
from otel_waybill.resilience.breaker import CircuitBreaker
from otel_waybill.resilience.guarded import Terms


@cache
def terms_in(path: str) -> Mapping[str, Terms]:
    """Return the terms in the file at *path*, the same ones whenever it is asked for: clients share them.

    Raises:
        InvalidPolicyFile: it cannot be read, or says something that no policy may say.
        InvalidPolicy: the program has a live breaker of a name that the file uses.
    """
    file = load(path)
    breakers = {name: _alive(spec) for name, spec in file.breakers.items()}
    return {
        name: Terms.of(spec, breaker=None if spec.breaker is None else breakers[spec.breaker])
        for name, spec in file.policies.items()
    }


def _alive(spec: BreakerSpec) -> CircuitBreaker:
    settings: dict[str, Any] = {
        field.name: getattr(spec, field.name) for field in fields(spec)
    }  # Any: theirs
    return CircuitBreaker(**settings)
