"""`src/api` and `src/features`, copied into an empty Vite project with a schema of its own."""

from __future__ import annotations

import json
import re
import shutil
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.test import override_settings
from django.urls import include, path

from tests.browser.test_client import GENERATOR, TSC, run

urlpatterns = [path("api/", include("olposthog_api.urls"))]

MAIN = """
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { createApi } from "./api/client";
import { fromBootstrap, toBootstrap } from "./features/bootstrap";
import { FeaturesProvider, useFeatures } from "./features/react";
import { FeatureStore } from "./features/store";

const store = new FeatureStore(createApi());

function App() {
  const { answer } = useFeatures();
  return answer && JSON.stringify(fromBootstrap(toBootstrap(answer, true), answer.source));
}

createRoot(document.body).render(
  <StrictMode>
    <FeaturesProvider store={store}>
      <App />
    </FeaturesProvider>
  </StrictMode>,
);
"""

HEADER = """
import type { Answer, FeatureKey } from "./api/client";
import type { FeatureStore } from "./features/store";
declare const answer: Answer;
declare const store: FeatureStore;
export type Used = [typeof answer, typeof store, FeatureKey];
"""

# By `POSTHOG_API_FLAGS`: lines of a reader's, each with the error that it is, or none.
PROJECTS: dict[tuple[str, ...], dict[str, str | None]] = {
    ("*",): {
        'export const key: FeatureKey = "anything";': None,
        'export const value = store.value("anything");': None,
        'export const value = answer.features["anything"] ?? false;': None,
    },
    ("checkout", "new-nav"): {
        'export const key: FeatureKey = "new-nav";': None,
        'export const value = store.value("checkout");': None,
        'export const key: FeatureKey = "chekout";': "TS2820",
        'export const value = store.value("chekout");': "TS2345",
        "export const value = answer.features.chekout;": "TS2551",
        "export const on: boolean = answer.features.checkout ?? false;": "TS2322",
        'export const down = answer.source === "cache";': "TS2367",
    },
    ("checkout", "web-*"): {
        'export const key: FeatureKey = "web-sale";': None,
        'export const value = store.value("web-sale");': None,
        "export const value = answer.features.chekout;": "TS4111",
        "export const on: boolean = answer.features.checkout ?? false;": "TS2322",
    },
    (): {
        'export const value = store.value("anything");': None,
    },
}
LINES = [(flags, line) for flags, lines in PROJECTS.items() for line in lines]

STRICT = {
    "target": "es2023",
    "lib": ["es2023", "dom", "dom.iterable"],
    "module": "esnext",
    "moduleResolution": "bundler",
    "moduleDetection": "force",
    "jsx": "react-jsx",
    "types": ["vite/client"],
    "noEmit": True,
    "strict": True,
    "skipLibCheck": True,
    "verbatimModuleSyntax": True,
    "erasableSyntaxOnly": True,
    "noUnusedLocals": True,
    "noUnusedParameters": True,
    "noFallthroughCasesInSwitch": True,
}
"""What `npm create vite` gives a project with React and TypeScript."""
STRICTEST = STRICT | {
    "exactOptionalPropertyTypes": True,
    "noUncheckedIndexedAccess": True,
    "noPropertyAccessFromIndexSignature": True,
    "noImplicitOverride": True,
    "noImplicitReturns": True,
}


def copy(frontend: Path, project: Path, flags: tuple[str, ...]) -> None:
    """Copy what is made to be copied, and generate the schema of a site with these flags."""
    shutil.copytree(frontend / "src/features", project / "features")
    (project / "api").mkdir()
    shutil.copy(frontend / "src/api/client.ts", project / "api")
    document = StringIO()
    with override_settings(POSTHOG_API_FLAGS=flags):
        call_command("spectacular", format="openapi-json", urlconf=__name__, stdout=document)
    openapi = project / "openapi.json"
    openapi.write_text(document.getvalue())
    made = run(frontend, GENERATOR, str(openapi), "--output", str(project / "api/schema.d.ts"))
    assert made.returncode == 0, made.stderr


def compile_all(frontend: Path, folder: Path, options: dict[str, object]) -> list[tuple[str, str]]:
    """Compile all projects of a folder; return the file and the code of each error."""
    (folder / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": options, "include": ["*/**/*"]})
    )
    said = run(frontend, TSC, "--project", str(folder), "--pretty", "false").stdout
    found = re.findall(r"([\w./-]+)\(\d+,\d+\): error (TS\d+)", said)
    assert len(found) == said.count("error TS"), said
    return [(str(Path(file).name), code) for file, code in found]


@pytest.fixture(scope="module")
def projects(frontend: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one project for each choice of flags."""
    folder = tmp_path_factory.mktemp("projects")
    (folder / "node_modules").symlink_to(frontend / "node_modules")
    for number, flags in enumerate(PROJECTS):
        project = folder / str(number)
        project.mkdir()
        copy(frontend, project, flags)
        (project / "main.tsx").write_text(MAIN)
    for number, (flags, line) in enumerate(LINES):
        project = folder / str(list(PROJECTS).index(flags))
        (project / f"line-{number}.ts").write_text(HEADER + line + "\n")
    return folder


@pytest.fixture(scope="module")
def errors(frontend: Path, projects: Path) -> list[tuple[str, str]]:
    """What `tsc` reports in the strictest of projects."""
    return compile_all(frontend, projects, STRICTEST)


def in_copy(errors: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [error for error in errors if not error[0].startswith("line-")]


def test_copy_compiles_where_types_are_strictest(errors: list[tuple[str, str]]):
    """There is no error, whichever flags the site names, and with optional types exact."""
    assert in_copy(errors) == []


def test_copy_compiles_in_an_empty_vite_project(frontend: Path, projects: Path):
    """Nor is there one with the options that Vite's template has."""
    assert in_copy(compile_all(frontend, projects, STRICT)) == []


@pytest.mark.parametrize(("flags", "line"), LINES)
def test_keys_are_those_of_the_schema(
    errors: list[tuple[str, str]], flags: tuple[str, ...], line: str
):
    """Named flags are known; where there are globs any key is; nothing is of the example's own."""
    file = f"line-{LINES.index((flags, line))}.ts"
    wanted = PROJECTS[flags][line]

    assert [code for name, code in errors if name == file] == ([wanted] if wanted else [])
