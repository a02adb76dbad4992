"""What the instrumentors of both clients do in the same way."""

import logging
import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import TypedDict

from opentelemetry.instrumentation.dependencies import get_dependency_conflicts
from opentelemetry.trace import TracerProvider

from otel_waybill.clients.shared.live import Live, recorder
from otel_waybill.clients.shared.policies import Policies
from otel_waybill.config import Settings
from otel_waybill.patching import PatchSet
from otel_waybill.resilience.guarded import Terms

_log = logging.getLogger("otel_waybill")


class Options(TypedDict, total=False):
    """The keywords that an instrumentor understands; under the launcher it gets none of them."""

    tracer_provider: TracerProvider | None
    terms: Mapping[str, Terms]
    settings: Settings


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
    settings = options.get("settings") or Settings.from_env(os.environ)
    live.on(recorder(options.get("tracer_provider"), settings), Policies(options.get("terms")))
    patches.apply()


def switch_off(live: Live, patches: PatchSet) -> None:
    """Take it back: the identical methods, and silence on channels that are open."""
    patches.restore()
    live.off()
