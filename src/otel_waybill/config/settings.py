"""Settings from the environment, as data: read once, when a client is instrumented."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

from otel_waybill import names
from otel_waybill.core.rules import one_of, require

Parent = Literal["message", "ambient", "link"]
Exceptions = Literal["events", "logs", "logs/dup"]

_WORDS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be chosen about telemetry.

    Attributes:
        settle_spans: whether acks, nacks and rejects get spans of their own.
        metrics: whether anything is measured.
        parent: whose child the span of a delivery is. "message": the publish that made it; a span that is
            current where it is handled is linked. "ambient": the span that is current, else the publish.
            "link": the span that is current, else none. The publish is linked in every case, and its
            baggage arrives in every case.
        capture_headers: names of message headers, in any case, that spans carry as
            ``messaging.header.<name>``; values of headers whose name suggests a secret are redacted.
        legacy_attributes: whether spans also carry the keys of the conventions before 1.17, for dashboards
            that still ask for them.
        exceptions: where an exception is recorded: as an event of its span, as a log record, or both.

    Raises:
        InvalidPolicy: a value is none of those that it may be.
    """

    settle_spans: bool = True
    metrics: bool = True
    parent: Parent = "message"
    capture_headers: tuple[str, ...] = ()
    legacy_attributes: bool = False
    exceptions: Exceptions = "events"

    def __post_init__(self) -> None:
        one_of("parent", self.parent, get_args(Parent))
        one_of("exceptions", self.exceptions, get_args(Exceptions))

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings in *environ*; a variable that is absent or empty leaves its default.

        Raises:
            InvalidPolicy: a variable of ours has a value that it does not take.
        """
        parent = environ.get(names.ENV_PARENT, "").strip().lower() or "message"
        one_of(names.ENV_PARENT, parent, get_args(Parent))
        return cls(
            settle_spans=_switch(environ, names.ENV_SETTLE_SPANS),
            metrics=_switch(environ, names.ENV_METRICS),
            parent=cast("Parent", parent),
            capture_headers=_listed(environ, names.ENV_CAPTURE_HEADERS),
            legacy_attributes="messaging/dup" in _listed(environ, names.ENV_STABILITY),
            exceptions=_exceptions(_listed(environ, names.ENV_EXCEPTIONS)),
        )


def policy_file(environ: Mapping[str, str]) -> str | None:
    """Return the path of the file with policies that *environ* names, if it does."""
    return environ.get(names.ENV_POLICIES, "").strip() or None


def _switch(environ: Mapping[str, str], name: str) -> bool:
    word = environ.get(name, "").strip().lower() or "true"
    require(rule=f"{name} to be true or false", holds=word in _WORDS, seen=word)
    return _WORDS[word]


def _listed(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(filter(None, (item.strip() for item in environ.get(name, "").split(","))))


def _exceptions(chosen: tuple[str, ...]) -> Exceptions:
    # A variable of OpenTelemetry's, shared with others: values that we do not know are somebody else's.
    if "logs/dup" in chosen:
        return "logs/dup"
    return "logs" if "logs" in chosen else "events"
