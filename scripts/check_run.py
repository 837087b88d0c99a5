"""Start the example as the README says, and use it; then once more, on what is there."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 300.0


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for time_of in ("first", "second"):
        print(f"make run, for the {time_of} time", flush=True)
        use(port)
    print("  the shop, its flags and its live page answer, each time", flush=True)


def use(port: int) -> None:
    environment = {**os.environ, "PORT": str(port)}
    running = subprocess.Popen(["make", "run"], cwd=ROOT, env=environment, start_new_session=True)  # noqa: S607  # make is in PATH
    try:
        for page in ("api/features/", "", "live/"):
            expect_answer(running, f"http://127.0.0.1:{port}/{page}")
    finally:
        os.killpg(running.pid, signal.SIGINT)
        running.wait(30)


def expect_answer(running: subprocess.Popen[bytes], url: str) -> None:
    last = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while (refusal := why_not(url)) is not None:
        if running.poll() is not None or time.monotonic() > last:
            sys.exit(f"not so: {url} answers ({refusal})")
        pause.wait(0.2)


def why_not(url: str) -> OSError | None:
    """Return why there is no answer with a status of 200, or None."""
    try:
        urllib.request.urlopen(url, timeout=10).close()  # noqa: S310  # our own
    except OSError as error:
        return error
    return None


if __name__ == "__main__":
    main()
