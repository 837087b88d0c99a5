"""Workers that end without `atexit`, and gunicorn's workers of greenlets: no exposure is lost."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.posthog_faults import Fault, Hang, Status
from tests.posthog_server import PostHogServer
from tests.site.processes import PATIENCE, ROOT, Site, make_tables, serving


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site whose shared cache is in a SQLite file of its own."""
    site = Site(tmp_path_factory.mktemp("template"), cache_apart=True)
    site.run(make_tables)
    return site


@pytest.fixture
def site(template: Site, posthog: PostHogServer, tmp_path: Path) -> Site:
    """The site with a flag that PostHog turns on."""
    site = template.copy(tmp_path / "site")
    site.use(posthog)
    posthog.flags = {"new-nav": True}
    return site


def exposed(posthog: PostHogServer) -> set[str]:
    """Return the people in the events that arrived."""
    return {
        event["distinct_id"] for event in posthog.events if event["event"] == "$feature_flag_called"
    }


# Children of multiprocessing


def read_flag(person: str) -> None:
    """Read a flag in a child process, which ends at once."""
    import django

    django.setup()
    from olposthog.features import is_enabled

    assert is_enabled("new-nav", opt_unique_id=person)


def start_children(method: str, is_client_inherited: bool) -> list[int | None]:
    """Return the exit codes of two children, which read a flag each, one after the other."""
    if is_client_inherited:
        read_flag("parent")
    context = multiprocessing.get_context(method)
    codes = []
    for person in ("child-1", "child-2"):
        child = context.Process(target=read_flag, args=(person,))  # type: ignore[attr-defined]  # each context has it
        child.start()
        child.join(PATIENCE)
        codes.append(child.exitcode)
    return codes


@pytest.mark.parametrize("is_client_inherited", [False, True], ids=["new", "inherited"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_child_delivers_its_events(
    site: Site, posthog: PostHogServer, method: str, is_client_inherited: bool
) -> None:
    """A child of multiprocessing delivers its exposures at its end, by an inherited client too."""
    assert site.run(start_children, method, is_client_inherited) == [0, 0]

    posthog.wait_until(lambda: {"child-1", "child-2"} <= exposed(posthog), PATIENCE)


@pytest.mark.parametrize("fault", [Hang(), Status(500)], ids=repr)
def test_child_ends_while_events_cannot_be_delivered(
    site: Site, posthog: PostHogServer, fault: Fault
) -> None:
    """A child ends normally although PostHog takes no events."""
    posthog.events_fault = fault

    assert site.run(start_children, "fork", False) == [0, 0]


# Celery


def test_celery_child_delivers_its_events(site: Site, posthog: PostHogServer) -> None:
    """With `--max-tasks-per-child 1` each task's child delivers its exposure before it ends."""
    folder = site.directory / "broker"
    folder.mkdir()
    environment = {**site.environment(), "CELERY_FOLDER": str(folder)}
    celery = [sys.executable, "-m", "celery", "-A", "tests.site.tasks"]
    people = {"person-1", "person-2", "person-3"}
    for person in people:
        subprocess.run(
            [*celery, "call", "tests.site.tasks.read_flag", "--args", f'["{person}"]'],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
            timeout=PATIENCE,
        )
    options = ["--pool", "prefork", "--concurrency", "1", "--max-tasks-per-child", "1"]
    worker = subprocess.Popen(
        [*celery, "worker", *options, "--without-gossip", "--without-mingle"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        posthog.wait_until(lambda: exposed(posthog) == people, PATIENCE)
    finally:
        worker.terminate()
        worker.wait(PATIENCE)


# gevent


def test_gevent_workers_serve_report_and_end(site: Site, posthog: PostHogServer) -> None:
    """Greenlets get flags and report exposures, an outage costs fallbacks, and SIGTERM ends all."""
    site.settings["POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS"] = 10
    options = ["tests.site.greenlets", "--worker-class", "gevent", "--workers", "2"]
    with serving(
        site, "gunicorn", *options, "--no-control-socket", socket_option="--bind=fd://{}"
    ) as server:

        def get(person: str) -> str:
            return requests.get(f"{server.url}/?{person}", timeout=PATIENCE).text

        well = [f"well-{number}" for number in range(40)]
        with ThreadPoolExecutor(10) as pool:
            assert set(pool.map(get, well)) == {"True"}
        posthog.flags_fault = Hang()
        with ThreadPoolExecutor(10) as pool:
            assert set(pool.map(get, [f"outage-{number}" for number in range(20)])) == {"False"}
        assert get("well-0") == "True"
    # `serving` has sent SIGTERM to the master, and waited for it.
    assert server.log().count("Worker exiting") == 2
    posthog.wait_until(lambda: exposed(posthog) == set(well), PATIENCE)
