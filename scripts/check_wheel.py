"""Build the distributions and use them as a stranger would, far from this checkout."""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LIBRARY_ALONE = """
from importlib.util import find_spec

import django
from django.conf import settings
from django.core.management import call_command

settings.configure(INSTALLED_APPS=["olposthog"], FEATURES={"new-checkout": True})
django.setup()
call_command("check")
call_command("posthog_status")

import olposthog.features
import olposthog.testing

assert olposthog.features.is_enabled("new-checkout") is True
assert olposthog.features.is_enabled("unheard-of") is False
assert find_spec("rest_framework") is None
assert find_spec("drf_spectacular") is None
"""

IN_TESTS = """
import pathlib

import pytest

pathlib.Path("test_shop.py").write_text("def test_shop(flags): flags({'new-nav': True})")
assert pytest.main(["-q", "-p", "no:cacheprovider"]) == 0
"""

LIBRARY_WITH_API = """
import django
from django.conf import settings
from django.core.management import call_command
from django.urls import include, path

settings.configure(
    ALLOWED_HOSTS=["testserver"],
    FEATURES={"new-checkout": True},
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "rest_framework",
        "drf_spectacular",
        "olposthog",
        "olposthog_api",
    ],
    REST_FRAMEWORK={"DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"},
    ROOT_URLCONF="__main__",
    SECRET_KEY="for this check alone",
)
django.setup()
urlpatterns = [path("api/", include("olposthog_api.urls"))]
call_command("check")

from django.test import Client

response = Client().get("/api/features/")
assert response.status_code == 200, (response.status_code, response.content)
assert response.json()["features"] == {"new-checkout": True}, response.content

call_command("spectacular", "--file", "openapi.yaml", "--validate", "--fail-on-warn")
assert "/api/features/" in open("openapi.yaml").read()
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        wheel, sdist = build(Path(scratch, "dist"))
        check_contents(wheel, sdist)
        pins = write_pins(Path(scratch, "pins.txt"))

        say(f"Installing {wheel.name} alone")
        python = install(Path(scratch, "alone"), str(wheel), pins)
        run_elsewhere(python, LIBRARY_ALONE)
        say("  checks pass, is_enabled() answers; rest_framework, drf_spectacular: not there")

        say("Installing pytest beside it")
        install(Path(scratch, "alone"), "pytest", pins)
        run_elsewhere(python, IN_TESTS)
        say("  its plugin is there")

        say(f"Installing {wheel.name} with [api]")
        python = install(Path(scratch, "with-api"), f"{wheel}[api]", pins)
        run_elsewhere(python, LIBRARY_WITH_API)
        say("  checks pass, GET /api/features/ answers 200 with the flags of settings.FEATURES,")
        say("  manage.py spectacular describes it")


def build(into: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from that sdist, with the locked hatchling."""
    say("Building the sdist, and the wheel from it")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), str(ROOT))
    (wheel,), (sdist,) = into.glob("*.whl"), into.glob("*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}

    top = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    expect(top == {"olposthog", "olposthog_api"}, f"the wheel's top level is {sorted(top)}")
    expect(
        {"olposthog/py.typed", "olposthog_api/py.typed"} <= names,
        "both packages of the wheel carry py.typed",
    )
    expect(
        {
            "olposthog/templates/olposthog/debug_toolbar.html",
            "olposthog/contrib/admin/templates/olposthog_admin/person.html",
            "olposthog/contrib/admin/migrations/0001_initial.py",
            "olposthog/management/commands/posthog_flags.py",
        }
        <= names,
        "the wheel carries templates, migrations and commands",
    )
    expect(
        not any("tests" in Path(name).parts for name in names),
        "the wheel carries no tests",
    )
    expect(
        any(name.endswith(".dist-info/licenses/LICENSE") for name in names),
        "the wheel carries the licence",
    )
    expect(
        {"LICENSE", "README.md", "pyproject.toml", "tests/settings.py"} <= sources,
        "the sdist carries readme, licence and tests",
    )


def write_pins(path: Path) -> Path:
    """Write the locked versions without their hashes, which pip would demand of our wheel too."""
    locked = (ROOT / "requirements" / "dev.txt").read_text()
    path.write_text("\n".join(re.findall(r"^[^\s#].*?(?= *\\?$)", locked, flags=re.MULTILINE)))
    return path


def install(environment: Path, requirement: str, pins: Path) -> Path:
    """Install into an environment of its own, and return that environment's Python."""
    venv.create(environment, symlinks=os.name != "nt")
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    run(*pip, "install", "-qq", "--constraint", str(pins), requirement)
    return python


def run_elsewhere(python: Path, code: str) -> None:
    """Run code in an empty directory, where nothing of this checkout can be found."""
    with tempfile.TemporaryDirectory() as empty:
        run(str(python), "-c", code, cwd=empty)


def run(*command: str, cwd: str | None = None) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean.pop("DJANGO_SETTINGS_MODULE", None)
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}failed: {command[0]}")


def expect(truth: bool, claim: str) -> None:
    if not truth:
        sys.exit(f"not so: {claim}")
    say(f"  {claim}")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
