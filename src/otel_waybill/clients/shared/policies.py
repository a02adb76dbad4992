"""Which terms hold for a consumer, and whether they can."""

import logging
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import misplaced
from otel_waybill.errors import InvalidPolicy
from otel_waybill.resilience.guarded import Guarded, Handler, Terms, settling

_log = logging.getLogger("otel_waybill")
_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """What a client says about a consumer that is about to start."""

    queue: str
    acknowledges: bool = True
    exclusive: bool = False
    pulled: bool = False
    indirect: bool = False
    stream: bool = False
    arguments: Mapping[str, object] | None = None

    def objection(self, spec: PolicySpec) -> str | None:
        """Return why the policy *spec* cannot stand here, or None."""
        stream = self.stream or "x-stream-offset" in (self.arguments or {})
        objections = {
            "the queue has no name here; name it, so that copies find their way back": not self.queue,
            "its messages are taken by iteration; handle each of them with policy.run(...)": self.pulled,
            "its adapter hands messages over by itself, as Twisted's does; use another one": self.indirect,
            (
                "it consumes without acknowledgements, so nothing could be retried; consume it without "
                "auto_ack or no_ack"
            ): not self.acknowledges,
            "it is a stream, which is read rather than consumed; handle it without a policy": stream,
        }
        first = next((objection for objection, holds in objections.items() if holds), None)
        return first or misplaced(self.queue, spec, exclusive=self.exclusive)


class Bound(NamedTuple):
    """A handler and the terms it runs under, if any.

    Attributes:
        handler: what to call.
        terms: what it runs under.
        passed: whether somebody has put a wrapper of their own around one of ours: it is called as it is,
            and what it wraps does all that there is to do.
    """

    handler: Handler
    terms: Terms | None
    passed: bool = False


class Policies:
    """Terms by queue name or glob: an exact name beats a glob, and among globs the first."""

    def __init__(
        self, terms: Mapping[str, Terms] | None = None, *, problem: InvalidPolicy | None = None
    ) -> None:
        """Take *terms* by queue name or glob; with a *problem*, nobody knows them and nothing may consume."""
        self._problem = problem
        self._terms = dict(terms or {})
        self._globs = {name: value for name, value in self._terms.items() if not _GLOB.isdisjoint(name)}

    def bind(self, callback: Handler, consumer: Consumer) -> Bound:
        """Return the handler behind *callback* and the terms for it: an explicit wrap beats a name.

        Raises:
            InvalidPolicy: a policy was put on exactly this consumer, and cannot stand there; or the policies
                could not be read.
        """
        if self._problem is not None:
            raise copy(self._problem)
        if isinstance(callback, Guarded):
            _check(consumer, callback.terms)
            return Bound(callback.handler, settling(callback.terms, "return"))
        for inner in _wrapped_by(callback):
            if isinstance(inner, Guarded):
                _check(consumer, inner.terms)
                return Bound(callback, None, passed=True)
        named = self._terms.get(consumer.queue)
        if named is not None:
            _check(consumer, named)
            return Bound(callback, settling(named, "handler"))
        for pattern, terms in self._globs.items():
            if fnmatchcase(consumer.queue, pattern):
                objection = consumer.objection(terms.spec)
                if objection is None:
                    return Bound(callback, settling(terms, "handler"))
                _log.info("policy %r does not apply to queue %r: %s", pattern, consumer.queue, objection)
                break
        return Bound(callback, None)


def _wrapped_by(callback: object) -> Iterator[object]:
    """Yield what *callback* says it wraps; bounded, because others may lie."""
    for _ in range(100):
        callback = getattr(callback, "__wrapped__", None)
        if callback is None:
            return
        yield callback


def check_prefetch(seen: int | None, queue: str) -> None:
    """Return unless the program asked for an unlimited prefetch on this channel.

    Raises:
        InvalidPolicy: *seen* is 0.
    """
    if seen == 0:
        msg = (
            f"a policy cannot stand on queue {queue!r}: need a prefetch count of 1 or more, because holding "
            "must be bounded, got 0 (unlimited); set another before consuming, or none and the policy does"
        )
        raise InvalidPolicy(msg)


def _check(consumer: Consumer, terms: Terms) -> None:
    objection = consumer.objection(terms.spec)
    if objection is not None:
        msg = f"a policy cannot stand on queue {consumer.queue!r}: {objection}"
        raise InvalidPolicy(msg)


def known_queue(queue: str | None) -> str:
    """Return *queue*.

    Raises:
        InvalidPolicy: it is not known, so a copy would not find its way back.
    """
    if not queue:
        msg = (
            "a policy must know the queue it consumes, and here the client does not tell; pass it, as in "
            "wrap(handle, queue='orders') or run(..., queue='orders'), or instrument the program first"
        )
        raise InvalidPolicy(msg)
    return queue
