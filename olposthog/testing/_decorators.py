"""Whatever can be a test, run within a context manager: all kinds of functions, classes of tests.

A block is what makes a new context manager, so that calls which overlap have one each.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import AbstractContextManager, ExitStack, aclosing, contextmanager
from typing import Any, TypeAlias, cast
from unittest import TestCase

Block: TypeAlias = Callable[[], AbstractContextManager[None]]


def decorate_function(function: Callable[..., Any], *blocks: Block) -> Callable[..., Any]:
    """Return the function that runs within the blocks, the last of them innermost."""
    wrap = _plain
    if inspect.iscoroutinefunction(function):
        wrap = _coroutine
    elif inspect.isgeneratorfunction(function):
        wrap = _generator
    elif inspect.isasyncgenfunction(function):
        wrap = _async_generator
    return functools.wraps(function)(wrap(function, blocks))


@contextmanager
def _within(blocks: Iterable[Block]) -> Iterator[None]:
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(block())
        yield


def _plain(function: Callable[..., Any], blocks: Iterable[Block]) -> Callable[..., Any]:
    async def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with _within(blocks):
            return await coroutine

    def call(*args: Any, **kwargs: Any) -> Any:
        with _within(blocks):
            result = function(*args, **kwargs)
        return finish(result) if inspect.iscoroutine(result) else result

    return call


def _coroutine(function: Callable[..., Any], blocks: Iterable[Block]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        with _within(blocks):
            return await function(*args, **kwargs)

    return call


def _generator(function: Callable[..., Any], blocks: Iterable[Block]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with _within(blocks):
            return (yield from function(*args, **kwargs))

    return call


def _async_generator(function: Callable[..., Any], blocks: Iterable[Block]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with _within(blocks):
            async with aclosing(function(*args, **kwargs)) as steps:
                step = anext(steps)
                while True:
                    try:
                        item = await step
                    except StopAsyncIteration:
                        return
                    try:
                        step = steps.asend((yield item))
                    except Exception as error:  # noqa: BLE001  # it is the function's to handle
                        step = steps.athrow(error)

    return call


def decorate_tests(tests: type, block: Block) -> None:
    """Have the methods of a class whose names begin with `test` run within a block.

    Of two decorators the inner one's block is innermost, of two classes the derived one's. Raises
    TypeError if there are none.
    """
    methods = {
        name: inspect.getattr_static(tests, name) for name in dir(tests) if name.startswith("test")
    }
    found = {name: one for name, one in methods.items() if inspect.isroutine(one)}
    if not found:
        raise TypeError(f"override_flags() decorates tests, and {tests.__name__} has none.")
    for name, method in found.items():
        function = getattr(method, "__func__", method)
        # What holds for the method: of its class's decorators the inner, of classes the derived.
        original, others = getattr(function, _BLOCKS, (function, ()))
        every = (block, *others) if name in vars(tests) else (*others, block)
        wrapper = decorate_function(original, *every)
        setattr(wrapper, _BLOCKS, (original, every))
        if isinstance(method, staticmethod | classmethod):
            wrapper = type(method)(wrapper)
        setattr(tests, name, wrapper)


def decorate_test_case(case: type[TestCase], block: Block, each: Block) -> None:
    """Have a class of tests run within a block, from before `setUpClass` on, and each test in one.

    Of two decorators the inner one's block is innermost, of two classes the derived one's.
    """
    own: list[Block] | None = vars(case).get(_BLOCKS)
    if own is not None:
        own.insert(0, block)
        return
    setattr(case, _BLOCKS, [block])
    set_up_class: classmethod[TestCase, [], None] | None = vars(case).get("setUpClass")

    def enter_first(cls: type[TestCase]) -> None:
        for one in reversed(cls.__mro__):
            for enter in vars(one).get(_BLOCKS, ()):
                cls.enterClassContext(enter())
        _decorate_each(cls, each)
        if set_up_class is None:
            cast("type[TestCase]", super(case, cls)).setUpClass()
        else:
            set_up_class.__func__(cls)

    case.setUpClass = classmethod(enter_first)  # type: ignore[assignment]  # bound on access


def _decorate_each(case: type[TestCase], each: Block) -> None:
    for name in dir(case):
        method = inspect.getattr_static(case, name)
        if name.startswith("test") and inspect.isfunction(method) and not hasattr(method, _EACH):
            wrapper = decorate_function(method, each)
            setattr(wrapper, _EACH, True)
            setattr(case, name, wrapper)


_BLOCKS = "_olposthog_blocks"
_EACH = "_olposthog_each"
