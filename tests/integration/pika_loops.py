"""The event loops under which pika's asynchronous channels run, and a way to play a scenario on each."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.gevent_connection import GeventConnection, _GeventSelectorIOLoop
from pika.adapters.select_connection import IOLoop as SelectLoop
from pika.adapters.tornado_connection import TornadoConnection
from pika.channel import Channel
from pika.connection import Connection
from tornado.ioloop import IOLoop

Done = Callable[[], None]
Scenario = Callable[[Channel, Done], None]


class Loop(NamedTuple):
    """One event loop: how to connect in it, run it, stop it and be done with it."""

    connect: Callable[..., Connection]
    run: Callable[[], object]
    stop: Callable[[], object]
    close: Callable[[], object]


def on_select() -> Loop:
    """Return a loop for SelectConnection."""
    loop = SelectLoop()
    return Loop(partial(pika.SelectConnection, custom_ioloop=loop), loop.start, loop.stop, loop.close)


def on_asyncio() -> Loop:
    """Return a loop for AsyncioConnection."""
    loop = asyncio.new_event_loop()
    return Loop(partial(AsyncioConnection, custom_ioloop=loop), loop.run_forever, loop.stop, loop.close)


def on_tornado() -> Loop:
    """Return a loop for TornadoConnection."""
    loop = IOLoop(make_current=False)
    return Loop(partial(TornadoConnection, custom_ioloop=loop), loop.start, loop.stop, loop.close)


def on_gevent() -> Loop:
    """Return a loop for GeventConnection."""
    loop = _GeventSelectorIOLoop()
    # Closing it would destroy the hub of the thread.
    return Loop(partial(GeventConnection, custom_ioloop=loop), loop.start, loop.stop, lambda: None)


LOOPS = [on_select, on_asyncio, on_tornado, on_gevent]


def play(loop: Loop, url: str, scenario: Scenario, *, aborted: bool = False) -> None:
    """Run *scenario* on a channel until it says that it is done, or *aborted* by what a callback raises."""
    errors: list[BaseException] = []
    finished: list[bool] = []

    def opened(connection: Connection) -> None:
        connection._adapter_call_later(10, partial(end, connection))
        connection.channel(on_open_callback=lambda channel: begin(channel, connection))

    def begin(channel: Channel, connection: Connection) -> None:
        def done() -> None:
            finished.append(True)
            # Not within a callback of the connection, whose span would end after the test has looked.
            connection._adapter_call_later(0, partial(end, connection))

        scenario(channel, done)

    def end(connection: Connection) -> None:
        if connection.is_open:
            connection.close()

    def failed(_: Connection, error: BaseException) -> None:
        errors.append(error)
        loop.stop()

    try:
        loop.connect(
            pika.URLParameters(url),
            on_open_callback=opened,
            on_open_error_callback=failed,
            on_close_callback=lambda *_: loop.stop(),
        )
        loop.run()
    finally:
        loop.close()
    assert [] == errors
    assert ([] if aborted else [True]) == finished
