"""Runs Django and Vite side by side, until one of them ends or a Ctrl-C ends both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FRONTEND = ROOT / "example_project/frontend"
PORT = os.environ.setdefault("PORT", "8000")
VITE_PORT = os.environ.setdefault("VITE_PORT", "5173")
COMMANDS = {
    ROOT: [sys.executable, "example_project/manage.py", "runserver", f"127.0.0.1:{PORT}"],
    FRONTEND: ["npm", "run", "--silent", "dev"],
}


def main() -> int:
    """Start both, each in a group of its own: their own children have to end with them."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SHOP_FRONTEND_DEV": "on"}
    print(f"\n  The shop, with its frontend from source: http://127.0.0.1:{VITE_PORT}/live/\n")
    processes = [
        subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)
        for folder, command in COMMANDS.items()
    ]
    for process in processes:
        threading.Thread(target=_tell_of_its_end, args=(process, ended), daemon=True).start()
    ended.wait()
    failed = any(process.poll() for process in processes)  # one ended by itself, and not well
    for process in processes:
        _end(process)
    return int(failed)


def _tell_of_its_end(process: subprocess.Popen[bytes], ended: threading.Event) -> None:
    process.wait()
    ended.set()


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
