"""A RabbitMQ for demo, tests and benchmarks: the one you name, or a private one for the time being.

In a program: ``with broker() as rabbit: connect(rabbit.url)``. Around a program:
``python -m otel_waybill.testing.broker -- CMD ARGS`` runs CMD with ``AMQP_URL`` set.

Nothing here speaks more AMQP than a greeting, so that it needs the standard library only.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from otel_waybill.errors import BrokerUnavailable
from otel_waybill.testing.broker import address, installation, node

__all__ = ["Broker", "broker"]


@dataclass(frozen=True, slots=True)
class Broker:
    """A RabbitMQ that accepts connections.

    Attributes:
        url: where to connect, with its password, as in ``amqp://guest:guest@127.0.0.1:5672/``.
        origin: one line for people: which broker this is, and what stays behind on it. No password.
        ours: whether it was started for this run and vanishes with it.
    """

    url: str
    origin: str
    ours: bool


@contextmanager
def broker(environ: Mapping[str, str] = os.environ, *, install: bool = True) -> Iterator[Broker]:
    """Lend a RabbitMQ for the length of the block, and say on stderr which one was taken.

    The first of these that there is:

    1. the broker that ``AMQP_URL`` names;
    2. the RabbitMQ installed here, as a private node: free ports on the loopback interface, its data in
       a temporary folder, next to whatever else runs. It is gone after the block, and also when
       this process dies inside it, even by ``SIGKILL``;
    3. for root on Debian and Ubuntu: the distribution's package, installed now and its system-wide service
       not started, then as 2.

    Args:
        environ: the environment; read are ``AMQP_URL`` and ``PATH``.
        install: whether 3 is allowed.

    Raises:
        BrokerUnavailable: there is none of them; it names what was tried and the commands that help.
    """
    if url := environ.get("AMQP_URL"):
        yield _announced(_named(url, environ))
        return
    path = environ.get("PATH", os.defpath)
    rabbit = _installed(path, may_install=install)
    with _stage(f"starting a private RabbitMQ {rabbit.version}", "ready"):
        try:
            running = node.start(rabbit, path)
        except node.StartFailed as error:
            tried = f"RabbitMQ {rabbit.version} in {rabbit.home} did not start: {error}"
            raise BrokerUnavailable((tried,), installation.remedies(path)) from error
    with running:
        origin = f"a private RabbitMQ {rabbit.version} on port {running.port}, removed at the end"
        yield _announced(Broker(running.url, origin, ours=True))


def _named(url: str, environ: Mapping[str, str]) -> Broker:
    shown = address.masked(url)
    try:
        address.wait_until_served(url)
    except (OSError, ValueError) as error:
        remedies = ("unset AMQP_URL", *installation.remedies(environ.get("PATH", os.defpath)))
        raise BrokerUnavailable((f"AMQP_URL={shown}: {error}",), remedies) from error
    origin = (
        f"the one at AMQP_URL, {shown}; not ours, so the durable exchanges and queues named waybill.* "
        "stay on it, as do uniquely named queues of tests that did not get to delete theirs"
    )
    return Broker(url, origin, ours=False)


def _installed(path: str, *, may_install: bool) -> installation.Installation:
    tried = ["AMQP_URL is not set"]
    try:
        return installation.find(path)
    except LookupError as error:
        tried.append(str(error))
    if may_install and installation.can_install(path):
        try:
            with _stage("installing rabbitmq-server from the distribution, service not started", "done"):
                installation.install(path)
            return installation.find(path)
        except (LookupError, OSError) as error:
            tried.append(f"apt-get install: {error}")
    raise BrokerUnavailable(tuple(tried), installation.remedies(path))


@contextmanager
def _stage(doing: str, done: str) -> Iterator[None]:
    _say(f"broker: {doing} ... ")
    began = time.monotonic()
    try:
        yield
    except BaseException:
        _say("failed\n")
        raise
    _say(f"{done} in {time.monotonic() - began:.1f} s\n")


def _announced(taken: Broker) -> Broker:
    _say(f"broker: using {taken.origin}\n")
    return taken


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()  # half a line is meant to be seen as well
