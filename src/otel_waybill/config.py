"""Settings from the environment, as data: read once, when a client is instrumented."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from otel_waybill import names
from otel_waybill.core.rules import require

_WORDS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be switched about telemetry.

    Attributes:
        settle_spans: whether acks, nacks and rejects get spans of their own.
    """

    settle_spans: bool = True

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings in *environ*; a variable that is absent or empty leaves its default.

        Raises:
            InvalidPolicy: a value is none of those that its variable takes.
        """
        word = environ.get(names.ENV_SETTLE_SPANS, "").strip().lower() or "true"
        require(rule=f"{names.ENV_SETTLE_SPANS} to be true or false", holds=word in _WORDS, seen=word)
        return cls(settle_spans=_WORDS[word])
