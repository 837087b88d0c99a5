"""Flags in tests: what each test says they are, and nothing of PostHog.

    with override_flags({"new-nav": True, "checkout": "test"}):
        ...

While an override holds, nothing leaves the process: flags that it does not mention answer from
`settings.FEATURES`, or from POSTHOG_FLAG_DEFINITIONS_FILE where that is set. Under pytest this is
so from the start (`olposthog.pytest_plugin`), under Django's test runner with
`TEST_RUNNER = "olposthog.testing.FlagsTestRunner"`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from types import TracebackType
from typing import Any, TypeVar, cast
from unittest import TestCase

from django.test.runner import DiscoverRunner, ParallelTestSuite

from olposthog._core import overrides
from olposthog._core.overrides import Override, UnexpectedFlag
from olposthog._evaluation.decision import JSON
from olposthog.identity import UniqueId, cut_distinct_id, distinct_id_of

from ._decorators import decorate_function, decorate_test_case, decorate_tests

__all__ = ["Flags", "FlagsTestRunner", "UnexpectedFlag", "override_flags"]

T = TypeVar("T", bound="Callable[..., Any] | type")


class override_flags:  # noqa: N801  # it is used as a function is, like Django's override_settings
    """Says what flags are, for everything in the process: a context manager, and a decorator.

    It holds for Python code, templates, guards, the REST API and OFREP alike, in every thread, so
    also for a live server's; which flags browsers may see is still up to POSTHOG_API_FLAGS. Blocks
    can be nested, and overlap in async code: the one entered last holds, and each that ends takes
    along what it said, and nothing else.

    As a decorator it takes functions and methods, coroutines and generators included, subclasses of
    `unittest.TestCase`, for which it holds from before their `setUpClass` on, and other classes,
    whose methods with names in `test…` it decorates.

    `flags` maps flag keys to True, False or the name of a variant, and `payloads` some of them to
    the payload that they have while they are on. `for_id` narrows this to one person: text, an int
    or a UUID, as for `is_enabled`.

    With `strict=True` there are no flags but those mentioned: reading another one raises
    `UnexpectedFlag`, an AssertionError that names it, then and there, and again at the end of the
    block if the tested code swallowed it. With `ask_posthog=True` the rest is up to PostHog, as the
    settings say. None, the default of both, means: as around it, and at first no.

    Raises TypeError or ValueError, naming the flag, for what cannot be one.
    """

    def __init__(
        self,
        flags: Mapping[str, bool | str] | None = None,
        *,
        payloads: Mapping[str, JSON] | None = None,
        for_id: UniqueId = None,
        strict: bool | None = None,
        ask_posthog: bool | None = None,
    ) -> None:
        for name, value in (("strict", strict), ("ask_posthog", ask_posthog)):
            if not isinstance(value, bool | None):
                raise TypeError(f"{name} must be True, False or None, not {value!r}.")
        if for_id == "":
            raise ValueError("for_id is empty; leave it out to override the flags of everyone.")
        self._flags = _judged(flags or {})
        self._payloads = _belonging(payloads or {}, self._flags)
        self._for_id = None if for_id is None else cut_distinct_id(distinct_id_of(for_id, "for_id"))
        self._strict = strict
        self._ask_posthog = ask_posthog
        self._entered: list[Override] = []

    def __enter__(self) -> None:
        override = Override(
            self._flags, self._payloads, self._for_id, self._strict, self._ask_posthog
        )
        self._entered.append(override)
        overrides.put_on(override)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        override = self._entered.pop()
        overrides.take_off(override)
        if override.unexpected and error is None:
            raise UnexpectedFlag.swallowed(override.unexpected)

    def __call__(self, decorated: T) -> T:
        """Return the function or class with the flags holding for it."""
        if isinstance(decorated, type):
            if issubclass(decorated, TestCase):
                decorate_test_case(decorated, self.anew, _minding)
            else:
                decorate_tests(decorated, self.anew)
            return cast("T", decorated)
        if type(decorated).__name__ == "FixtureFunctionDefinition":
            raise TypeError("override_flags() goes below @pytest.fixture, not above it.")
        if not callable(decorated):
            raise TypeError(f"override_flags() decorates functions and classes, not {decorated!r}.")
        return cast("T", decorate_function(decorated, self.anew))

    def anew(self) -> override_flags:
        """Return one that says the same, for a block of its own."""
        again = copy(self)
        again._entered = []  # noqa: SLF001  # its own class's
        return again


@contextmanager
def _minding() -> Iterator[None]:
    """Have a test fail by itself where its code read what is not mentioned, and went on."""
    try:
        yield
    finally:
        keys = overrides.take_unexpected()
    if keys:
        raise UnexpectedFlag.swallowed(keys)


def _judged(flags: Mapping[str, bool | str]) -> dict[str, bool | str]:
    if not isinstance(flags, Mapping):
        raise TypeError(f'flags must be a dict such as {{"new-nav": True}}, not {flags!r}.')
    for key, value in flags.items():
        if not isinstance(key, str):
            raise TypeError(f"The key of a flag must be a str, not {key!r}.")
        if not key:
            raise ValueError("The key of a flag is empty text.")
        if not isinstance(value, bool | str):
            raise TypeError(
                f"The flag {key!r} must be True, False or the name of a variant, not {value!r}."
            )
        if value == "":
            raise ValueError(f"The flag {key!r} is empty text: no variant has that name.")
    return dict(flags)


def _belonging(payloads: Mapping[str, JSON], flags: Mapping[str, bool | str]) -> dict[str, JSON]:
    if not isinstance(payloads, Mapping):
        raise TypeError(f'payloads must be a dict such as {{"new-nav": {{}}}}, not {payloads!r}.')
    for key, payload in payloads.items():
        if key not in flags:
            raise ValueError(f"There is a payload for {key!r}: say in flags what that flag is.")
        try:
            json.dumps(payload, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise type(error)(f"The payload for {key!r} must be JSON: {error}") from error
    return deepcopy(dict(payloads))


class Flags:
    """What the fixture `flags` is: called like `override_flags`, it holds until the test ends."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(
        self,
        flags: Mapping[str, bool | str] | None = None,
        *,
        payloads: Mapping[str, JSON] | None = None,
        for_id: UniqueId = None,
        strict: bool | None = None,
        ask_posthog: bool | None = None,
    ) -> None:
        """Say what flags are from now on, over what was said before."""
        self._stack.enter_context(
            override_flags(
                flags, payloads=payloads, for_id=for_id, strict=strict, ask_posthog=ask_posthog
            )
        )


def _isolate() -> None:
    overrides.put_on(Override())


class _Suite(ParallelTestSuite):
    """Tests in parallel processes, which know nothing of this one where they are not forked."""

    process_setup = _isolate


class FlagsTestRunner(DiscoverRunner):
    """Django's test runner, with nothing leaving the process but where a test asks for PostHog."""

    parallel_test_suite = _Suite

    def setup_test_environment(self, **kwargs: Any) -> None:
        """Set up what Django sets up, and let nothing out."""
        super().setup_test_environment(**kwargs)
        self._isolation = override_flags()
        self._isolation.__enter__()

    def teardown_test_environment(self, **kwargs: Any) -> None:
        """Take both back."""
        self._isolation.__exit__(None, None, None)
        super().teardown_test_environment(**kwargs)
