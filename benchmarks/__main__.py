"""`python -m benchmarks`: measure, then print the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

from .cases import measure
from .peers import Peer
from .report import table

PACKAGES = (
    *("olposthog", "mitol-django-olposthog", "Django", "djangorestframework", "posthog"),
    *("launchdarkly-server-sdk", "growthbook"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="of each timing (25)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args()
    if options.rounds < 2:  # noqa: PLR2004  # an error needs two
        parser.error("--rounds must be at least 2")

    missing = [peer.value for peer in Peer if not peer.is_installed]
    if missing:
        parser.error(f"{' and '.join(missing)} must be installed. make bench does it.")

    start = time.monotonic()
    rows = list(measure(options.rounds))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    versions = {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    print(table(rows))
    print()
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    seconds = time.monotonic() - start
    print(f"{options.rounds} rounds in {seconds:.0f} s, load of the machine {load:.1f}")
    if options.json:
        document = {
            "versions": versions,
            "rounds": options.rounds,
            "rows": [row.to_json() for row in rows],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
