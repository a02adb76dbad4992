"""One call that instruments whichever of the clients is installed."""

import logging
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from otel_waybill.clients.aio_pika.instrumentor import AioPikaInstrumentor
from otel_waybill.clients.pika.instrumentor import PikaInstrumentor
from otel_waybill.clients.shared.policies import Policies
from otel_waybill.config.settings import Settings, policy_file
from otel_waybill.core.rules import require
from otel_waybill.policy import Policy
from otel_waybill.resilience.guarded import Terms
from otel_waybill.resilience.named import terms_in
from otel_waybill.telemetry.hooks import Hooks

_log = logging.getLogger("otel_waybill")


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    policies: Mapping[str, Policy] | None = None,
    settings: Settings | None = None,
    hooks: Hooks | None = None,
) -> None:
    """Instrument pika and aio-pika, whichever are installed.

    Without policies nothing changes for the program but telemetry and headers. Where a client is
    instrumented already, as under the launcher, it stays as it is; policies that are given take the place
    of those it had.

    Args:
        tracer_provider: where spans go; the global provider by default.
        meter_provider: where metrics go; likewise.
        policies: policies by queue name or glob (``*``, ``?``, ``[...]``); an exact name beats a glob, and
            among globs the first counts. They apply to consumers that start from now on. None: those of the
            file that ``OTEL_WAYBILL_POLICIES`` names, if it does.
        settings: what is chosen about telemetry; from the environment by default.
        hooks: what the program wants to be asked or told.

    Raises:
        InvalidPolicy: an environment variable of ours has a value that it does not take.
        InvalidPolicyFile: the file of policies cannot be read, or says something that no policy may say.
    """
    chosen = settings or Settings.from_env(os.environ)
    terms = _terms(policies)
    for instrumentor in _installed():
        if instrumentor.is_instrumented_by_opentelemetry:
            if policies is not None:
                instrumentor.live.policies = Policies(terms)
            continue
        try:
            # Its own check would refuse a version outside the range; ours says so and tries.
            instrumentor.instrument(
                skip_dep_check=True,
                tracer_provider=tracer_provider,
                meter_provider=meter_provider,
                terms=terms,
                settings=chosen,
                hooks=hooks,
            )
        except ImportError:
            _log.exception("otel-waybill cannot instrument this client, and leaves it alone")


def _terms(policies: Mapping[str, Policy] | None) -> Mapping[str, Terms] | None:
    if policies is not None:
        for name, policy in policies.items():
            require(rule=f"a Policy for queue {name!r}", holds=isinstance(policy, Policy), seen=policy)
        return {name: policy.terms for name, policy in policies.items()}
    path = policy_file(os.environ)
    return None if path is None else terms_in(path)


def uninstrument() -> None:
    """Take it all back: the methods are the identical ones again, and open channels fall silent.

    Consumers that are under a policy keep it, until a robust connection has to make them anew: stop consuming
    first, see `shutdown`. From then on their handlers must settle, if they do, through the channel or message
    that they are given.
    """
    for instrumentor in _installed():
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def _installed() -> Iterator[PikaInstrumentor | AioPikaInstrumentor]:
    if find_spec("pika") is not None:
        yield PikaInstrumentor()
    if find_spec("aio_pika") is not None:
        yield AioPikaInstrumentor()
