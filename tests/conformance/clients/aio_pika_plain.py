"""aio-pika's plain connection."""

import aio_pika
from aio_pika.abc import AbstractConnection

from conformance.clients.aio_pika_base import AioPika


class AioPikaPlain(AioPika):
    """`aio_pika.connect`."""

    name = "aio-pika-plain"

    async def _connect(self, url: str) -> AbstractConnection:
        return await aio_pika.connect(url)
