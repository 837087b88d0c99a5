"""pytest: in tests nothing leaves the process, and each test says what flags are.

The fixture `flags` and the marker `flags` take what `olposthog.testing.override_flags` takes.
`-p no:olposthog` switches all of it off.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from . import overrides

if TYPE_CHECKING:
    from .testing import Flags

_isolation = pytest.StashKey[overrides.Override]()


def pytest_configure(config: pytest.Config) -> None:
    """Let nothing leave the process, from before the first test is imported."""
    config.addinivalue_line(
        "markers",
        "flags(flags, *, payloads=None, for_id=None, strict=None, ask_posthog=None): "
        "what PostHog's flags are in this test; see olposthog.testing.override_flags.",
    )
    config.stash[_isolation] = overrides.Override()
    overrides.put_on(config.stash[_isolation])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the process as it was."""
    overrides.take_off(config.stash[_isolation])


@pytest.fixture(autouse=True)
def _flags_of_markers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the markers `flags` of a test hold, the closest one over the others."""
    markers = list(request.node.iter_markers("flags"))
    with ExitStack() as stack:
        for marker in reversed(markers):
            from .testing import override_flags

            stack.enter_context(override_flags(*marker.args, **marker.kwargs))
        yield


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
    if keys:
        raise overrides.UnexpectedFlag.swallowed(keys)
