"""What the deliveries of one policy share: lines for all threads, one for each key, and budgets."""

import asyncio
import gc
import math
import queue
import threading
from collections.abc import Callable, Generator

import pytest

from otel_waybill.core.delivery import Delivery
from otel_waybill.core.limits import ConcurrencyLimit, RateLimit
from otel_waybill.core.line import Bell, Slots
from otel_waybill.core.retry import Retry, RetryBudget
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.waybill import Hop, Waybill
from otel_waybill.resilience.limits import SharedBudget, SharedLine, Shares, _Table

NEW, AGAIN = Waybill(), Waybill(attempt=2, hop=Hop())


def delivery(of: str = "orders", **headers: object) -> Delivery:
    """A delivery from the queue *of*."""
    return Delivery(queue=of, exchange="", routing_key=of, headers=headers)


# One line.


@pytest.mark.parametrize("places", [1, 3])
def test_threads_are_never_too_many_and_all_get_in(places: int) -> None:
    """Real threads at one line: no place is given twice, no call is lost, and everybody comes through."""
    line, inside, most, done = SharedLine(Slots(places)), set[int](), [0], [0]
    lock = threading.Lock()

    def deliver(number: int) -> None:
        for _ in range(25):
            bell, called = Bell(), queue.SimpleQueue[None]()
            while True:
                bell.hush()
                if line.ask(bell, 0.0) == 0.0:
                    break
                bell.listen(lambda called=called: called.put(None))  # type: ignore[misc]  # bound at once
                called.get(timeout=60)
            with lock:
                inside.add(number)
                most[0] = max(most[0], len(inside))
            with lock:
                inside.remove(number)
                done[0] += 1
            line.leave(bell)

    threads = [threading.Thread(target=deliver, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert 150 == done[0]
    assert most[0] <= places
    assert line.idle


def test_whoever_leaves_calls_the_next() -> None:
    """One call for one place, and none for those behind."""
    line, bells, rung = SharedLine(Slots(1)), [Bell() for _ in range(3)], list[int]()
    for i, bell in enumerate(bells):
        bell.listen(lambda i=i: rung.append(i))  # type: ignore[misc]  # bound at once
        line.ask(bell, 0.0)
    line.leave(bells[0])
    assert [1] == rung
    line.leave(bells[1])
    assert [1, 2] == rung


def test_whoever_takes_a_place_calls_the_next_if_there_is_another() -> None:
    """Two places become free at once: the second one is offered when the first one is taken."""
    line, bells, rung = SharedLine(Slots(2)), [Bell() for _ in range(4)], list[int]()
    for i, bell in enumerate(bells):
        bell.listen(lambda i=i: rung.append(i))  # type: ignore[misc]  # bound at once
        line.ask(bell, 0.0)
    line.leave(bells[0])
    line.leave(bells[1])
    assert [2] == rung
    assert 0.0 == line.ask(bells[2], 0.0)
    assert [2, 3] == rung


@pytest.mark.parametrize("how", [RuntimeError, OSError, ValueError])
def test_those_whose_loop_is_closed_block_nobody(how: type[Exception]) -> None:
    """However many of them stand in line, and whatever calling them raises, the living one is called."""

    def gone() -> None:
        raise how

    line, first, last, rung = SharedLine(Slots(1)), Bell(), Bell(), list[int]()
    line.ask(first, 0.0)
    for _ in range(3000):
        dead = Bell()
        dead.listen(gone)
        line.ask(dead, 0.0)
    last.listen(lambda: rung.append(1))
    line.ask(last, 0.0)
    line.leave(first)
    assert [1] == rung
    assert 0.0 == line.ask(last, 0.0)


def test_closed_loop_of_asyncio_blocks_nobody() -> None:
    """The same with a real one."""
    line, first, rung = SharedLine(Slots(1)), Bell(), list[int]()
    line.ask(first, 0.0)

    async def waits() -> None:
        bell, loop = Bell(), asyncio.get_running_loop()
        line.ask(bell, 0.0)
        bell.listen(lambda: loop.call_soon_threadsafe(lambda: None))

    asyncio.run(waits())
    last = Bell()
    last.listen(lambda: rung.append(1))
    line.ask(last, 0.0)
    line.leave(first)
    assert [1] == rung


def test_delivery_that_the_collector_ends_leaves() -> None:
    """An abandoned coroutine is finished at any line, also inside the lock; it must not wait for it."""
    line, bell = SharedLine(Slots(1)), Bell()

    def abandoned() -> Generator[None, None, None]:
        line.ask(bell, 0.0)
        try:
            yield
        finally:
            line.leave(bell)

    class Dropping(Slots):
        """Places whose lock is held while the collector runs."""

        def ask(self, bell: Bell, now: float) -> float:
            """Collect what the test has dropped."""
            running.clear()
            gc.collect()
            return super().ask(bell, now)

    running = [abandoned()]
    next(running[0])
    line._line = Dropping(1)
    line._line._taken.add(bell)
    asking = threading.Thread(target=lambda: waits.append(line.ask(Bell(), 0.0)), daemon=True)
    waits: list[float] = []
    asking.start()
    asking.join(10)
    assert [0.0] == waits


# One for each key.


def test_queues_do_not_share_limits() -> None:
    """A policy on two queues gives each its own places, pace and budget."""
    spec = PolicySpec(
        retry=Retry(budget=RetryBudget()), rate=RateLimit(1, per=3600.0), concurrency=ConcurrencyLimit(1)
    )
    shares = Shares(spec)
    one, two = (shares.limits(delivery(name), NEW) for name in ("orders", "refunds"))
    assert one == shares.limits(delivery("orders"), NEW)
    assert one.concurrency is not two.concurrency
    assert one.rate is not two.rate


def test_keys_do_not_share_limits() -> None:
    """Each tenant has its own; those without the header share one."""
    shares = Shares(
        PolicySpec(concurrency=ConcurrencyLimit(1, by="header:tenant"), rate=RateLimit(1, by="header:tenant"))
    )
    acme, evil, none, wrong = (
        shares.limits(delivery(tenant=tenant), NEW) for tenant in ("acme", "evil", None, ["x"])
    )
    assert acme.concurrency is not evil.concurrency
    assert acme.rate is not evil.rate
    assert none == wrong
    assert acme == shares.limits(delivery(tenant="acme"), AGAIN)


def test_policy_without_limits_has_none() -> None:
    """Nothing is asked and nothing is kept."""
    shares = Shares(PolicySpec(retry=Retry()))
    assert (None, None) == shares.limits(delivery(), NEW)
    assert shares.budget(delivery(), NEW) is None
    assert Shares(PolicySpec()).budget(delivery(), NEW) is None


def test_order_is_one_at_a_time() -> None:
    """With in_order a queue has one place."""
    limits = Shares(PolicySpec(retry=Retry(in_order=True))).limits(delivery(), NEW)
    assert limits.concurrency is not None
    bells = Bell(), Bell()
    assert [0.0, math.inf] == [limits.concurrency.ask(bell, 0.0) for bell in bells]


@pytest.mark.parametrize(
    ("limit", "at_once"),
    [(RateLimit(3, per=60.0), 3), (RateLimit(3, per=60.0, burst=1), 1), (RateLimit(1, burst=5), 5)],
)
def test_pace_is_as_written(limit: RateLimit, at_once: int) -> None:
    """So many at once, and then one in the time that the numbers say."""
    rate = Shares(PolicySpec(rate=limit)).limits(delivery(), NEW).rate
    assert rate is not None
    assert [0.0] * at_once == [rate.ask(Bell(), 100.0) for _ in range(at_once)]
    assert limit.per / limit.runs == pytest.approx(rate.ask(Bell(), 100.0))


class Thing:
    """Something that one may forget, or not."""

    def __init__(self) -> None:
        self.idle = True


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> _Table[Thing]:
    """A table of three."""
    monkeypatch.setattr(_Table, "MOST", 3)
    return _Table[Thing]()


def test_strangers_cannot_fill_the_memory(table: _Table[Thing]) -> None:
    """However many keys messages bring, few are known: those not used for the longest time are forgotten."""
    things = [table.of(("orders", str(i)), Thing) for i in range(3)]
    assert things[0] is table.of(("orders", "0"), Thing)
    table.of(("orders", "new"), Thing)
    assert 3 == len(table._known)
    assert [("orders", "2"), ("orders", "0"), ("orders", "new")] == list(table._known)
    for i in range(1000):
        table.of(("orders", f"more-{i}"), Thing)
    assert 3 == len(table._known)


def test_what_is_in_use_is_not_forgotten(table: _Table[Thing]) -> None:
    """When all are in use newcomers share one, so that nobody's limit is doubled."""
    things = [table.of(("orders", str(i)), Thing) for i in range(3)]
    for thing in things:
        thing.idle = False
    shared = table.of(("orders", "new"), Thing)
    shared.idle = False
    assert shared is table.of(("orders", "newer"), Thing)
    assert things == [table.of(("orders", str(i)), Thing) for i in range(3)]
    assert 4 == len(table._known)


def test_one_that_stays_in_use_does_not_make_all_share(table: _Table[Thing]) -> None:
    """Behind a handler that runs for hours the next newcomer finds something to forget."""
    table.of(("orders", "long"), Thing).idle = False
    for i in range(2):
        table.of(("orders", str(i)), Thing)
    table.of(("orders", "new"), Thing)
    table.of(("orders", "newer"), Thing)
    assert ("orders", "newer") in table._known
    assert ("orders", "long") in table._known


# Budgets.


def test_new_messages_earn_retries() -> None:
    """A fifth of a retry for each new message, on top of ten seconds' worth of the minimum."""
    shares = Shares(PolicySpec(retry=Retry(budget=RetryBudget(ratio=0.5, per_second=1.0))))
    spend = shares.budget(delivery(), AGAIN)
    assert spend is not None
    assert 10 == taken(lambda: spend(100.0))
    for waybill in (NEW, NEW, AGAIN, AGAIN):
        shares.budget(delivery(), waybill)
    assert 1 == taken(lambda: spend(100.0))
    assert 2 == taken(lambda: spend(102.0))


def test_budget_that_is_full_is_as_good_as_new() -> None:
    """It may be forgotten, and is made anew."""
    budget = SharedBudget(RetryBudget(per_second=1e9))
    assert budget.idle
    assert budget.spend(1e12)
    assert not budget.idle


def test_threads_do_not_spend_the_same_twice() -> None:
    """However many threads ask, no more is spent than there is."""
    budget = SharedBudget(RetryBudget(per_second=10.0))
    spent = list[bool]()
    threads = [
        threading.Thread(target=lambda: spent.extend(budget.spend(0.0) for _ in range(50))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 100 == spent.count(True)


def taken(take: Callable[[], bool]) -> int:
    """How often *take* says yes before it says no."""
    count = 0
    while take():
        count += 1
    return count
