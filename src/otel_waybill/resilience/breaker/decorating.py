"""A breaker around each call of a function, of either colour."""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol, TypeVar, cast

from otel_waybill.core.rules import require

F = TypeVar("F", bound=Callable[..., object])


class Block(AbstractContextManager[object], AbstractAsyncContextManager[object], Protocol):
    """What is entered for each call."""


def around(block: Block, function: F) -> F:
    """Return *function* with *block* around each of its calls.

    Raises:
        InvalidPolicy: *function* is a generator, whose body runs when somebody iterates, not when it is
            called.
    """
    lazy = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    require(
        rule="a def or async def function without yield (use `with` inside it)", holds=not lazy, seen=function
    )
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def guarded_async(*args: object, **kwargs: object) -> object:
            async with block:
                return await function(*args, **kwargs)

        return cast("F", guarded_async)

    @functools.wraps(function)
    def guarded(*args: object, **kwargs: object) -> object:
        with block:
            return function(*args, **kwargs)

    return cast("F", guarded)
