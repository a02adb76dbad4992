"""What the instrumentors of both clients do in the same way."""

import inspect
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Final, TypedDict

from opentelemetry import metrics, trace
from opentelemetry._logs import Logger, LoggerProvider, get_logger
from opentelemetry.instrumentation.dependencies import get_dependency_conflicts
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from otel_waybill import names
from otel_waybill.clients.shared.live import Live
from otel_waybill.clients.shared.policies import Policies
from otel_waybill.config.settings import Settings, policy_file
from otel_waybill.errors import InvalidPolicy
from otel_waybill.patching import PatchSet
from otel_waybill.resilience.guarded import Terms
from otel_waybill.resilience.named import terms_in
from otel_waybill.telemetry.hooks import ContribHook, Hook, Hooks
from otel_waybill.telemetry.meters import Meters
from otel_waybill.telemetry.recorder import Recorder

LOGS_EXCEPTIONS: Final = "exception" in inspect.signature(Logger.emit).parameters
"""Whether log records take exceptions, as they do since opentelemetry-api 1.42."""

_log = logging.getLogger("otel_waybill")


class Options(TypedDict, total=False):
    """The keywords that an instrumentor understands; under the launcher it gets none of them.

    The three hooks by themselves are what OpenTelemetry's own instrumentations take; they add to *hooks*.
    """

    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    logger_provider: LoggerProvider | None
    terms: Mapping[str, Terms] | None
    settings: Settings
    hooks: Hooks | None
    publish_hook: Hook | ContribHook | None
    consume_hook: Hook | ContribHook | None
    settle_hook: Hook | ContribHook | None


def switch_on(live: Live, patches: PatchSet, requirement: str, options: Options) -> None:
    """Instrument one client.

    Args:
        live: what its patches work with.
        patches: its patches.
        requirement: the versions that it is proven on; another is named in one warning and tried.
        options: see `Options`.
    """
    name, *_ = requirement.split()
    if get_dependency_conflicts([requirement]) is not None:
        _log.warning("otel-waybill is proven on %s, this is %s %s", requirement, name, version(name))
    terms = options.get("terms")
    live.on(_recorder(options), _policies() if terms is None else Policies(terms))
    patches.apply()


def switch_off(live: Live, patches: PatchSet) -> None:
    """Take it back: the identical methods, and silence on channels that are open."""
    patches.restore()
    live.off()


def _policies() -> Policies:
    path = policy_file(os.environ)
    return Policies() if path is None else _policies_in(path)


@cache
def _policies_in(path: str) -> Policies:
    """Return the policies of the file at *path*, of which all clients have the same.

    The launcher goes on when instrumenting fails, and would run the program without its policies: one that
    cannot be read is logged, once, and raised to whoever starts to consume.
    """
    try:
        return Policies(terms_in(path))
    except InvalidPolicy as error:
        _log.error("otel-waybill: no policies, so nothing can be consumed: %s", error)
        return Policies(problem=error)


def _recorder(options: Options) -> Recorder:
    settings = _possible(options.get("settings") or Settings.from_env(os.environ))
    tracer = trace.get_tracer(
        names.DISTRIBUTION, names.VERSION, options.get("tracer_provider"), schema_url=names.SCHEMA_URL
    )
    logger = None
    if settings.exceptions != "events":
        logger = get_logger(
            names.DISTRIBUTION, names.VERSION, options.get("logger_provider"), schema_url=names.SCHEMA_URL
        )
    meters = (
        _meters(options.get("meter_provider") or metrics.get_meter_provider()) if settings.metrics else None
    )
    return Recorder(tracer, settings, meters=meters, logger=logger, hooks=_hooks(options))


def _possible(settings: Settings) -> Settings:
    if settings.exceptions == "events" or LOGS_EXCEPTIONS:
        return settings
    _log.warning(
        "otel-waybill keeps exceptions as span events: logging them needs opentelemetry-api 1.42, this is %s",
        version("opentelemetry-api"),
    )
    return replace(settings, exceptions="events")


@lru_cache(maxsize=4)
def _meters(provider: MeterProvider) -> Meters:
    """Return the one set of instruments of *provider*: what clients share is counted once."""
    return Meters(provider.get_meter(names.DISTRIBUTION, names.VERSION, schema_url=names.SCHEMA_URL))


def _hooks(options: Options) -> Hooks:
    given = options.get("hooks") or Hooks()
    return Hooks(
        publish=options.get("publish_hook") or given.publish,
        consume=options.get("consume_hook") or given.consume,
        settle=options.get("settle_hook") or given.settle,
        destination_template=given.destination_template,
        redact=given.redact,
    )
