"""The frontend's own unit tests, which need no browser."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.browser.conftest import node


def test_unit_tests_of_the_frontend_pass(frontend: Path):
    """Vitest passes: store, hooks on a server renderer, client and bootstrap."""
    vitest = subprocess.run(
        [node(), "node_modules/vitest/vitest.mjs", "run"],
        cwd=frontend,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert vitest.returncode == 0, vitest.stdout + vitest.stderr
