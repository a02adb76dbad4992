"""The clients that every scenario runs on: to add one, write its file and name it here."""

from collections.abc import Callable, Sequence
from typing import Final

import pytest

from conformance.clients.aio_pika_plain import AioPikaPlain
from conformance.clients.aio_pika_robust import AioPikaRobust
from conformance.clients.pika_asyncio import PikaAsyncio
from conformance.clients.pika_blocking import PikaBlocking
from conformance.clients.pika_workers import PikaWorkers
from conformance.protocol import Client, Features

_CLIENTS: Final[Sequence[type[Client]]] = (
    PikaBlocking,
    PikaWorkers,
    PikaAsyncio,
    AioPikaPlain,
    AioPikaRobust,
)

ALL: Final[dict[str, Callable[[str], Client]]] = {each.name: each for each in _CLIENTS}
"""How to connect each of them, by name."""


WITH_WORKERS: Final = frozenset(each.name for each in _CLIENTS if each.features.workers)
"""Those that differ from others only under a policy."""

WAITING: Final = tuple(each.name for each in _CLIENTS if each.features.waits)
"""Those on which consuming waits for the broker."""


def clients_that(able: Callable[[Features], bool]) -> pytest.MarkDecorator:
    """Run a scenario only on the clients that are *able* to."""
    chosen = [each.name for each in _CLIENTS if able(each.features)]
    return pytest.mark.parametrize("client", chosen, indirect=True)
