"""Handlers of pika in threads of their own, on a real broker."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar

import pytest
from opentelemetry import trace
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.exceptions import ChannelWrongStateError, UnroutableError
from pika.spec import Basic

import otel_waybill as waybill
from conformance.telemetry import parent
from integration.pika_loops import LOOPS, Done, Loop, play
from integration.pika_recording import (
    Recorded,
    identity,
    opened,
    parked,
    send_bare,
)
from otel_waybill.clients.pika.workers import WorkerChannel, workers
from otel_waybill.resilience.guarded import Guarded

PATIENCE = 10.0
"""Seconds after which something that should happen has not."""

user: ContextVar[str] = ContextVar("user", default="nobody")


def pump(channel: BlockingChannel, condition: Callable[[], object]) -> None:
    """Let the connection of *channel* work until *condition* holds."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        channel.connection.process_data_events(0.01)


def wrapped(handle: Callable[..., object], queue: str, **settings: object) -> Guarded:
    """Return *handle* under a policy with two workers."""
    return waybill.Policy(**{"workers": 2, **settings}).wrap(handle, queue=queue)  # type: ignore[arg-type]  # see Policy


def ours() -> list[str]:
    """Return the names of our threads that are alive."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("waybill-"))


def test_handlers_run_side_by_side_in_so_many_threads(channel: BlockingChannel, policed: str) -> None:
    """Two at once, no more, in threads with a name; none of them stays when the channel is closed."""
    send_bare(channel, policed, 3)
    pair, running, counts, names = threading.Barrier(2), [], [], []

    def handle(*_: object) -> None:
        running.append(1)
        pair.wait(PATIENCE)  # nobody comes alone
        counts.append(len(running))
        names.append(threading.current_thread().name)
        pair.wait(PATIENCE)
        running.pop()

    channel.basic_consume(policed, wrapped(handle, policed))
    pump(channel, lambda: len(counts) == 4 and not running)

    assert [2, 2, 2, 2] == counts
    assert {f"waybill-{policed}_0", f"waybill-{policed}_1"} == set(names)
    channel.close()
    assert [] == ours()


def test_the_prefetch_keeps_the_workers_busy() -> None:
    """Twice as many deliveries as there are workers, and never less than without them."""
    prefetches = [waybill.Policy(workers=workers).terms.spec.prefetch_count for workers in (0, 4, 50)]

    assert [20, 20, 100] == prefetches
    with pytest.raises(waybill.InvalidPolicy, match="workers >= 0"):
        waybill.Policy(workers=-1)


def test_the_trace_and_the_context_go_along(
    recorded: Recorded, channel: BlockingChannel, policed: str
) -> None:
    """A handler has the context of its message, and what it leaves in it is not there for the next one."""
    send_bare(channel, policed)
    seen: list[tuple[str, int]] = []

    def handle(on: Channel, method: Basic.Deliver, *_: object) -> None:
        seen.append((user.get(), trace.get_current_span().get_span_context().span_id))
        user.set("alice")
        on.basic_publish("", "nowhere", b"")
        on.basic_ack(method.delivery_tag)

    token = user.set("program")
    channel.basic_consume(policed, wrapped(handle, policed, workers=1))
    pump(channel, lambda: len(recorded.of("process")) == 2)
    user.reset(token)

    processes = {identity(span) for span in recorded.of("process")}
    assert ["program", "program"] == [name for name, _ in seen]
    assert processes == {span for _, span in seen}
    assert processes == {parent(span) for span in recorded.of("publish")}
    assert processes == {parent(span) for span in recorded.of("ack")}


def test_a_worker_hears_what_became_of_its_publish(channel: BlockingChannel, policed: str) -> None:
    """In confirm mode it waits for the confirm, and pika's own exception is raised where it published."""
    told: list[BaseException] = []

    def handle(on: Channel, *_: object) -> None:
        try:
            on.basic_publish("", f"{policed}.missing", b"", mandatory=True)
        except UnroutableError as error:
            told.append(error)

    channel.confirm_delivery()
    channel.basic_consume(policed, wrapped(handle, policed))
    pump(channel, lambda: told)

    assert 1 == len(told)


def test_a_worker_does_not_wait_for_ever(channel: BlockingChannel, policed: str, amqp_url: str) -> None:
    """While the connection's thread is elsewhere nothing can be published; what gave up is not sent later."""
    asking, told = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def handle(on: WorkerChannel, *_: object) -> None:
        asking.set()
        try:
            on.basic_publish("", f"{policed}.parked", b"late")
        except waybill.ThreadBusy as error:
            errors.append(error)
            told.set()

    channel.basic_consume(policed, wrapped(handle, policed, confirm_timeout=0.05))
    pump(channel, asking.is_set)
    assert told.wait(PATIENCE)
    pump(channel, lambda: not workers(channel, policed, 2)._running)
    channel.close()

    assert "within 0.05 s" in str(errors[0])
    assert 0 == parked(amqp_url, policed)


def test_the_channel_of_a_worker_works_in_the_connections_thread(
    channel: BlockingChannel, policed: str, amqp_url: str
) -> None:
    """A program that hands it over to a callback of the connection does not wait for itself there."""
    settled: list[bool] = []

    def handle(on: WorkerChannel, method: Basic.Deliver, *_: object) -> None:
        def later() -> None:
            on.basic_publish("", f"{policed}.parked", b"")
            on.basic_ack(method.delivery_tag)
            settled.append(True)

        channel.connection.add_callback_threadsafe(later)

    channel.basic_consume(policed, wrapped(handle, policed, settle="handler", confirm_timeout=3600))
    pump(channel, lambda: settled)
    channel.close()
    pump(channel, lambda: parked(amqp_url, policed))

    assert 1 == parked(amqp_url, policed)


def test_the_rest_of_the_channel_is_out_of_reach(channel: BlockingChannel, policed: str) -> None:
    """A clear error says what is for which thread; looking at the channel's state harms nobody."""
    told: list[object] = []

    def handle(on: Channel, *_: object) -> None:
        with pytest.raises(waybill.WrongThread, match=r"queue_declare.*add_callback_threadsafe"):
            on.queue_declare("other")
        told.append((hasattr(on, "connection"), on.is_open, on.is_closed, on.channel_number))

    channel.basic_consume(policed, wrapped(handle, policed))
    pump(channel, lambda: told)

    assert [(False, True, False, channel.channel_number)] == told


@pytest.mark.parametrize("what", ["channel", "connection"])
@pytest.mark.parametrize("instrumented", [True, False], ids=["instrumented", "bare"])
def test_what_a_handler_does_on_a_channel_that_is_gone_is_nothing(
    request: pytest.FixtureRequest, amqp_url: str, policed: str, what: str, *, instrumented: bool
) -> None:
    """Its message comes again elsewhere; its ack and its result say nothing, and its thread ends."""
    if instrumented:
        request.getfixturevalue("recorded")
    started, gone, ended = threading.Event(), threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def handle(on: Channel, method: Basic.Deliver, *_: object) -> None:
        started.set()
        gone.wait(PATIENCE)
        on.basic_ack(method.delivery_tag)
        try:
            on.basic_publish("", policed, b"")
        except Exception as error:  # noqa: BLE001 - pika's, whichever it is
            errors.append(error)
        ended.set()

    with opened(amqp_url) as channel, opened(amqp_url) as other:
        channel.basic_consume(policed, wrapped(handle, policed))
        pump(channel, started.is_set)
        (channel if what == "channel" else channel.connection).close()
        gone.set()
        if what == "channel":
            pump(channel.connection.channel(), ended.is_set)
        assert ended.wait(PATIENCE)
        method, _, _ = other.basic_get(policed, auto_ack=True)

    assert method is not None
    assert method.redelivered
    assert {"ChannelWrongStateError", "ConnectionWrongStateError"} >= {
        type(error).__name__ for error in errors
    }
    assert 1 == len(errors)
    assert_no_threads()


def assert_no_threads() -> None:
    """Wait for threads that are about to end."""
    limit = time.monotonic() + PATIENCE
    while ours():
        assert time.monotonic() < limit, f"still there: {ours()}"
        time.sleep(0.001)


def test_a_publish_that_waits_hears_of_the_end_of_its_channel(channel: BlockingChannel, policed: str) -> None:
    """It does not sit out its time when nobody will answer."""
    errors: list[BaseException] = []

    def handle(on: WorkerChannel, *_: object) -> None:
        try:
            on.basic_publish("", policed, b"")
        except ChannelWrongStateError as error:
            errors.append(error)

    channel.basic_consume(policed, wrapped(handle, policed, confirm_timeout=60))
    limit = time.monotonic() + PATIENCE
    while not workers(channel, policed, 2)._handed:
        assert time.monotonic() < limit, "it did not happen in time"
        channel.connection._flush_output()
        channel.connection._dispatch_channel_events()
    channel.close()
    assert_no_threads()

    assert 1 == len(errors)


def test_a_message_behind_busy_workers_is_not_run_after_its_deadline(
    channel: BlockingChannel, policed: str, amqp_url: str
) -> None:
    """Whether there is still time is asked when a thread is free, not before."""
    first, done = threading.Event(), threading.Event()
    bodies: list[bytes] = []

    def handle(_: object, __: object, ___: object, body: bytes) -> None:
        bodies.append(body)
        first.set()
        done.wait(PATIENCE)

    channel.basic_consume(policed, wrapped(handle, policed, workers=1, skew_tolerance=0))
    pump(channel, first.is_set)
    due = str(round((time.time() + 0.2) * 1000))
    send_bare(channel, policed, headers={"waybill-deadline": due})
    limit = time.monotonic() + 0.3
    pump(channel, lambda: time.monotonic() > limit)
    done.set()
    pump(channel, lambda: parked(amqp_url, policed))

    assert [b"0"] == bodies


def test_an_interruption_in_a_thread_is_one_of_the_program(channel: BlockingChannel, policed: str) -> None:
    """`sys.exit` in a handler gives its message back and leaves the consuming loop, as it does inline."""
    calls: list[int] = []

    def handle(*_: object) -> None:
        calls.append(waybill.current().attempt)
        if len(calls) == 1:
            raise SystemExit(3)

    channel.basic_consume(policed, wrapped(handle, policed))
    with pytest.raises(SystemExit):
        pump(channel, lambda: False)
    pump(channel, lambda: len(calls) == 2)

    assert [1, 1] == calls


@pytest.mark.parametrize("loop", LOOPS)
def test_workers_under_every_loop(amqp_url: str, policed: str, loop: Callable[[], Loop]) -> None:
    """Asynchronous adapters have a thread of their own as well, and keep pumping it."""
    names: list[str] = []
    retry = waybill.Retry(attempts=2, backoff=waybill.Backoff(first=0.2, ceiling=0.2, jitter="none"))

    def scenario(channel: Channel, done: Done) -> None:
        def look() -> None:
            channel.connection._adapter_call_later(0.1, done if len(names) == 2 else look)

        def handle(on: WorkerChannel, *_: object) -> None:
            names.append(threading.current_thread().name)
            on.basic_publish("", "nowhere", b"")
            raise LookupError

        channel.basic_consume(policed, wrapped(handle, policed, retry=retry))
        look()

    play(loop(), amqp_url, scenario)

    assert {f"waybill-{policed}_0"} >= {name.replace("_1", "_0") for name in names}
    assert 1 == parked(amqp_url, policed)
    assert [] == ours()


_PROGRAM = """
import sys, threading, pika
import otel_waybill as waybill

def handle(channel, method, properties, body):
    print("handled", flush=True)

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
policy = waybill.Policy(workers=2)
channel.basic_consume(sys.argv[2], policy.wrap(handle, queue=sys.argv[2]))
while not any(thread.name.startswith("waybill") for thread in threading.enumerate()):
    connection.process_data_events(0.01)
"""


def test_a_program_that_just_ends_does_end(amqp_url: str, policed: str) -> None:
    """Without closing anything: idle threads do not keep the interpreter, and nothing is printed."""
    script = [sys.executable, "-c", _PROGRAM, amqp_url, policed]
    run = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - ours

    assert (0, "handled\n", "") == (run.returncode, run.stdout, run.stderr)


_ENDING = """
import sys, threading, pika
import otel_waybill as waybill

handled = []
waybill.instrument()

def consume():
    connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
    channel = connection.channel()
    policy = waybill.Policy(workers=1)
    channel.basic_consume(sys.argv[2], policy.wrap(lambda *_: handled.append(1)))
    # Nothing is handled before that, from when on executors take nothing any more.
    threading.main_thread().join()
    while not handled:
        connection.process_data_events(0.01)
    connection.close()
    print("handled", flush=True)

threading.Thread(target=consume).start()
"""


def test_a_program_whose_main_thread_has_ended_goes_on(amqp_url: str, policed: str) -> None:
    """Python waits for the thread of the connection, which goes on to hand deliveries to others."""
    script = [sys.executable, "-c", _ENDING, amqp_url, policed]
    run = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - ours

    assert (0, "handled\n", "") == (run.returncode, run.stdout, run.stderr)
