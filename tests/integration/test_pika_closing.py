"""Ending consumers of pika in good order: what waits goes back, what runs may end, no copy is made twice."""

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from weakref import ref

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.spec import Basic

import otel_waybill as waybill
from conformance.clients.pika_asyncio import PikaAsyncio
from integration.pika_loops import LOOPS, Done, Loop, on_select, play
from integration.pika_recording import Recorded, opened, send_bare
from integration.test_pika_workers import PATIENCE, assert_no_threads, pump
from otel_waybill.clients.pika import topology
from otel_waybill.clients.pika.settle import ledgers
from otel_waybill.clients.pika.workers import WorkerChannel
from otel_waybill.core.delivery import Result
from otel_waybill.patching import passthrough

RETRY = waybill.Retry(attempts=2, backoff=waybill.Backoff(first=0.2, ceiling=0.2, jitter="none"))
_numbers = itertools.count()


@pytest.fixture
def gateway() -> waybill.CircuitBreaker:
    """A breaker that is open."""
    gateway = waybill.CircuitBreaker(f"closing-{next(_numbers)}", minimum_calls=1, open_for=60)
    with pytest.raises(LookupError), gateway:
        raise LookupError
    return gateway


@pytest.fixture
def ready(amqp_url: str, policed: str) -> Iterator[Callable[[], int]]:
    """Tells how many messages of the queue the broker could hand out at once."""
    with opened(amqp_url) as other:
        yield lambda: other.queue_declare(policed, passive=True).method.message_count


class Failing:
    """A handler that fails."""

    def __init__(self) -> None:
        self.called = False

    def __call__(self, *_: object) -> None:
        """Handle a delivery, badly."""
        self.called = True
        raise LookupError


def once(ready: Callable[[], int]) -> bool:
    """Return whether there is one message, after the time that its retry waits, and not two."""
    earliest, latest = time.monotonic() + 0.6, time.monotonic() + PATIENCE
    while time.monotonic() < (latest if not ready() else earliest):
        time.sleep(0.05)
    return ready() == 1


@pytest.mark.parametrize("what", ["channel", "connection"])
def test_closing_waits_for_the_copy_that_is_on_its_way(
    recorded: Recorded, channel: BlockingChannel, policed: str, ready: Callable[[], int], what: str
) -> None:
    """A message whose retry is being published is acknowledged first, and so is there once."""
    fail = Failing()
    channel.basic_consume(policed, waybill.Policy(retry=RETRY).wrap(fail))
    pump(channel, lambda: fail.called)
    (channel if what == "channel" else channel.connection).close()

    assert once(ready)
    assert ["publish", "ack", "process"] == recorded.operations


def test_closing_another_channel_first_waits_as_well(
    recorded: Recorded, channel: BlockingChannel, policed: str, ready: Callable[[], int]
) -> None:
    """Whichever of its channels a connection closes first, the one for copies is still there."""
    send_bare(channel, policed)
    policy, fail = waybill.Policy(retry=RETRY), Failing()
    channel.basic_consume(policed, policy.wrap(lambda on, method, *_: on.basic_cancel(method.consumer_tag)))
    pump(channel, lambda: recorded.of("ack"))
    channel.connection.channel().basic_consume(policed, policy.wrap(fail))
    pump(channel, lambda: fail.called)
    channel.connection.close()

    assert once(ready)


def test_what_waits_for_a_place_is_given_back(
    channel: BlockingChannel, policed: str, ready: Callable[[], int]
) -> None:
    """There are two threads and one place: the second delivery waits for it, and goes back."""
    send_bare(channel, policed)
    policy, started, stop = waybill.Policy(workers=2, concurrency=1), threading.Event(), threading.Event()
    bodies = []

    def handle(_: object, __: object, ___: object, body: bytes) -> None:
        bodies.append(body)
        started.set()
        stop.wait(PATIENCE)

    channel.basic_consume(policed, policy.wrap(handle, queue=policed))
    pump(channel, lambda: started.is_set() and not ready())
    channel.connection._impl._adapter_call_later(0.05, stop.set)
    waybill.shutdown(channel, grace=PATIENCE)

    assert 1 == len(bodies)
    pump(channel, lambda: ready() == 1)
    channel.basic_consume(policed, policy.wrap(handle, queue=policed))
    pump(channel, lambda: len(bodies) == 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_waits_is_given_back(
    channel: BlockingChannel,
    policed: str,
    ready: Callable[[], int],
    gateway: waybill.CircuitBreaker,
    workers: int,
) -> None:
    """What a breaker holds is in its queue again, and the channel lives on without consumers."""
    policy = waybill.Policy(breaker=gateway, workers=workers)
    send_bare(channel, policed)
    channel.basic_consume(policed, policy.wrap(Failing(), queue=policed))
    pump(channel, lambda: not ready())
    channel.connection.process_data_events(0.05)
    waybill.shutdown(channel, grace=3600)

    pump(channel, lambda: ready() == 2)
    assert [] == channel.consumer_tags
    channel.close()
    assert 2 == ready()


def test_what_runs_may_end_and_publish(
    channel: BlockingChannel, policed: str, ready: Callable[[], int]
) -> None:
    """A handler in a thread is waited for; the delivery behind it, which has not begun, goes back."""
    send_bare(channel, policed)
    started, bodies = threading.Event(), []

    def handle(on: WorkerChannel, method: Basic.Deliver, _: object, body: bytes) -> None:
        started.set()
        time.sleep(0.05)
        bodies.append(body)
        on.basic_publish("", f"{policed}.parked", body)
        on.basic_ack(method.delivery_tag)

    channel.basic_consume(policed, waybill.Policy(workers=1).wrap(handle, queue=policed))
    pump(channel, lambda: started.is_set() and not ready())
    waybill.shutdown(channel.connection, grace=PATIENCE)

    assert 1 == len(bodies)
    pump(channel, lambda: ready() == 1)
    channel.close()
    assert_no_threads()
    assert 1 == ready()


def test_what_does_not_end_is_given_back(
    channel: BlockingChannel, policed: str, ready: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """After the grace its message is in the queue; what its handler says then changes nothing."""
    started, stop, ended = threading.Event(), threading.Event(), threading.Event()

    def handle(on: WorkerChannel, method: Basic.Deliver, *_: object) -> None:
        started.set()
        stop.wait(PATIENCE)
        on.basic_ack(method.delivery_tag)
        ended.set()

    channel.basic_consume(policed, waybill.Policy(workers=1).wrap(handle, queue=policed))
    pump(channel, started.is_set)
    waybill.shutdown(channel, grace=0.05)
    pump(channel, lambda: ready() == 1)
    stop.set()
    pump(channel, lambda: ended.is_set() and "ignoring this ack" in caplog.text)

    assert 1 == ready()
    assert channel.is_open


def test_a_handler_may_end_its_own_consumer(
    channel: BlockingChannel, policed: str, ready: Callable[[], int]
) -> None:
    """Called from a callback it does not wait for that callback."""
    calls = []

    def handle(on: BlockingChannel, *_: object) -> None:
        calls.append(1)
        waybill.shutdown(on)

    send_bare(channel, policed)
    channel.basic_consume(policed, waybill.Policy(prefetch=1).wrap(handle, queue=policed))
    pump(channel, lambda: calls and ready())

    assert 1 == len(calls) == ready()


def test_consumers_without_a_policy_just_stop(channel: BlockingChannel, queue: str) -> None:
    """What they have is the program's own; closing them does not wait, and shutting down only cancels."""
    channel.basic_consume(queue, lambda *_: None)
    waybill.shutdown(channel.connection)

    assert [] == channel.consumer_tags
    assert channel.is_open


def test_what_is_closed_has_nothing_to_end(channel: BlockingChannel, policed: str) -> None:
    """Also where a policy stood."""
    channel.basic_consume(policed, waybill.Policy(workers=1).wrap(lambda *_: None, queue=policed))
    channel.connection.process_data_events(0.05)
    connection, done = channel.connection, []
    channel.close()
    waybill.shutdown(channel, done=lambda: done.append(1))
    connection.close()
    waybill.shutdown(connection, done=lambda: done.append(2))
    waybill.shutdown(connection._impl, done=lambda: done.append(3))

    assert [1, 2, 3] == done


def test_it_says_what_it_takes(channel: BlockingChannel) -> None:
    """A grace below nothing, or something that is no connection, is refused."""
    with pytest.raises(waybill.InvalidPolicy, match="grace >= 0"):
        waybill.shutdown(channel, grace=-1)
    with pytest.raises(waybill.InvalidPolicy, match="connection or channel of pika"):
        waybill.shutdown(channel.connection.process_data_events)  # type: ignore[call-overload]  # that is it


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_is_called_when_it_is_done(
    amqp_url: str, policed: str, ready: Callable[[], int], loop: Callable[[], Loop]
) -> None:
    """On an asynchronous connection a copy on its way is confirmed, and then the program may close."""

    def scenario(channel: Channel, done: Done) -> None:
        def handle(*_: object) -> None:
            later = channel.connection._adapter_call_later
            later(0, lambda: waybill.shutdown(channel.connection, done=done))
            raise LookupError

        channel.basic_consume(policed, waybill.Policy(retry=RETRY).wrap(handle, queue=policed))

    play(loop(), amqp_url, scenario)
    assert once(ready)


@pytest.mark.usefixtures("recorded")
def test_what_has_not_begun_is_given_back(amqp_url: str, policed: str, ready: Callable[[], int]) -> None:
    """Deliveries that wait for the topology are held no longer."""
    with opened(amqp_url) as sender:
        send_bare(sender, policed, 3)

    calls = []

    def scenario(channel: Channel, done: Done) -> None:
        def look() -> None:
            later = channel.connection._adapter_call_later
            if ledgers.of(channel).entries:
                waybill.shutdown(channel, done=lambda: later(0.1, done))
            else:
                later(0, look)

        # Messages come at once, and the answers to the first declarations with them.
        channel.basic_consume(policed, waybill.Policy(retry=RETRY).wrap(lambda *_: calls.append(1)))
        look()

    play(on_select(), amqp_url, scenario)

    assert [] == calls
    assert 4 == ready()


@pytest.mark.parametrize("how", ["closed", "shutdown"])
def test_what_is_held_leaves_nothing_behind_on_its_connection(
    recorded: Recorded, channel: BlockingChannel, policed: str, gateway: waybill.CircuitBreaker, how: str
) -> None:
    """A channel ends and its connection lives on: no timer keeps the delivery, whose body may be large."""
    beside = channel.connection.channel()
    beside.basic_consume(policed, waybill.Policy(breaker=gateway).wrap(Failing()))
    pump(channel, lambda: ledgers.of(beside._impl).entries)
    held = ref(next(iter(ledgers.of(beside._impl).entries.values())))
    if how == "shutdown":
        waybill.shutdown(beside)
    else:
        beside.close()
    gc.collect()

    assert held() is None
    assert "ack" not in recorded.operations


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("held", [True, False])
def test_pull_whose_channel_the_broker_closes_is_over(
    channel: BlockingChannel,
    policed: str,
    ready: Callable[[], int],
    gateway: waybill.CircuitBreaker,
    *,
    held: bool,
) -> None:
    """While the message is held or before that: the program hears that it was given back."""
    pump(channel, ready)
    method, properties, body = channel.basic_get(policed)
    assert method is not None
    assert properties is not None
    assert body is not None
    fail = Failing()

    def spoil() -> None:
        with passthrough():
            channel._impl.basic_ack(0xFFFF)  # of no delivery

    if held:
        channel.connection.call_later(0, spoil)  # comes while it sleeps
    else:
        spoil()
    outcome = waybill.Policy(breaker=gateway).run(channel, method, properties, body, fail)
    assert outcome.result is Result.GIVEN_BACK
    assert not fail.called


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_connection_that_is_just_dropped_blocks_nobody(
    channel: BlockingChannel, policed: str, amqp_url: str
) -> None:
    """What it held goes back when its memory is freed, and so does its place in the line of the policy."""
    policy = waybill.Policy(
        retry=waybill.Retry(in_order=True, backoff=waybill.Backoff(first=60.0, ceiling=60.0))
    )

    def consume_for_a_while() -> None:
        fail = Failing()
        own = pika.BlockingConnection(pika.URLParameters(amqp_url)).channel()
        own.basic_consume(policed, policy.wrap(fail, queue=policed))
        pump(own, lambda: fail.called)

    consume_for_a_while()
    gc.collect()
    fail = Failing()
    channel.basic_consume(policed, policy.wrap(fail, queue=policed))
    pump(channel, lambda: fail.called)


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("left", [6, 4, 2, 1])
def test_closing_while_a_policy_is_being_declared(
    amqp_url: str, queue: str, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    """What the broker still answers finds a channel that is closing, and that is nobody's fault."""
    client = PikaAsyncio(amqp_url)
    client.open()
    client.consume(queue, waybill.Policy().wrap(print))
    (declaration,) = topology._declarations.of(client._connection).values()
    while len(declaration._steps) > left:
        client._loop.run_until_complete(asyncio.sleep(0))
    client.close()
    assert [] == [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
