"""What this package raises: one tree, the facts as attributes, every leaf picklable.

The arguments of each constructor are also ``args``, so that ``pickle`` and ``copy`` rebuild the same error.
"""

import re
from typing import Final


class WaybillError(Exception):
    """Base of every error that this package raises on its own account."""


class InvalidPolicy(WaybillError, ValueError):  # noqa: N818 - reads as what it says: the policy is invalid
    """A policy, or one of its parts, breaks a rule, or cannot stand where it was put."""


class InvalidPolicyFile(InvalidPolicy):
    """A file of policies cannot be read, or says something that no policy may say; nothing is consumed.

    Attributes:
        file: its path.
        key: where in it, as in ``policies.orders.retry.attempts``; empty for the file as a whole.
        problem: the rule, and what was seen.
    """

    def __init__(self, file: str, key: str, problem: str) -> None:
        super().__init__(file, key, problem)
        self.file = file
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return f"{where}: {self.problem}; correct the file and start again"


class DeadlineExceeded(WaybillError, TimeoutError):  # noqa: N818 - the established name, as in gRPC
    """The deadline of the running work has passed.

    Attributes:
        overdue: seconds since the deadline, 0 or more.
    """

    def __init__(self, overdue: float) -> None:
        super().__init__(overdue)
        self.overdue = overdue

    def __str__(self) -> str:
        return (
            f"the deadline of this work passed {self.overdue:.3f} s ago; stop, or continue inside detached()"
        )


class CircuitOpen(WaybillError):  # noqa: N818 - the established name of this refusal
    """A circuit breaker refused a call; the protected code did not run.

    Attributes:
        breaker: the name of the breaker.
        retry_after: seconds until it is worth trying again, above 0. An open breaker lets a probe in from
            then on. Where nobody knows when, as in one that is forced open or whose probes are running, it
            is how long to wait before asking again.
        defer: whether a handler that this stops is to be retried without counting an attempt.
    """

    def __init__(self, breaker: str, retry_after: float, defer: bool = False) -> None:  # noqa: FBT001, FBT002 - args of an exception are positional
        super().__init__(breaker, retry_after, defer)
        self.breaker = breaker
        self.retry_after = retry_after
        self.defer = defer

    def __str__(self) -> str:
        return f"breaker {self.breaker!r} is open; try again in {self.retry_after:.1f} s, call not run"


class RetryAfter(WaybillError):  # noqa: N818 - says what is asked for, as the HTTP header of that name
    """Raised by a handler that knows when it is worth trying again; it fails, and costs an attempt.

    Attributes:
        retry_after: seconds until then, 0 or more; it takes the place of the backoff.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"the handler asks for another run in {self.retry_after:g} s"


class TopologyMismatch(InvalidPolicy):
    """The broker already has an exchange or queue of that name, which is not what a policy needs.

    Attributes:
        entity: the exchange or queue, as in ``queue 'orders.parked'``.
        reply: what the broker answered.
        argument: what differs, as in ``x-overflow``; None if the reply does not tell, because the broker cuts
            it after 255 octets.
        wanted: what the policy needs it to be; likewise.
        found: what it is, ``none`` where it is not set; likewise.
    """

    def __init__(self, entity: str, reply: str) -> None:
        super().__init__(entity, reply)
        self.entity = entity
        self.reply = reply
        difference = _DIFFERENCE.search(reply)
        self.argument = _part(difference, 1)
        self.wanted = _part(difference, 2)
        self.found = _part(difference, 3)

    def __str__(self) -> str:
        difference = (
            f"the broker answered {self.reply!r}"
            if self.argument is None
            else f"its {self.argument} is {self.found} and would have to be {self.wanted}"
        )
        return (
            f"cannot declare {self.entity} for this policy: {difference}; delete the existing one once it "
            "is empty, or take it as it is with Policy(topology='passive')"
        )


class TopologyMissing(InvalidPolicy):
    """The broker lacks an exchange or queue that a policy needs and does not declare.

    Attributes:
        entity: the exchange or queue, as in ``queue 'orders.dlq'``.
        reply: what the broker answered.
    """

    def __init__(self, entity: str, reply: str) -> None:
        super().__init__(entity, reply)
        self.entity = entity
        self.reply = reply

    def __str__(self) -> str:
        return (
            f"this policy needs {self.entity} and does not declare it: the broker answered {self.reply!r}; "
            "declare it before consuming starts (docs/topology.md has the arguments)"
        )


class TopologyRefused(InvalidPolicy):
    """The broker does not allow this user to declare, or to check, what a policy needs.

    Attributes:
        entity: what was asked for, as in ``exchange 'waybill.parking.v1'``.
        reply: what the broker answered.
        needs: the permissions that it takes, as in ``configure on exchange 'waybill.parking.v1'``.
    """

    def __init__(self, entity: str, reply: str, needs: tuple[str, ...]) -> None:
        super().__init__(entity, reply, needs)
        self.entity = entity
        self.reply = reply
        self.needs = needs

    def __str__(self) -> str:
        return (
            f"not allowed to declare or check {self.entity} for this policy: the broker answered "
            f"{self.reply!r}; grant this user {', '.join(self.needs)}, or have it declared by another and "
            "use Policy(topology='passive'), or 'none' where checking is refused too"
        )


_DIFFERENCE: Final = re.compile(
    r"inequivalent arg '(.+?)' for .+: received (.+) but current is (.+)", re.DOTALL
)
_VALUE: Final = re.compile(r"^(?:the value )?'(.*?)'(?: of type '\w+')?$", re.DOTALL)


def _part(difference: re.Match[str] | None, number: int) -> str | None:
    """Return one of the three facts of *difference*, a value of arguments without what it is wrapped in."""
    return None if difference is None else _VALUE.sub(r"\1", difference[number])


class Unconfirmed(WaybillError):  # noqa: N818 - what is known is that nothing is confirmed, not that it failed
    """A copy was not confirmed and routed by the broker, so the original was not acknowledged.

    Attributes:
        reply: what is known of its fate.
    """

    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        self.reply = reply

    def __str__(self) -> str:
        return f"the copy is not confirmed and routed: {self.reply}; the original stays unacknowledged"


class WrongThread(WaybillError, AttributeError):  # noqa: N818 - what is wrong is where it was called
    """A handler in a worker thread used its channel for what only the connection's thread may do.

    Attributes:
        attribute: what it asked the channel for.
    """

    def __init__(self, attribute: str) -> None:
        super().__init__(attribute)
        self.attribute = attribute

    def __str__(self) -> str:
        return (
            f"{self.attribute!r} of a channel belongs to the thread of its connection; a handler under "
            "Policy(workers=...) may ack, nack, reject and publish, and hand the rest over by "
            "connection.add_callback_threadsafe"
        )


class ThreadBusy(WaybillError, TimeoutError):  # noqa: N818 - a state of the world, not a mistake
    """A handler in a worker thread published, and the connection's thread did not get to it in time.

    Attributes:
        timeout: seconds for which it waited.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"the connection's thread did not finish this publish within {self.timeout:g} s; keep its other "
            "callbacks short, or let the policy's confirm_timeout be longer"
        )


class BrokerUnavailable(WaybillError):  # noqa: N818 - a state of the world, not a mistake
    """No RabbitMQ for demo or tests could be found, started or installed.

    Attributes:
        tried: what was looked for and why it failed, in order.
        remedies: commands, one of which gets a broker on this system.
    """

    def __init__(self, tried: tuple[str, ...], remedies: tuple[str, ...]) -> None:
        super().__init__(tried, remedies)
        self.tried = tried
        self.remedies = remedies

    def __str__(self) -> str:
        lines = ["no RabbitMQ for this run", *(f"  - {attempt}" for attempt in self.tried), "to get one:"]
        return "\n".join([*lines, *(f"  {remedy}" for remedy in self.remedies)])


class InvalidRequest(WaybillError, ValueError):  # noqa: N818 - reads as what it says: the request is invalid
    """An argument of a request block breaks a rule; nothing was published."""
