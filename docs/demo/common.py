"""What the four services share: where the broker is, what the queues are called, and a journal.

The journal is for the demo's own bookkeeping: it says what a service really did, whatever the traces say.
"""

import json
import os
import time
from pathlib import Path

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
RUN = os.environ.get("DEMO_RUN", "run")
JOURNAL = Path(os.environ.get("DEMO_JOURNAL", "journal"))


def queue(name: str) -> str:
    """Return the name of a queue of this run; runs that share a broker do not see each other."""
    return f"demo.{name}.{RUN}"


def note(service: str, fact: str, **details: object) -> None:
    """Append one line to the journal of *service*: it has happened, and is not taken back."""
    line = json.dumps({"at": time.time(), "fact": fact, **details}) + "\n"
    with (JOURNAL / f"{service}.jsonl").open("a", encoding="utf-8") as journal:
        journal.write(line)
