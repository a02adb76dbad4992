"""The public API as a program from outside uses it.

Never run: mypy reads it, in strict mode. Where a use is wrong, an unused ``type: ignore`` would be an error,
so each of them is a test that the wrong use is found.
"""

from collections.abc import Mapping, Sequence
from typing import assert_type

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, TracerProvider
from pika import BlockingConnection
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic, BasicProperties

import otel_waybill as waybill
from otel_waybill import (
    AioPikaInstrumentor,
    Backoff,
    BreakerChanged,
    BreakerState,
    CircuitBreaker,
    CircuitOpen,
    ConcurrencyLimit,
    DeadlineExceeded,
    Hooks,
    InvalidPolicy,
    InvalidRequest,
    Message,
    Outcome,
    PikaInstrumentor,
    Policy,
    RateLimit,
    Reason,
    Result,
    Retry,
    RetryAfter,
    RetryBudget,
    Settings,
    ThreadBusy,
    TopologyMismatch,
    TopologyMissing,
    TopologyRefused,
    Unconfirmed,
    Waybill,
    WaybillError,
    WrongThread,
)

# Policies and what they are made of.

payments = CircuitBreaker("payments", failure_rate=0.25, probes=5)
orders = Policy(
    retry=Retry(attempts=5, backoff=Backoff(first=1.0, ceiling=30.0, jitter="full"), redeliveries=20),
    breaker=payments,
    settle="return",
    prefetch=20,
    workers=8,
    confirm_timeout=5.0,
    hold_max=300.0,
    skew_tolerance=1.0,
    max_deadline=3600,
    trust={"shop", "billing"},
    deadline="ignore",
    refuse_publish=True,
    topology="passive",
    parking="orders.dlq",
    describe=lambda error: None if isinstance(error, TimeoutError) else type(error).__name__,
)
Policy(trust="all")
Policy(trust=["shop"])
Policy(trust=("shop", "billing"))
Policy(trust=frozenset({"shop"}))
Policy(trust="none")
Policy()
Policy(describe=repr)

Policy(trust="some")  # type: ignore[arg-type]
Policy(trust=None)  # type: ignore[arg-type]
Policy(deadline="never")  # type: ignore[arg-type]
Policy(settle="never")  # type: ignore[arg-type]
Policy(topology="check")  # type: ignore[arg-type]
Policy(parking=True)  # type: ignore[arg-type]
Policy(describe=len)  # type: ignore[arg-type]
Policy(retry=5)  # type: ignore[arg-type]
Policy(Retry())  # type: ignore[call-arg]
Policy(breaker="payments")  # type: ignore[arg-type]
Retry(3)  # type: ignore[call-arg]
Retry(tries=3)  # type: ignore[call-arg]
Backoff(jitter="some")  # type: ignore[arg-type]
Policy(
    retry=Retry(
        on=(ConnectionError, TimeoutError),
        park=lambda error: "404" in str(error),
        ignore=KeyError,
        elapsed=3600.0,
        budget=RetryBudget(ratio=0.1, per_second=5),
        max_deferrals=10,
        in_order=True,
        classic_guard=False,
    ),
    rate=RateLimit(100, per=60.0, burst=10, by="header:tenant"),
    concurrency=ConcurrencyLimit(8, by="routing_key"),
    fallback=lambda _channel, _method, _properties, _body: None,
    on_expired="fallback",
    single_active=True,
)
Policy(concurrency=8)
assert_type(RetryAfter(3).retry_after, float)
assert_type(CircuitOpen("stock", 3.0, defer=True).defer, bool)

Policy(on_expired="drop")  # type: ignore[arg-type]
Policy(rate=100)  # type: ignore[arg-type]
Policy(concurrency=2.5)  # type: ignore[arg-type]
Policy(fallback="later")  # type: ignore[arg-type]
Retry(on=[ValueError])  # type: ignore[arg-type]
Retry(park="ValueError")  # type: ignore[arg-type]
Retry(budget=0.2)  # type: ignore[arg-type]
RetryBudget(0.2)  # type: ignore[call-arg]
RateLimit()  # type: ignore[call-arg]
RateLimit(100, 60.0)  # type: ignore[call-arg]
ConcurrencyLimit("8")  # type: ignore[arg-type]
CircuitBreaker()  # type: ignore[call-arg]
CircuitBreaker("stock", window_calls=100, slow_after=2.0, slow_rate=0.3, probe_timeout=30.0, defer=True)
CircuitBreaker("stock", failures=(OSError, TimeoutError), ignored=lambda error: "404" in str(error))
CircuitBreaker("stock", failures=OSError)
CircuitBreaker("stock", failures="OSError")  # type: ignore[arg-type]
CircuitBreaker("stock", ignored=[OSError])  # type: ignore[arg-type]
assert_type(CircuitBreaker.hystrix("stock", minimum_calls=50, probes=2), CircuitBreaker)
CircuitBreaker.hystrix("stock", sleep_window=5.0)  # type: ignore[call-arg]
CircuitBreaker.hystrix("stock", probes="2")  # type: ignore[arg-type]


# Breakers: as a block, in both colours, and as a decorator that keeps what it decorates.


@payments
def charge(amount: int) -> str:
    """Charge, or raise CircuitOpen."""
    return f"charged {amount}"


@payments
async def charge_later(amount: int) -> str:
    """Charge, or raise CircuitOpen."""
    async with payments as entered:
        assert_type(entered, CircuitBreaker)
    return f"charged {amount}"


assert_type(charge(1), str)
charge("1")  # type: ignore[arg-type]
assert_type(payments.name, str)
payments.name = "other"  # type: ignore[misc]
with payments as guarding:
    assert_type(guarding, CircuitBreaker)


def page(changed: BreakerChanged) -> None:
    """Tell somebody."""
    assert_type(changed.breaker, str)
    assert_type(changed.trigger, str)
    if changed.after == BreakerState.OPEN != changed.before:
        changed.after = BreakerState.CLOSED  # type: ignore[misc]


def by_hand() -> str:
    """Have the last word."""
    leave = payments.listen(page)
    payments.force_open()
    payments.metrics_only()
    payments.disable()
    payments.reset()
    leave()
    payments.listen(charge)  # type: ignore[arg-type]
    return assert_type(payments.state, BreakerState)


# pika.


def handle(channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
    """Handle one message."""
    assert_type(waybill.remaining(), float | None)
    waybill.check()
    if channel.is_open and method.delivery_tag and properties.headers and body:
        channel.basic_ack(method.delivery_tag)


def consume(connection: BlockingConnection) -> None:
    """Consume with a policy, pushed and pulled."""
    channel = connection.channel()
    channel.basic_consume("orders", orders.wrap(handle))
    channel.basic_consume("orders", orders.wrap(handle, queue="orders"))
    method, properties, body = channel.basic_get("orders")
    if method is not None and properties is not None and body is not None:
        assert_type(orders.run(channel, method, properties, body, handle, queue="orders"), Outcome)
        orders.run(channel, method, properties, body)  # type: ignore[call-overload]
        orders.run(channel, method, properties, "text", handle)  # type: ignore[call-overload]
    orders.wrap(queue="orders")  # type: ignore[call-arg]
    orders.wrap("handle")  # type: ignore[arg-type]
    orders.wrap(handle, "orders")  # type: ignore[call-arg]


# aio-pika.


async def handle_async(message: AbstractIncomingMessage) -> None:
    """Handle one message."""
    async with message.process():
        assert_type(waybill.current(), Waybill)


def handle_sync(message: AbstractIncomingMessage) -> None:
    """Handle one message, without awaiting anything."""
    assert message.body


async def consume_async(queue: aio_pika.abc.AbstractQueue) -> None:
    """Consume with a policy, pushed and pulled."""
    await queue.consume(orders.wrap(handle_async))
    async with queue.iterator() as messages:
        async for message in messages:
            assert_type(await orders.run(message, handle_async), Outcome)
            await orders.run(message, handle_sync, queue="orders")
            await orders.run(message, handle)  # type: ignore[arg-type]
            await orders.run(message)  # type: ignore[call-overload]
            await orders.run(message, handle_async, "orders")  # type: ignore[call-overload]


# Requests.


def requests() -> None:
    """Open blocks, and read what holds inside."""
    with waybill.request(id="123456", deadline=5.0, retry_limit=10, expire=True):
        facts = waybill.current()
        assert_type(facts.request_id, str | None)
        assert_type(facts.deadline, float | None)
        assert_type(facts.attempt, int)
        assert_type(facts.retries, int)
        assert_type(facts.retry_limit, int | None)
        assert_type(facts.id, str | None)
        facts.attempt = 2  # type: ignore[misc]
    with waybill.request(), waybill.deadline(5), waybill.detached():
        pass
    waybill.request("123456")  # type: ignore[call-arg]
    waybill.request(deadline="5 s")  # type: ignore[arg-type]
    waybill.request(timeout=5.0)  # type: ignore[call-arg]
    waybill.deadline()  # type: ignore[call-arg]
    waybill.detached(5.0)  # type: ignore[call-arg]


# Other transports.


def transports(column: dict[str, str], headers: Mapping[str, str]) -> None:
    """Write and read the waybill elsewhere."""
    waybill.inject(column)
    with waybill.extract(column), waybill.extract(headers), waybill.extract(None):
        pass
    waybill.inject(headers)  # type: ignore[arg-type]
    waybill.inject({"attempts": 1})  # type: ignore[dict-item]
    waybill.inject()  # type: ignore[call-arg]
    waybill.extract("traceparent")  # type: ignore[arg-type]


# Outcomes.


def after(outcome: Outcome) -> str:
    """Tell an outcome in words."""
    assert_type(outcome.result, Result)
    assert_type(outcome.reason, Reason | None)
    assert_type(outcome.delay, float | None)
    assert_type(outcome.error, BaseException | None)
    assert_type(outcome.final, bool)
    outcome.result = Result.HANDLED  # type: ignore[misc]
    if outcome.result is Result.PARKED and outcome.reason is Reason.CRASH_LOOP:
        return "parked"
    return str(outcome.attempt)


# Errors: one tree, which are also those of Python, with the facts as attributes.


def usual(error: TimeoutError | ValueError) -> float:
    """Do what is done about any such error."""
    return len(error.args)


def different(error: TopologyMismatch) -> str:
    """Tell what to change."""
    assert_type(error.wanted, str | None)
    return f"{error.found}" + (assert_type(error.argument, str | None) or "")


def lacking(error: TopologyRefused) -> tuple[str, ...]:
    """Tell what to ask an administrator for."""
    return assert_type(error.needs, tuple[str, ...])


def errors(error: WaybillError) -> float | str | None:  # noqa: PLR0911 - one for each
    """Tell what each error knows."""
    match error:
        case DeadlineExceeded():
            return assert_type(error.overdue, float) + usual(error)
        case CircuitOpen():
            assert_type(error.defer, bool)
            return assert_type(error.retry_after, float) or assert_type(error.breaker, str)
        case TopologyMismatch() | TopologyMissing() | TopologyRefused():
            return assert_type(error.entity, str) + assert_type(error.reply, str)
        case Unconfirmed():
            return assert_type(error.reply, str)
        case ThreadBusy():
            return assert_type(error.timeout, float) + usual(error)
        case WrongThread():
            return assert_type(error.attribute, str)
        case InvalidPolicy() | InvalidRequest():
            return usual(error)
    error.retry_after  # type: ignore[attr-defined]  # noqa: B018 - what must not be there
    return None


# Telemetry.


def our_hook(span: Span, message: Message) -> None:
    """Add something to a span."""
    assert_type(message.exchange, str)
    assert_type(message.routing_key, str)
    assert_type(message.queue, str | None)
    assert_type(message.delivery_tag, int | None)
    span.set_attribute("shop.queue", message.queue or "")


def their_hook(span: Span, body: object, properties: object) -> None:
    """Add something to a span, as programs of OpenTelemetry's own instrumentation do."""
    span.set_attribute("shop.size", f"{body} {properties}")


def wrong_hook(span: Span) -> None:
    """Too few arguments."""
    span.end()


hooks = Hooks(
    publish=our_hook,
    consume=their_hook,
    settle=lambda span, message: span.set_attribute("shop.tag", message.delivery_tag or 0),
    destination_template=lambda name: name.partition(".")[0] or None,
    redact=lambda name, value: value if name == "tenant" else "",
)
Hooks(publish=wrong_hook)  # type: ignore[arg-type]
Hooks(destination_template=len)  # type: ignore[arg-type]
Hooks(our_hook)  # type: ignore[call-arg]
hooks.publish = None  # type: ignore[misc]

settings = Settings(
    settle_spans=False,
    metrics=True,
    parent="link",
    capture_headers=("tenant",),
    legacy_attributes=True,
    exceptions="logs/dup",
)
assert_type(Settings.from_env({"OTEL_WAYBILL_PARENT": "link"}), Settings)
Settings(parent="root")  # type: ignore[arg-type]
Settings(exceptions="log")  # type: ignore[arg-type]
Settings(capture_headers=["tenant"])  # type: ignore[arg-type]


def instrument(tracers: TracerProvider, meters: MeterProvider, names: Sequence[str]) -> None:
    """Instrument, in one line or in many."""
    waybill.instrument()
    waybill.instrument(
        tracer_provider=tracers,
        meter_provider=meters,
        policies=dict.fromkeys(names, orders),
        settings=settings,
        hooks=hooks,
    )
    waybill.uninstrument()
    waybill.shutdown(BlockingConnection())
    waybill.shutdown(BlockingConnection().channel(), grace=30, done=print)
    waybill.shutdown("orders")  # type: ignore[call-overload]
    waybill.instrument(tracers)  # type: ignore[call-arg]
    waybill.instrument(policies={"orders": Retry()})  # type: ignore[dict-item]
    waybill.instrument(hooks=our_hook)  # type: ignore[arg-type]
    for instrumentor in (PikaInstrumentor(), AioPikaInstrumentor()):
        instrumentor.instrument(tracer_provider=tracers, publish_hook=their_hook)
        instrumentor.uninstrument()
