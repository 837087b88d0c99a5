"""The example project, run as a person would run it: by commands, in processes of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "example_project"
MANAGE = str(PROJECT / "manage.py")
PATIENCE = 30.0  # seconds that a test waits for what should come within one or two


@dataclass(frozen=True)
class Shop:
    """The example with databases of its own and an environment of its own."""

    folder: Path
    also: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def prepared(cls, folder: Path, **also: str) -> Shop:
        """A shop that is ready to open."""
        shop = cls(folder, also)
        shop.flags.write_bytes((PROJECT / "flags.json").read_bytes())
        demo = shop.manage("demo")
        assert demo.returncode == 0, demo.stderr
        return shop

    @property
    def flags(self) -> Path:
        """The definitions that it reads: a copy."""
        return self.folder / "flags.json"

    @property
    def environment(self) -> dict[str, str]:
        """What its processes see: nothing of the settings of whoever runs the tests."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("POSTHOG_", "SHOP_", "DJANGO_")) and name != "ENVIRONMENT"
        }
        return kept | {
            "POSTHOG_FLAG_DEFINITIONS_FILE": str(self.flags),
            "POSTHOG_LOCAL_CACHE_SECONDS": "0.1",
            "SHOP_DEBUG_TOOLBAR": "off",  # it is in the way of whoever clicks
            "SHOP_VAR_DIR": str(self.folder / "var"),
            **self.also,
        }

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, MANAGE, *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @contextmanager
    def open(self) -> Iterator[str]:
        """Serve it; yields its address."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [sys.executable, MANAGE, "runserver", "--noreload"]
        log = self.folder / "server.log"
        with (
            log.open("w") as output,
            subprocess.Popen(
                [*command, f"127.0.0.1:{port}"],
                env=self.environment,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                eventually(lambda: process.poll() is not None or listens(port))
                assert process.poll() is None, log.read_text()
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


def listens(port: int) -> bool:
    """Return whether a process listens on the port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def eventually(fact: Callable[[], object]) -> None:
    """Return once a fact about another process holds; fail when it never does."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not fact():
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.1)
