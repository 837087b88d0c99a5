"""The generated client, and what it does not let pass."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.browser.conftest import node
from tests.shop import ROOT

TSC = "node_modules/typescript/bin/tsc"
GENERATOR = "node_modules/openapi-typescript/bin/cli.js"


def run(frontend: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [node(), *command], cwd=frontend, capture_output=True, text=True, check=False, timeout=120
    )


MISTAKES = {
    "export const value = answer.features.chekout;": "TS4111",
    "export const on: boolean = answer.features.checkout ?? false;": "TS2322",
    'export const down = answer.source === "cache";': "TS2367",
    "export const flags = answer.flags;": "TS2339",
    'export const fine: FeatureKey = "checkout";': None,
}


@pytest.fixture(scope="module")
def errors(frontend: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What `tsc` says about each line, as a file among the frontend's; these have no error."""
    folder = tmp_path_factory.mktemp("mistakes")
    for number, mistake in enumerate(MISTAKES):
        (folder / f"{number}.ts").write_text(
            f'import type {{ Answer, FeatureKey }} from "{frontend}/src/api/client";\n'
            "declare const answer: Answer;\n"
            f"{mistake}\n"
            "export type Used = [typeof answer, FeatureKey];\n"
        )
    config = {
        "extends": f"{frontend}/tsconfig.json",
        "compilerOptions": {"types": []},
        "include": [str(folder), f"{frontend}/src"],
    }
    (folder / "tsconfig.json").write_text(json.dumps(config))
    said = run(frontend, TSC, "--project", str(folder), "--pretty", "false").stdout
    found = re.findall(r"/(\d)\.ts\(3,\d+\): error (TS\d+)", said)
    assert len(found) == said.count("error TS"), said
    return {
        mistake: [code for where, code in found if int(where) == number]
        for number, mistake in enumerate(MISTAKES)
    }


def test_client_is_up_to_date(frontend: Path, tmp_path: Path):
    """`schema.d.ts` is what the generator makes of `openapi.yaml`."""
    fresh = tmp_path / "schema.d.ts"

    made = run(frontend, GENERATOR, str(ROOT / "openapi.yaml"), "--output", str(fresh))

    assert made.returncode == 0, made.stderr
    assert fresh.read_text() == (frontend / "src/api/schema.d.ts").read_text()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_an_error(errors: dict[str, list[str]], mistake: str):
    """`tsc` reports a misspelled flag, a variant used as a boolean, and an unknown source."""
    assert errors[mistake] == ([MISTAKES[mistake]] if MISTAKES[mistake] else [])
