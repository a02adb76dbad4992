"""Policies, as programs write them: how a consumer treats deadlines, failures and failing dependencies."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, overload

from otel_waybill.core.belief import LONGEST_DEADLINE, SKEW_TOLERANCE, Inheritance, Trusted, trusting
from otel_waybill.core.delivery import Outcome
from otel_waybill.core.limits import ConcurrencyLimit, RateLimit
from otel_waybill.core.retry import Retry
from otel_waybill.core.rules import part, require
from otel_waybill.core.spec import Describe, OnExpired, PolicySpec, Settle, TopologyMode
from otel_waybill.guard import harmless
from otel_waybill.resilience.breaker import CircuitBreaker
from otel_waybill.resilience.guarded import Guarded, Handler, Terms, settling

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage
    from pika.adapters.blocking_connection import BlockingChannel
    from pika.spec import Basic, BasicProperties

_PIKA_ARGUMENTS = 4

_describing = harmless("describing an exception for parking")


class Policy:
    """How a consumer treats its messages.

    Every message that is delivered under a policy is handled, retried or parked; none is lost. Expired
    messages are parked before the handler starts. A policy may serve many consumers, on either client.

    Args:
        retry: how often a failed message runs again; None parks it on its first failure.
        breaker: the dependency without which no message can be handled; while it is open, deliveries are
            held unacknowledged and the connection stays alive.
        rate: how many runs may start in a while; the other deliveries are held, in order.
        concurrency: how many handlers may run at the same time, a number or a `ConcurrencyLimit`; the
            other deliveries are held, in order. None is no limit but the prefetch. A handler that runs in
            pika's own thread is alone there in any case.
        single_active: whether the queue is declared with ``x-single-active-consumer``. An open breaker then
            has the consumer leave the queue for as long, so that another one takes over, instead of holding.
        fallback: a substitute, called like the handler and without a deadline, for a message that would be
            parked otherwise; the message counts as handled when it returns and is parked when it raises.
            It is not called for a message that has killed its consumers.
        settle: who acknowledges. "return": the handler's return is success and the policy acknowledges;
            one that acknowledges before it returns is respected. "handler": the program settles by
            itself, its nack or reject is a failure, and a return without settling leaves the delivery
            open. None: "return" for `wrap` and `run`, "handler" for a policy given by name.
        on_expired: what becomes of a message whose deadline has passed before its handler starts: "park"
            it, "run" the handler without a deadline, "ack" it and so drop it, or "fallback".
        prefetch: unacknowledged deliveries per consumer, 1 to 65535; what the program sets itself wins.
            None: twice the concurrency or the workers, at least 20; 2 with ``Retry(in_order=True)``.
        workers: on pika, threads in which handlers run while the connection's thread keeps the connection
            alive; 0 runs each where pika calls it. In a thread a handler gets a channel that can ack, nack,
            reject and publish; `run` never uses one. aio-pika has no need of them.
        confirm_timeout: seconds to wait for the broker's confirm of a copy, and in a worker for a publish,
            above 0.
        hold_max: seconds, above 0, for which a delivery is held because of breaker or rate before it is put
            off through the broker, uncounted; and for which the policy keeps trying to publish a copy
            before the message is given back.
        skew_tolerance: seconds that a deadline may be overrun before it counts, 0 or more.
        max_deadline: seconds; a deadline further away is shortened to it, above 0.
        trust: whose deadline, timeout, request id, retries and retry limit are believed: "all"; "none"; or a
            collection of user ids, for messages whose ``user_id`` property, which the broker validates, is
            one of them (https://www.rabbitmq.com/docs/validated-user-id). What is not believed is as good as
            absent. The trace, and the baggage of others, arrive in every case.
        deadline: "inherit" the deadline that a message brings, or "ignore" it: it is neither enforced nor
            seen by the handler, nor does it pass to what the handler publishes.
        refuse_publish: whether publishing in the handler raises `DeadlineExceeded` once the deadline has
            passed, in a program that is instrumented. By default what is half done can be finished.
        topology: what is done at the broker when consuming starts. "declare": exchanges, queues and bindings
            of ours are declared. "passive": nothing is declared, and what does not exist is an error; whether
            it has the right arguments and bindings cannot be seen. "none": nothing is asked. What to declare
            by other means then, and the permissions for each, are in ``docs/topology.md``.
        parking: a queue of yours for what cannot be handled, instead of ``<queue>.parked``, of 1 to 237
            bytes. It must exist; with "declare" it is bound to ``waybill.parking.v1``. With it a policy may
            also stand on server-named and exclusive queues.
        describe: called with the exception that parks a message; returns what of it to store in the header
            ``waybill-exception-message``, of which 512 characters are kept, or None for nothing. By default
            its text, ``str(error)``; give your own where that can hold secrets. If it raises, that is
            logged once and nothing is stored.

    Raises:
        InvalidPolicy: a value is out of its range.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each setting, so that editors and checkers know them
        self,
        *,
        retry: Retry | None = None,
        breaker: CircuitBreaker | None = None,
        rate: RateLimit | None = None,
        concurrency: int | ConcurrencyLimit | None = None,
        single_active: bool = False,
        fallback: Handler | None = None,
        settle: Settle | None = None,
        on_expired: OnExpired = "park",
        prefetch: int | None = None,
        workers: int = 0,
        confirm_timeout: float = 5.0,
        hold_max: float = 300.0,
        skew_tolerance: float = SKEW_TOLERANCE,
        max_deadline: float = LONGEST_DEADLINE,
        trust: Trusted = "all",
        deadline: Inheritance = "inherit",
        refuse_publish: bool = False,
        topology: TopologyMode = "declare",
        parking: str | None = None,
        describe: Describe = str,
    ) -> None:
        require(
            rule="a callable fallback, or None", holds=fallback is None or callable(fallback), seen=fallback
        )
        if isinstance(concurrency, int):
            concurrency = ConcurrencyLimit(concurrency)
        part("retry", retry, Retry)
        part("breaker", breaker, CircuitBreaker)
        part("rate", rate, RateLimit)
        part("concurrency", concurrency, ConcurrencyLimit)
        spec = PolicySpec(
            retry=retry,
            breaker=None if breaker is None else breaker.name,
            rate=rate,
            concurrency=concurrency,
            single_active=single_active,
            fallback=fallback is not None,
            settle=settle,
            on_expired=on_expired,
            prefetch=prefetch,
            workers=workers,
            confirm_timeout=confirm_timeout,
            hold_max=hold_max,
            skew_tolerance=skew_tolerance,
            max_deadline=max_deadline,
            trust=trusting(trust),
            deadline=deadline,
            refuse_publish=refuse_publish,
            topology=topology,
            parking=parking,
            describe=_harmless(describe),
        )
        self.terms = Terms.of(spec, breaker=breaker, fallback=fallback)

    def __repr__(self) -> str:
        return f"<Policy {self.terms.spec} breaker={self.terms.breaker!r}>"

    def wrap(self, handler: Handler, *, queue: str | None = None) -> Guarded:
        """Return *handler* under this policy, to be given to the client in its place.

        Args:
            handler: ``def handle(channel, method, properties, body)`` for pika, ``async def
                handle(message)`` for aio-pika.
            queue: the consumed queue; only needed in a program that is not instrumented.

        Raises:
            InvalidPolicy: *handler* is not callable, or under a policy already.
        """
        require(rule="a callable handler", holds=callable(handler), seen=handler)
        require(
            rule="a handler that is not under a policy yet",
            holds=not isinstance(handler, Guarded),
            seen=handler,
        )
        return Guarded(handler, self._own(), queue, _deliver)

    @overload
    def run(
        self,
        channel: "BlockingChannel",
        method: "Basic.Deliver | Basic.GetOk",
        properties: "BasicProperties",
        body: bytes,
        handler: Callable[["BlockingChannel", "Basic.Deliver", "BasicProperties", bytes], object],
        /,
        *,
        queue: str | None = None,
    ) -> Outcome: ...

    @overload
    def run(
        self,
        message: "AbstractIncomingMessage",
        handler: Callable[["AbstractIncomingMessage"], Awaitable[object] | object],
        /,
        *,
        queue: str | None = None,
    ) -> Awaitable[Outcome]: ...

    def run(
        self, *delivery: Any, queue: str | None = None
    ) -> Outcome | Awaitable[Outcome]:  # Any: see the overloads
        """Handle one delivery that the program fetched itself, and return how it ended.

        ``policy.run(channel, method, properties, body, handler)`` on pika, ``await policy.run(message,
        handler)`` on aio-pika. Nothing that the handler raises leaves it; it is in the outcome. On pika it
        pumps the connection while it waits, so it belongs in a loop of the program's own, not inside a
        callback; on an asynchronous channel nobody can wait, and ``channel.basic_get(queue,
        policy.wrap(handler))`` does the same.

        Args:
            *delivery: the delivery as the client gave it, and the handler.
            queue: the consumed queue; only needed where the client does not tell, as after ``basic_get``
                or in a program that is not instrumented.

        Raises:
            InvalidPolicy: the queue is not known, or no policy can stand there.
        """
        *facts, handler = delivery
        require(rule="a callable handler as the last argument", holds=callable(handler), seen=handler)
        if len(facts) == _PIKA_ARGUMENTS:
            # Only programs with pika have it.
            from otel_waybill.clients.pika import deliver as pika  # noqa: PLC0415
            from otel_waybill.clients.pika.read import Pushed  # noqa: PLC0415

            return pika.run(self._own(), queue, Pushed(*facts), handler)
        from otel_waybill.clients.aio_pika import deliver as aio_pika  # noqa: PLC0415 - likewise

        (message,) = facts
        return aio_pika.run(self._own(), queue, message, handler)

    def _own(self) -> Terms:
        return settling(self.terms, "return")


def _harmless(describe: Describe) -> Describe:
    if describe is str:  # which raises only what the exception's own text does
        return describe
    require(rule="a callable to describe exceptions", holds=callable(describe), seen=describe)

    def described(error: BaseException) -> str | None:
        with _describing:
            return describe(error)
        return None

    return described


def _deliver(guarded: Guarded, *delivery: Any) -> object:  # noqa: ANN401 - the arguments of whichever client calls
    """Handle one delivery that a client, not being instrumented, gave to the wrapped handler itself."""
    if len(delivery) == _PIKA_ARGUMENTS:
        # Only programs with pika have it.
        from otel_waybill.clients.pika import deliver as pika  # noqa: PLC0415
        from otel_waybill.clients.pika.read import Pushed  # noqa: PLC0415

        pika.direct(guarded, Pushed(*delivery))
        return None
    from otel_waybill.clients.aio_pika import deliver as aio_pika  # noqa: PLC0415 - likewise

    (message,) = delivery
    return aio_pika.direct(guarded, message)
