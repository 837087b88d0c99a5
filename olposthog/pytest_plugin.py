"""pytest: in tests nothing leaves the process, and each test says what flags are.

The fixture `flags` and the marker `flags` take what `olposthog.testing.override_flags` takes.
`-p no:olposthog` switches all of it off.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ._core import overrides

if TYPE_CHECKING:
    from .testing import Flags

_isolation = pytest.StashKey[overrides.Override]()


def pytest_configure(config: pytest.Config) -> None:
    """Let nothing leave the process, from before the first test is imported."""
    config.addinivalue_line(
        "markers",
        "flags(flags=None, *, payloads=None, for_id=None, strict=None, ask_posthog=None): "
        "what PostHog's flags are in this test; see olposthog.testing.override_flags.",
    )
    config.stash[_isolation] = overrides.Override()
    overrides.put_on(config.stash[_isolation])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the process as it was."""
    isolation = config.stash.get(_isolation, None)
    if isolation is not None:  # else another plugin failed before this one began
        overrides.take_off(isolation)


@pytest.fixture(autouse=True)
def _flags_of_markers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the markers `flags` of a test hold, the closest one over the others."""
    with ExitStack() as stack:
        for marker in _markers(request.node):
            from .testing import override_flags

            stack.enter_context(override_flags(*marker.args, **marker.kwargs))
        yield


def _markers(item: pytest.Item) -> Iterator[pytest.Mark]:
    """Yield the markers of a test, those last that hold over the others."""
    for node in item.listchain():
        own = [mark for mark in node.own_markers if mark.name == "flags"]
        of_parameters = getattr(getattr(node, "callspec", None), "marks", ())
        if node is item:  # of stacked decorators, the inner one holds
            yield from reversed([mark for mark in own if mark not in of_parameters])
            yield from (mark for mark in own if mark in of_parameters)
        else:  # those of base classes are in front
            yield from own


@pytest.fixture
def flags(_flags_of_markers: None) -> Iterator[Flags]:
    """Say what flags are until the test ends: `flags({"new-nav": True, "checkout": "test"})`."""
    from .testing import Flags

    with ExitStack() as stack:
        yield Flags(stack)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Fail a test whose code read a flag that it should not, and swallowed the error."""
    try:
        yield
    finally:
        keys = overrides.take_unexpected()
    if keys:  # else the test has failed by itself, or there is nothing to say
        raise overrides.UnexpectedFlag.swallowed(keys)
