"""pika's BlockingConnection, with every handler under a policy in a thread of its own."""

from dataclasses import replace
from typing import ClassVar

from conformance.clients.pika_blocking import PikaBlocking


class PikaWorkers(PikaBlocking):
    """One BlockingConnection, for policies with workers."""

    name: ClassVar = "pika-workers"
    features: ClassVar = replace(PikaBlocking.features, workers=2)
