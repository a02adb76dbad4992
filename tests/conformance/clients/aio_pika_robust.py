"""aio-pika's robust connection."""

from dataclasses import replace

import aio_pika
from aio_pika.abc import AbstractConnection

from conformance.clients.aio_pika_base import AioPika


class AioPikaRobust(AioPika):
    """`aio_pika.connect_robust`."""

    name = "aio-pika-robust"
    features = replace(AioPika.features, reconnects=True)

    async def _connect(self, url: str) -> AbstractConnection:
        return await aio_pika.connect_robust(url, reconnect_interval=0.1)
