"""Clients generated from `openapi.yaml`: each one reads a live answer of every endpoint.

Run by `make generators-check`, which installs the generators first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.urls import include, path

from tests.browser.conftest import node
from tests.posthog_server import PostHogServer, Variant
from tests.site.processes import Server, Site, make_tables, serving

FOLDER = Path(__file__).parent
DOCUMENT = FOLDER.parents[1] / "openapi.yaml"
PYTHON = FOLDER.parents[1] / ".venv-generators/bin/python"
BINARIES = FOLDER / "node_modules/.bin"
KEY = "a/b 50%"

# Imported by the process of the server too.
urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("", include("olposthog_api.ofrep.urls")),
]

GENERATORS = {
    "openapi-typescript": ["openapi-typescript", "{document}", "--output", "{target}/schema.d.ts"],
    "hey-api": ["openapi-ts", "--input", "{document}", "--output", "{target}", "--silent"],
    "orval": [
        "orval", "--input", "{document}", "--output", "{target}/client.ts", "--client", "fetch",
    ],
    "typescript-fetch": [
        "openapi-generator-cli", "generate", "--generator-name", "typescript-fetch",
        "--input-spec", "{document}", "--output", "{target}",
    ],
    "openapi-generator": [
        "openapi-generator-cli", "generate", "--generator-name", "python",
        "--input-spec", "{document}", "--output", "{target}",
        "--additional-properties", "packageName=flags_openapi_generator",
    ],
    "openapi-python-client": [
        "openapi-python-client", "generate", "--path", "{document}", "--meta", "none",
        "--output-path", "{target}/flags_openapi_python_client", "--fail-on-warning",
    ],
}  # fmt: skip
"""The commands by generator."""

READERS = {
    "openapi-typescript": "openapi_fetch.ts",
    "hey-api": "hey_api.ts",
    "orval": "orval.ts",
    "typescript-fetch": "typescript_fetch.ts",
    "openapi-generator": "openapi_generator.py",
    "openapi-python-client": "openapi_python_client.py",
}
"""The programs that read with the clients."""

READ = {
    "source": "posthog",
    "named": "test",
    "features": {KEY: "odd", "checkout": "test", "gift-wrapping": True, "unnamed": False},
    "payloads": {"checkout": {"button": "Buy", "sizes": [1, None]}},
    "one": [KEY, True, "odd", None],
    "exposure": 204,
    "exposures": 204,
    "bulk": [
        [KEY, "odd", "TARGETING_MATCH", "odd"],
        ["checkout", "test", "TARGETING_MATCH", "test"],
        ["gift-wrapping", True, "TARGETING_MATCH", "on"],
        ["unnamed", False, "UNKNOWN", "off"],
    ],
    "single": [KEY, "odd", "TARGETING_MATCH", "posthog"],
    "missing": "Not found.",
}
"""What each program finds."""


def run(*command: str | Path, **variables: str) -> str:
    """Run a command in this folder; return its output."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=FOLDER,
        env={
            **os.environ,
            "PATH": f"{PYTHON.parent}{os.pathsep}{Path(node()).parent}{os.pathsep}"
            f"{os.environ['PATH']}",
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The REST API and OFREP, where the document has them."""
    with PostHogServer() as posthog:
        posthog.flags = {
            "checkout": Variant("test", payload={"button": "Buy", "sizes": [1, None]}, version=3),
            "gift-wrapping": True,
            "unnamed": False,
            KEY: Variant("odd"),
        }
        site = Site(tmp_path_factory.mktemp("site"), settings={"ROOT_URLCONF": __name__})
        site.use(posthog)
        site.run(make_tables)
        options = ["tests.site.wsgi", "--no-control-socket"]
        with serving(site, "gunicorn", *options, socket_option="--bind=fd://{}") as running:
            yield running


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_generated_client_reads_every_endpoint(server: Server, generator: str) -> None:
    """It is generated without an error, compiles, and finds what the server sent."""
    assert PYTHON.exists(), "Install the generators first: make generators-check"
    assert BINARIES.exists(), "Install the generators first: make generators-check"
    target = FOLDER / "dist" / generator
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    program, *options = GENERATORS[generator]
    folder = BINARIES if (BINARIES / program).exists() else PYTHON.parent
    run(folder / program, *(one.format(document=DOCUMENT, target=target) for one in options))

    reader = FOLDER / "readers" / READERS[generator]
    if reader.suffix == ".ts":
        bundle = target / "reader.mjs"
        run(BINARIES / "esbuild", reader, "--bundle", "--platform=node", "--format=esm",
            f"--outfile={bundle}")  # fmt: skip
        output = run(node(), bundle, server.url)
    else:
        output = run(PYTHON, reader, server.url, PYTHONPATH=str(target))

    read: dict[str, Any] = json.loads(output)
    assert read.pop("distinct_id")
    assert read == READ


def test_the_typescript_clients_compile(server: Server) -> None:
    """The programs that read with them pass TypeScript's strict checks."""
    run(BINARIES / "tsc", "--project", ".")
