"""Policies from a TOML file, as data: checked as a whole when it is read, before anything is consumed."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from otel_waybill.config.tables import Unreadable, joined, known, read, table
from otel_waybill.core.spec import BreakerSpec, PolicySpec
from otel_waybill.errors import InvalidPolicyFile


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """What a file says.

    Attributes:
        policies: by queue name or glob, in the order of the file.
        breakers: by the name under which policies speak of them.
    """

    policies: Mapping[str, PolicySpec]
    breakers: Mapping[str, BreakerSpec]


def load(path: str) -> PolicyFile:
    """Return what the file at *path* says, in TOML 1.0 (https://toml.io).

    ``[policies.NAME]`` has the keywords of `Policy`, with ``retry``, ``retry.backoff`` and so on as tables
    and a breaker by its name; ``[breakers.NAME]`` has those of `CircuitBreaker`. Exceptions are written by
    name, see `Named`.

    Raises:
        InvalidPolicyFile: it cannot be read, or says something that no policy may say.
    """
    try:
        with Path(path).open("rb") as file:
            return _read(tomllib.load(file))
    except Unreadable as error:
        raise InvalidPolicyFile(path, error.key, error.problem) from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidPolicyFile(path, "", f"need a readable TOML file, got: {error}") from error


def _read(document: Mapping[str, object]) -> PolicyFile:
    known(document, ("policies", "breakers"), "")
    breakers = {
        name: read(BreakerSpec, each, joined("breakers", name), name=name)
        for name, each in table(document.get("breakers", {}), "breakers").items()
    }
    policies = {
        # Fallbacks and descriptions are code, and there is none in a file.
        name: read(PolicySpec, each, joined("policies", name), fallback=False, describe=str)
        for name, each in table(document.get("policies", {}), "policies").items()
    }
    for name, spec in policies.items():
        if spec.breaker is not None and spec.breaker not in breakers:
            problem = f"need one of [breakers] ({', '.join(breakers) or 'none there'}), got {spec.breaker!r}"
            raise Unreadable(joined(joined("policies", name), "breaker"), problem)
    return PolicyFile(policies, breakers)
