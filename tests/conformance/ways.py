"""The ways in which a program can put a consumer under a policy: they must all come to the same."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import pytest

from conformance.protocol import Client, Handler
from conformance.telemetry import Telemetry
from otel_waybill import Policy

_Consume = Callable[[Client, Telemetry, str, Handler, Policy], None]


@dataclass(frozen=True, slots=True)
class Manner:
    """One way, and whether the program is instrumented in it."""

    name: str
    traced: bool
    consume: _Consume


class Way:
    """One way for one client."""

    def __init__(self, manner: Manner, client: Client, telemetry: Telemetry) -> None:
        self.name = manner.name
        self.traced = manner.traced
        self._consume = manner.consume
        self._client = client
        self._telemetry = telemetry

    def consume(self, queue: str, handler: Handler, policy: Policy) -> None:
        """Consume *queue* by *handler* under *policy*, in threads where the client is there for them."""
        workers = self._client.features.workers
        if workers:
            policy.terms = replace(policy.terms, spec=replace(policy.terms.spec, workers=workers))
        self._consume(self._client, self._telemetry, queue, handler, policy)


def _wrap(client: Client, telemetry: Telemetry, queue: str, handler: Handler, policy: Policy) -> None:
    telemetry.instrument()
    client.consume(queue, policy.wrap(client.native(handler)))


def _by_name(client: Client, telemetry: Telemetry, queue: str, handler: Handler, policy: Policy) -> None:
    telemetry.instrument(policies={queue: policy})
    client.consume(queue, client.native(handler))


def _uninstrumented(
    client: Client, _telemetry: Telemetry, queue: str, handler: Handler, policy: Policy
) -> None:
    client.consume(queue, policy.wrap(client.native(handler), queue=queue))


def _run(client: Client, telemetry: Telemetry, queue: str, handler: Handler, policy: Policy) -> None:
    telemetry.instrument()
    client.pull(queue, policy, handler)


WRAP: Final = Manner("wrap", traced=True, consume=_wrap)
BY_NAME: Final = Manner("policies=", traced=True, consume=_by_name)
UNINSTRUMENTED: Final = Manner("wrap-uninstrumented", traced=False, consume=_uninstrumented)
RUN: Final = Manner("run", traced=True, consume=_run)

consuming: Final = pytest.mark.parametrize(
    "any_way", [WRAP, BY_NAME, UNINSTRUMENTED], indirect=True, ids=lambda manner: manner.name
)
"""Run a scenario only in the ways in which the client pushes messages."""
