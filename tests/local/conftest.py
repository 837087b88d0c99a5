"""What the tests of local evaluation share."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _quiet_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the SDK from logging each definition that it cannot evaluate."""
    monkeypatch.setattr(logging.getLogger("posthog"), "disabled", True)
