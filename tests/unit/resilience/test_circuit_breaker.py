"""CircuitBreaker: the object that programs put around their calls."""

import asyncio
import contextvars
import copy
import gc
import inspect
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import MISSING, fields

import pytest

from otel_waybill import guard
from otel_waybill.core.breaker import Permit, State
from otel_waybill.core.events import BreakerCalled, BreakerChanged, CallOutcome, Event
from otel_waybill.core.spec import BreakerSpec
from otel_waybill.errors import CircuitOpen, DeadlineExceeded, InvalidPolicy
from otel_waybill.resilience import hub
from otel_waybill.resilience.breaker import CircuitBreaker
from otel_waybill.resilience.breaker.options import BreakerOptions

OPENED = BreakerChanged(breaker="payments", before="closed", after="open", trigger="tripped")
PROBING = BreakerChanged(breaker="payments", before="open", after="half-open", trigger="retried")
CLOSED = BreakerChanged(breaker="payments", before="half-open", after="closed", trigger="recovered")
RELAPSED = BreakerChanged(breaker="payments", before="half-open", after="open", trigger="relapsed")


class Down(Exception):  # noqa: N818 - a state of the dependency
    """What the dependency of these tests raises."""


class Clock:
    """Monotonic seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The time of one test."""
    return Clock()


@pytest.fixture
def payments(clock: Clock) -> CircuitBreaker:
    """A breaker that opens at two failures of two, for five seconds, and sends one probe."""
    return CircuitBreaker("payments", minimum_calls=2, probes=1, clock=clock, chance=lambda: 0.5)


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What was told to the sinks."""
    seen: list[Event] = []

    def sink(event: Event, /) -> None:
        seen.append(event)

    hub.add(sink)
    yield seen
    hub.remove(sink)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Faults of the program's own functions are logged, as in a user's program, and not raised."""
    loud = guard.harmless.loud
    guard.reraise(on=False)
    yield
    guard.reraise(on=loud)


def called(outcome: CallOutcome) -> BreakerCalled:
    """A call through the breaker of these tests."""
    return BreakerCalled(breaker="payments", outcome=outcome)


def changes(events: Iterable[Event]) -> list[BreakerChanged]:
    """Those of *events* that are changes of a breaker."""
    return [event for event in events if isinstance(event, BreakerChanged)]


def state_of(breaker: CircuitBreaker) -> State:
    """Read the state afresh; type checkers take a property for a constant."""
    return breaker.state


def fail(breaker: CircuitBreaker, times: int = 1, error: Callable[[], BaseException] = Down) -> None:
    """Let calls fail inside the breaker."""
    for _ in range(times):
        with suppress(BaseException), breaker:
            raise error()


def admitted(breaker: CircuitBreaker, clock: Clock) -> Permit:
    """Acquire a permit as a policy does."""
    permit = breaker.acquire(clock(), 0.5).permit
    assert permit is not None
    return permit


def test_defaults_are_those_of_the_spec() -> None:
    """What the signature shows is what a breaker in a file gets."""
    spec = {each.name: each.default for each in fields(BreakerSpec) if each.default is not MISSING}
    signature = inspect.signature(CircuitBreaker).parameters
    assert spec == {name: signature[name].default for name in spec}
    assert {*spec, "name", "clock", "chance"} == set(signature)
    assert {*signature} - {"name"} == BreakerOptions.__optional_keys__


def test_settings_reach_the_core() -> None:
    """Every keyword is checked as the setting of its name."""
    wrong: dict[str, object] = {
        "window": 0,
        "minimum_calls": 0,
        "failure_rate": 0,
        "open_for": 0,
        "open_ceiling": 1,
    }
    wrong |= {"open_jitter": 1, "probes": 0, "probe_success": 0, "probe_timeout": 0, "window_calls": 1}
    wrong |= {"slow_after": 0, "slow_rate": 0, "failures": None, "ignored": None}
    for name, value in wrong.items():
        with pytest.raises(InvalidPolicy, match=name):
            CircuitBreaker("payments", **{name: value})  # type: ignore[arg-type]  # a dict has one value type


def test_open_breaker_raises_before_the_body(payments: CircuitBreaker, clock: Clock) -> None:
    """A refused call does not run, and the error says by whom and for how long."""
    fail(payments, 2)
    clock.now += 1.5
    ran = []
    with pytest.raises(CircuitOpen) as refusal, payments:
        ran.append(1)
    assert ([], "payments", 3.5) == (ran, refusal.value.breaker, refusal.value.retry_after)
    assert State.OPEN == state_of(payments)


def test_exceptions_pass_through_as_the_same_object(payments: CircuitBreaker) -> None:
    """The breaker counts an error, and otherwise it is as if it were not there."""
    error = Down()
    with pytest.raises(Down) as seen, payments:
        raise error
    assert error is seen.value


@pytest.mark.parametrize(
    "error", [Down, TimeoutError, lambda: DeadlineExceeded(0.1), lambda: ExceptionGroup("", [Down()])]
)
def test_every_exception_counts_as_failure(payments: CircuitBreaker, error: Callable[[], Exception]) -> None:
    """Timeouts and passed deadlines too: a dependency that is too slow is a failing one."""
    fail(payments, 2, error)
    assert State.OPEN == state_of(payments)


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, lambda: CircuitOpen("stock", 1.0)],
)
def test_interruptions_and_other_refusals_count_nothing(
    payments: CircuitBreaker, clock: Clock, error: Callable[[], BaseException]
) -> None:
    """Being stopped, or refused by another breaker, says nothing about this dependency."""
    fail(payments, 5, error)
    assert State.CLOSED == state_of(payments)
    fail(payments, 2)
    clock.now += 5.0
    fail(payments, 1, error)
    assert State.HALF_OPEN == state_of(payments)
    with payments:  # the place is free again
        pass
    assert State.CLOSED == state_of(payments)


def test_changes_are_told_once_and_without_the_lock(
    payments: CircuitBreaker, clock: Clock, events: list[Event]
) -> None:
    """Each change of state reaches the sinks, and a sink may use the breaker, from any thread."""
    states = []

    def nosy(_: Event, /) -> None:
        with ThreadPoolExecutor(1) as pool:
            states.append(pool.submit(lambda: payments.acquire(0.0, 0.5)).result(timeout=10).permit)

    hub.add(nosy)
    fail(payments, 2)
    hub.remove(nosy)
    assert [None] == states[-1:]
    clock.now += 5.0
    with payments:
        assert [OPENED, PROBING] == changes(events)
    assert [OPENED, PROBING, CLOSED] == changes(events)


def test_verbs_return_changes_instead_of_telling_them(
    payments: CircuitBreaker, clock: Clock, events: list[Event]
) -> None:
    """A policy that drives the breaker itself gets the change and reports it in its own order."""
    failure = called(CallOutcome.FAILURE)
    assert (failure,) == payments.fail(admitted(payments, clock), clock(), 0.5)
    assert (failure, OPENED) == payments.fail(admitted(payments, clock), clock(), 0.5)
    clock.now += 5.0
    admission = payments.acquire(clock(), 0.5)
    assert admission.permit is not None
    assert PROBING == admission.changed
    assert (called(CallOutcome.IGNORED),) == payments.release(admission.permit)
    success = called(CallOutcome.SUCCESS)
    assert (success, CLOSED) == payments.succeed(admitted(payments, clock), clock(), 0.5)
    assert [] == events


def test_nested_blocks_keep_their_own_permits(payments: CircuitBreaker) -> None:
    """A call inside a call is two calls, each counted by its own end."""
    with suppress(Down), payments:
        with suppress(Down), payments:
            raise Down
        assert State.CLOSED == state_of(payments)
        raise Down
    assert State.OPEN == state_of(payments)


def test_blocks_of_two_breakers_may_interleave(payments: CircuitBreaker) -> None:
    """Leaving in another order than entering closes the right permits."""
    stock = CircuitBreaker("stock", minimum_calls=2)
    fail(stock)
    payments.__enter__()
    stock.__enter__()
    payments.__exit__(None, None, None)
    stock.__exit__(Down, Down(), None)
    assert (State.CLOSED, State.OPEN) == (payments.state, stock.state)


def test_threads_keep_their_own_permits(clock: Clock) -> None:
    """One object serves many threads at once, and every call is counted once."""
    breaker = CircuitBreaker("payments", minimum_calls=8, failure_rate=1.0, clock=clock)
    inside = threading.Barrier(8)

    def call(*, fails: bool) -> None:
        with suppress(Down), breaker:
            inside.wait(timeout=10)
            if fails:
                raise Down

    for outcomes, state in (([True] * 7 + [False], State.CLOSED), ([True] * 8, State.OPEN)):
        clock.now += 60.0
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda fails: call(fails=fails), outcomes))
        assert state == state_of(breaker)


def test_tasks_keep_their_own_permits(payments: CircuitBreaker) -> None:
    """Tasks that overlap, also those started inside a block, end their own call and no other."""

    async def main() -> None:
        leave = asyncio.Event()

        async def child() -> None:
            async with payments:
                await leave.wait()
                raise Down

        async with payments:
            task = asyncio.create_task(child())
            await asyncio.sleep(0)
        leave.set()
        with suppress(Down):
            await task

    asyncio.run(main())
    assert State.OPEN == state_of(payments)  # one of two failed, and the success was counted first


def test_asyncio_timeout_inside_the_block_counts(payments: CircuitBreaker) -> None:
    """A call given up by asyncio.timeout inside the block is a failure."""

    async def main() -> None:
        for _ in range(2):
            with suppress(TimeoutError):
                async with payments, asyncio.timeout(0):
                    await asyncio.Event().wait()

    asyncio.run(main())
    assert State.OPEN == state_of(payments)


def test_decorates_functions(payments: CircuitBreaker) -> None:
    """A decorated function keeps its name and result, and is refused while the breaker is open."""

    @payments
    def pay(amount: int, *, currency: str) -> str:
        """Pay."""
        if amount < 0:
            raise Down
        return f"{amount} {currency}"

    assert ("pay", "Pay.", "5 EUR") == (pay.__name__, pay.__doc__, pay(5, currency="EUR"))
    with pytest.raises(Down):  # one of two calls
        pay(-1, currency="EUR")
    with pytest.raises(CircuitOpen):
        pay(5, currency="EUR")


def test_decorates_async_functions(payments: CircuitBreaker) -> None:
    """An async function stays one, and its call is counted when it has been awaited."""

    @payments
    async def pay(amount: int) -> int:
        if amount < 0:
            raise Down
        return amount

    async def main() -> None:
        assert 5 == await pay(5)
        with pytest.raises(Down):  # one of two calls
            await pay(-1)
        with pytest.raises(CircuitOpen):
            await pay(5)

    assert inspect.iscoroutinefunction(pay)
    asyncio.run(main())


def test_refuses_to_decorate_generators(payments: CircuitBreaker) -> None:
    """A generator does its work when iterated, where a decorator would not see it fail."""

    def pages() -> Iterator[int]:
        yield 1

    async def apages() -> object:
        yield 1

    generators: list[Callable[[], object]] = [pages, apages]
    for generator in generators:
        with pytest.raises(InvalidPolicy, match="use `with` inside it"):
            payments(generator)


def test_lent_permit_is_used_by_the_first_block_inside(payments: CircuitBreaker, clock: Clock) -> None:
    """A policy and its handler share one breaker: the only probe gets through, and counts once."""
    fail(payments, 2)
    clock.now += 5.0
    permit = admitted(payments, clock)
    with payments.lent(permit), payments:
        pass
    assert State.CLOSED == state_of(payments)
    assert () == payments.fail(permit, clock(), 0.5)  # the policy's report comes too late to matter


def test_lent_permit_is_used_once(payments: CircuitBreaker, clock: Clock) -> None:
    """The second call of a handler asks for itself."""
    permit = admitted(payments, clock)
    with payments.lent(permit):
        fail(payments)
        fail(payments)
    assert State.OPEN == state_of(payments)


def test_lent_permit_goes_to_one_of_several_tasks(payments: CircuitBreaker, clock: Clock) -> None:
    """Tasks that a handler starts do not both count as the call that was let in."""
    fail(payments, 2)
    clock.now += 5.0

    async def call() -> None:
        async with payments:
            await asyncio.sleep(0)

    async def main() -> tuple[BaseException | None, BaseException | None]:
        with payments.lent(admitted(payments, clock)):
            return await asyncio.gather(call(), call(), return_exceptions=True)

    first, second = asyncio.run(main())
    assert first is None
    assert isinstance(second, CircuitOpen)


def test_lent_permit_returns_when_the_block_counts_nothing(payments: CircuitBreaker, clock: Clock) -> None:
    """A handler cancelled at its deadline inside the block is still a failure if the policy says so."""
    fail(payments, 2)
    clock.now += 5.0
    permit = admitted(payments, clock)
    with payments.lent(permit):
        fail(payments, 1, asyncio.CancelledError)
        fail(payments, 1, lambda: CircuitOpen("stock", 1.0))
        assert State.HALF_OPEN == state_of(payments)
    assert [RELAPSED] == changes(payments.fail(permit, clock(), 0.5))


def test_lent_permit_of_an_earlier_time_lets_nobody_in(payments: CircuitBreaker, clock: Clock) -> None:
    """A handler let in before the breaker opened is refused at its call, like everybody else."""
    permit = admitted(payments, clock)
    fail(payments, 2)
    with payments.lent(permit), pytest.raises(CircuitOpen), payments:
        pass


def test_lent_permit_serves_no_other_breaker(payments: CircuitBreaker, clock: Clock) -> None:
    """Another dependency inside the handler asks its own breaker, and is counted there."""
    stock = CircuitBreaker("stock", minimum_calls=2, clock=clock)
    paying, picking = admitted(payments, clock), admitted(stock, clock)
    with stock.lent(picking):
        with payments:
            pass
        fail(stock)
    assert () == stock.fail(picking, clock(), 0.5)  # was used inside
    assert [OPENED] == changes(payments.fail(paying, clock(), 0.5))  # was not: a second call of two


def test_loans_of_two_breakers_nest(payments: CircuitBreaker, clock: Clock) -> None:
    """A handler under two breakers finds the permit of each, whichever was lent first."""
    stock = CircuitBreaker("stock", minimum_calls=2, clock=clock)
    paying, picking = admitted(payments, clock), admitted(stock, clock)
    with payments.lent(paying), stock.lent(picking), payments, stock:
        pass
    for breaker, permit in ((payments, paying), (stock, picking)):
        assert () == breaker.fail(permit, clock(), 0.5)
        assert changes(breaker.fail(admitted(breaker, clock), clock(), 0.5))  # a second call of two


def test_of_several_loans_the_one_that_was_used_returns(payments: CircuitBreaker, clock: Clock) -> None:
    """A call that counts nothing gives back its own permit, and no other."""
    stock = CircuitBreaker("stock", minimum_calls=2, clock=clock)
    picking, paying = admitted(stock, clock), admitted(payments, clock)
    with stock.lent(picking), payments.lent(paying):
        fail(payments, 1, asyncio.CancelledError)
        fail(stock)
    assert (called(CallOutcome.FAILURE),) == payments.fail(paying, clock(), 0.5)
    assert () == stock.fail(picking, clock(), 0.5)


def test_lending_ends_with_the_block(payments: CircuitBreaker, clock: Clock) -> None:
    """A task that outlives its handler does not use the handler's permit."""
    fail(payments, 2)
    clock.now += 5.0
    permit = admitted(payments, clock)
    with payments.lent(permit):
        outlives = contextvars.copy_context()
    with pytest.raises(CircuitOpen):
        outlives.run(payments.__enter__)
    with pytest.raises(CircuitOpen), payments:
        pass
    assert State.HALF_OPEN == state_of(payments)


def test_leaving_in_another_context_is_no_error(payments: CircuitBreaker) -> None:
    """A generator that somebody else finishes does not break that somebody."""
    contextvars.copy_context().run(payments.__enter__)
    payments.__exit__(Down, Down(), None)
    assert State.CLOSED == state_of(payments)


def test_abandoned_generator_under_the_lock_does_not_deadlock(payments: CircuitBreaker) -> None:
    """The collector may finish a block inside a generator while the same thread is in the breaker."""
    generators: list[Iterator[None]] = []

    def call() -> Iterator[None]:
        with payments:
            yield

    generators.append(call())
    next(generators[0])
    with payments._lock:
        generators.clear()
        gc.collect()
    with payments:
        pass
    assert State.CLOSED == state_of(payments)


def test_repr_tells_name_and_state(payments: CircuitBreaker) -> None:
    """In a debugger or a log the breaker explains itself."""
    assert "<CircuitBreaker 'payments' closed>" == repr(payments)
    fail(payments, 2)
    assert "<CircuitBreaker 'payments' open>" == repr(payments)
    assert "payments" == payments.name


def test_second_breaker_of_a_name_is_refused(payments: CircuitBreaker) -> None:
    """Two objects for one dependency would each see half of the failures."""
    with pytest.raises(InvalidPolicy, match=r"share that object .*got <CircuitBreaker 'payments' closed>"):
        CircuitBreaker(payments.name)


def test_refusal_survives_copy_and_pickle(payments: CircuitBreaker) -> None:
    """A refusal that crosses a process keeps its facts."""
    fail(payments, 2)
    with pytest.raises(CircuitOpen) as refusal, payments:
        pass
    for twin in (copy.copy(refusal.value), pickle.loads(pickle.dumps(refusal.value))):  # noqa: S301 - our own
        assert ("payments", 5.0) == (twin.breaker, twin.retry_after)


# Which calls count, and as what.


def test_the_block_and_the_policy_judge_alike(clock: Clock) -> None:
    """What an exception says about the dependency is a setting of the breaker, however it is used."""
    breaker = CircuitBreaker(
        "payments", minimum_calls=1, failures=(OSError,), ignored=(FileNotFoundError,), clock=clock
    )
    for error, outcome in (
        (ConnectionError, CallOutcome.FAILURE),
        (ValueError, CallOutcome.SUCCESS),
        (FileNotFoundError, CallOutcome.IGNORED),
        (KeyboardInterrupt, CallOutcome.IGNORED),
    ):
        told: list[Event] = []
        hub.add(told.append)
        fail(breaker, 1, error)
        hub.remove(told.append)
        breaker.reset()
        assert tuple(told) == breaker.fail(admitted(breaker, clock), clock(), 0.5, error())
        assert called(outcome) == told[0]
        breaker.reset()


def test_nack_of_a_handler_is_a_failure(clock: Clock) -> None:
    """A policy that reports a failure without an exception has one all the same."""
    breaker = CircuitBreaker("payments", minimum_calls=1, failures=(), clock=clock)
    assert called(CallOutcome.FAILURE) == breaker.fail(admitted(breaker, clock), clock(), 0.5)[0]


@pytest.mark.usefixtures("quiet")
def test_a_predicate_that_raises_changes_nothing_for_the_program(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller sees its own error, which counts as a failure, and the fault is logged once."""

    def broken(error: BaseException) -> bool:
        return bool(error.args[0] == "503")

    breaker = CircuitBreaker("payments", minimum_calls=2, failures=broken, clock=clock)
    for _ in range(2):
        with pytest.raises(Down), breaker:
            raise Down
    assert State.OPEN == state_of(breaker)
    assert 1 == len(caplog.records)
    assert "asking whether an exception counts for a breaker failed" in caplog.text


def test_a_call_takes_from_its_permit_to_its_end(clock: Clock) -> None:
    """A slow call is one whatever it returns, by the clock of the breaker."""
    breaker = CircuitBreaker("payments", minimum_calls=2, slow_after=1.0, slow_rate=1.0, clock=clock)
    for _ in range(2):
        with breaker:
            clock.now += 1.5
    assert State.OPEN == state_of(breaker)


def test_a_call_on_a_lent_permit_begins_with_its_block(clock: Clock) -> None:
    """What a handler did before it called the dependency does not make the call slow."""
    breaker = CircuitBreaker("payments", minimum_calls=1, slow_after=1.0, clock=clock)
    with breaker.lent(admitted(breaker, clock)):
        clock.now += 60.0
        with breaker:
            clock.now += 0.5
    assert State.CLOSED == state_of(breaker)


def test_every_call_is_told_with_its_outcome(payments: CircuitBreaker, events: list[Event]) -> None:
    """Telemetry hears of each call once, of refused ones too."""
    with payments:
        pass
    fail(payments, 1, asyncio.CancelledError)
    fail(payments, 2)
    assert [
        called(CallOutcome.SUCCESS),
        called(CallOutcome.IGNORED),
        called(CallOutcome.FAILURE),
        OPENED,
        called(CallOutcome.REFUSED),
    ] == events


def test_a_call_under_a_policy_is_told_once(
    payments: CircuitBreaker, clock: Clock, events: list[Event]
) -> None:
    """The block inside uses the permit of the policy, and only one of them reports."""
    permit = admitted(payments, clock)
    with payments.lent(permit), payments:
        pass
    assert () == payments.succeed(permit, clock(), 0.5)
    assert [called(CallOutcome.SUCCESS)] == events


def test_refusal_says_whether_to_defer(payments: CircuitBreaker) -> None:
    """A handler that is stopped by such a breaker spends no attempt."""
    patient = CircuitBreaker("stock", minimum_calls=1, defer=True)
    seen = []
    for breaker in (payments, patient):
        fail(breaker, 2)
        with pytest.raises(CircuitOpen) as refusal, breaker:
            pass
        seen.append((refusal.value.defer, pickle.loads(pickle.dumps(refusal.value)).defer))  # noqa: S301 - our own
    assert [(False, False), (True, True)] == seen


# By hand.


def test_hand_has_the_last_word_from_any_thread(payments: CircuitBreaker, events: list[Event]) -> None:
    """Operators open, silence and close it while the program runs, and telemetry sees it."""
    for move, state in (
        (payments.force_open, State.FORCED_OPEN),
        (payments.metrics_only, State.METRICS_ONLY),
        (payments.disable, State.DISABLED),
        (payments.reset, State.CLOSED),
    ):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(move).result(timeout=10)
        assert state == state_of(payments)
    assert [
        ("forced-open", "forced"),
        ("metrics-only", "observed"),
        ("disabled", "disabled"),
        ("closed", "reset"),
    ] == [(each.after, each.trigger) for each in changes(events)]


def test_forced_open_refuses_until_reset(payments: CircuitBreaker, clock: Clock) -> None:
    """Maintenance lasts as long as it lasts."""
    payments.force_open()
    clock.now += 1e6
    with pytest.raises(CircuitOpen) as refusal, payments:
        pass
    assert 5.0 == refusal.value.retry_after
    payments.reset()
    with payments:
        pass


def test_call_that_was_running_when_it_was_moved_counts_no_more(payments: CircuitBreaker) -> None:
    """A reset is not undone by what began before it."""
    fail(payments)
    with suppress(Down), payments:
        payments.reset()
        raise Down
    fail(payments)
    assert State.CLOSED == state_of(payments)


# Listeners.


def test_listeners_hear_every_change_until_they_leave(payments: CircuitBreaker, clock: Clock) -> None:
    """However it came about, and of this breaker only."""
    heard: list[BreakerChanged] = []
    leave = payments.listen(heard.append)
    fail(payments, 2)
    clock.now += 5.0
    with payments:
        pass
    stock = CircuitBreaker("stock", minimum_calls=1)
    fail(stock)
    assert [OPENED, PROBING, CLOSED] == heard
    leave()
    leave()
    payments.force_open()
    assert [OPENED, PROBING, CLOSED] == heard


def test_a_listener_may_be_there_twice_and_leaves_once(payments: CircuitBreaker) -> None:
    """Each listening is its own."""
    heard: list[BreakerChanged] = []
    leave = payments.listen(heard.append)
    payments.listen(heard.append)
    leave()
    fail(payments, 2)
    assert [OPENED] == heard


@pytest.mark.usefixtures("quiet")
def test_a_listener_that_raises_is_logged_once(
    payments: CircuitBreaker, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the caller nor the next listener pays for it."""
    heard: list[BreakerChanged] = []

    def broken(_: BreakerChanged) -> None:
        msg = "pager is down"
        raise OSError(msg)

    payments.listen(broken)
    payments.listen(heard.append)
    fail(payments, 2)
    payments.force_open()
    assert 2 == len(heard)
    assert 1 == len(caplog.records)
    assert "telling a listener of a breaker failed" in caplog.text


def test_a_listener_may_use_the_breaker(payments: CircuitBreaker) -> None:
    """No lock is held while it runs: it may ask, move and listen, from any thread."""

    def isolate(changed: BreakerChanged) -> None:
        if changed.after == "open":
            with ThreadPoolExecutor(1) as pool:
                pool.submit(payments.force_open).result(timeout=10)

    payments.listen(isolate)
    fail(payments, 2)
    assert State.FORCED_OPEN == state_of(payments)


# Hystrix.


def test_hystrix_has_its_numbers(clock: Clock) -> None:
    """Twenty calls in ten seconds, half of them failed; one probe after five seconds, always five."""
    breaker = CircuitBreaker.hystrix("payments", clock=clock)
    for _ in range(10):
        with breaker:
            pass
    fail(breaker, 9)
    assert State.CLOSED == state_of(breaker)
    for _ in range(3):  # the sleep window does not grow
        fail(breaker)
        assert State.OPEN == state_of(breaker)
        with pytest.raises(CircuitOpen) as refusal, breaker:
            pass
        assert 5.0 == refusal.value.retry_after
        clock.now += 5.0
    with breaker:
        pass
    assert State.CLOSED == state_of(breaker)


def test_hystrix_takes_overrides(clock: Clock) -> None:
    """Each of its numbers can be another, and the sleep window still does not grow."""
    breaker = CircuitBreaker.hystrix("payments", window_calls=50, open_for=90.0, probes=2, clock=clock)
    assert (50, None, 90.0, 90.0, 2) == (
        breaker.spec.window_calls,
        breaker.spec.window,
        breaker.spec.open_for,
        breaker.spec.open_ceiling,
        breaker.spec.probes,
    )
