"""Tasks that nobody waits for."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_kept: set[asyncio.Task[Any]] = set()  # Any: whatever they return


def kept(work: Coroutine[object, object, T]) -> asyncio.Task[T]:
    """Return a task for *work* that goes on if nobody waits for it: the loop keeps its tasks only weakly."""
    task = asyncio.create_task(work)
    _kept.add(task)
    task.add_done_callback(_kept.discard)
    return task
