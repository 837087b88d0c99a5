"""Log lines: hostile text from outside never starts a line or controls a terminal."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.test import Client
from pytest_django import Settings

import olposthog
from olposthog import _posthog
from olposthog._core import engine
from olposthog._local import DefinitionsError, parse
from olposthog._local.poller import FETCH_SECONDS, Head
from olposthog._posthog import events
from olposthog._posthog.errors import PostHogError
from olposthog._utils.log_lines import MAX_CHARACTERS, EscapeFilter, printable
from olposthog.features import evaluate, get_all_feature_flags, is_enabled
from olposthog.status import status
from olposthog.undecided import Undecided, UndecidedReason
from tests.posthog_faults import Raw, Status
from tests.posthog_server import PATIENCE, PostHogServer

FORGED = "CRITICAL root forged"
HOSTILE = f"a\n{FORGED}\r\x1b[2J\x9b31m\u2028\u202e\x07"


class BrokenCache(LocMemCache):
    """A shared cache that fails with a text that it got from outside."""

    def get_many(self, *args: Any, **options: Any) -> dict[Any, Any]:
        raise RuntimeError(HOSTILE)


class BrokenWrites(LocMemCache):
    """A shared cache that refuses writes with a text that it got from outside."""

    def set(self, *args: Any, **options: Any) -> None:
        raise RuntimeError(HOSTILE)


@dataclass(frozen=True)
class Site:
    """What a source of hostile text changes."""

    posthog: PostHogServer
    settings: Settings
    folder: Path
    monkeypatch: pytest.MonkeyPatch


@pytest.fixture
def site(
    enabled: PostHogServer, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Site:
    return Site(enabled, settings, tmp_path, monkeypatch)


def keys_in_a_definitions_file(site: Site) -> None:
    read_definitions(site.settings, site.folder / "flags.json", json.dumps(hostile_definitions()))


def a_definitions_file_that_is_not_json(site: Site) -> None:
    read_definitions(site.settings, site.folder / "flags.json", f'{{"flags": [{HOSTILE}')


def the_path_of_a_definitions_file(site: Site) -> None:
    path = site.folder / HOSTILE
    read_definitions(site.settings, path, "[]")
    path.unlink()
    engine.reset()
    is_enabled("beta", opt_unique_id="u1")


def an_exception_of_a_condition(site: Site) -> None:
    class Compiled:
        def evaluate(self, context: object) -> bool:
            raise ValueError(HOSTILE) from KeyError(HOSTILE)

    content = json.dumps({"flags": [{"key": HOSTILE, "active": True, "filters": {"groups": []}}]})
    read_definitions(site.settings, site.folder / "flags.json", content)
    evaluator = engine.current().definitions.current()
    assert evaluator
    site.monkeypatch.setitem(evaluator._compiled, HOSTILE, Compiled())
    get_all_feature_flags("u2")


def keys_in_posthogs_definitions(site: Site) -> None:
    site.settings.POSTHOG_PERSONAL_API_KEY = "phx_personal"
    site.posthog.definitions = hostile_definitions()
    poll = engine.current().poller
    assert poll
    poll.look()


def an_error_for_definitions(site: Site) -> None:
    site.settings.POSTHOG_PERSONAL_API_KEY = "phx_personal"
    site.posthog.definitions_fault = Status(500, body=HOSTILE)
    poll = engine.current().poller
    assert poll
    poll.look()


def keys_of_records_that_failed(site: Site) -> None:
    record = {"key": HOSTILE, "enabled": HOSTILE, "reason": {"code": HOSTILE}}
    site.posthog.flags_fault = Status(
        200, body=json.dumps({"flags": {HOSTILE: record}, "requestId": HOSTILE})
    )
    is_enabled(HOSTILE, opt_unique_id=HOSTILE)


def a_status_line_of_posthog(site: Site) -> None:
    site.posthog.flags_fault = Raw(HOSTILE.encode())
    is_enabled(HOSTILE, opt_unique_id=HOSTILE)


def headers_of_posthog(site: Site) -> None:
    site.posthog.flags_fault = Raw(
        b"HTTP/1.1 500 \x1b[2J\r\nETag: \x1b[2J\x07\r\nLocation: \x1b]0;x\x07\r\n"
        + FORGED.encode()
        + b"\r\nContent-Length: 0\r\n\r\n"
    )
    is_enabled("beta", opt_unique_id=HOSTILE)


def an_error_body_for_events(site: Site) -> None:
    site.posthog.events_fault = Status(400, body=HOSTILE)
    _posthog.capture("x", HOSTILE, {HOSTILE: HOSTILE}, {})
    _posthog.client().flush()


def an_exception_of_the_sdk(site: Site) -> None:
    def capture(*args: Any, **options: Any) -> None:
        raise RuntimeError(HOSTILE)

    site.monkeypatch.setattr(_posthog.client(), "capture", capture)
    site.monkeypatch.setattr(events, "_log_throttle", type(events._log_throttle)())
    assert not _posthog.capture("x", "u1", {}, {})


def an_exception_of_the_shared_cache(site: Site) -> None:
    use_cache(site.settings, "BrokenCache")
    is_enabled(HOSTILE, opt_unique_id=HOSTILE)


def a_write_that_the_shared_cache_refuses(site: Site) -> None:
    use_cache(site.settings, "BrokenWrites")
    is_enabled(HOSTILE, opt_unique_id=HOSTILE)
    engine.current().settle(PATIENCE)


def settings_in_problems(site: Site) -> None:
    site.settings.POSTHOG_API_HOST = HOSTILE
    site.settings.POSTHOG_CACHE_ALIAS = HOSTILE
    site.settings.CACHES = {**site.settings.CACHES, HOSTILE + "2": site.settings.CACHES["default"]}
    site.settings.POSTHOG_API_IDENTITY = HOSTILE
    site.settings.FEATURES = {HOSTILE: []}
    is_enabled(HOSTILE, opt_unique_id=HOSTILE)


def headers_of_a_visitor(site: Site) -> None:
    def evaluate(*_: object, **__: object) -> None:
        raise RuntimeError(HOSTILE)

    site.monkeypatch.setattr(engine.current()._resolver, "_resolve", evaluate)
    headers = {"X-POSTHOG-SESSION-ID": HOSTILE, "User-Agent": HOSTILE, "X-Forwarded-For": HOSTILE}
    Client(headers=headers).get("/api/features/")


SOURCES: list[Callable[[Site], None]] = [
    keys_in_a_definitions_file,
    a_definitions_file_that_is_not_json,
    the_path_of_a_definitions_file,
    an_exception_of_a_condition,
    keys_in_posthogs_definitions,
    an_error_for_definitions,
    keys_of_records_that_failed,
    a_status_line_of_posthog,
    headers_of_posthog,
    an_error_body_for_events,
    an_exception_of_the_sdk,
    an_exception_of_the_shared_cache,
    a_write_that_the_shared_cache_refuses,
    settings_in_problems,
    headers_of_a_visitor,
]


def hostile_definitions() -> dict[str, Any]:
    """Return definitions that are malformed where their keys and names are hostile."""
    condition = {"key": HOSTILE, "type": "person", "operator": HOSTILE, "value": HOSTILE}
    group = {"properties": [condition], "variant": HOSTILE}
    cohort = {"key": "id", "type": "cohort", "value": HOSTILE}
    return {
        "flags": [
            {"key": HOSTILE, "active": HOSTILE, "filters": {"groups": []}},
            {"key": HOSTILE, "active": True, "filters": {"groups": [group]}},
            {"key": HOSTILE + "2", "active": True, "filters": {"groups": [group]}},
            {"key": HOSTILE + "3", "active": True, "filters": {"version": HOSTILE}},
            {"key": "c", "active": True, "filters": {"groups": [{"properties": [cohort]}]}},
        ],
        "cohorts": {HOSTILE: HOSTILE},
        "group_type_mapping": HOSTILE,
    }


def read_definitions(settings: Settings, path: Path, content: str) -> None:
    """Evaluate flags by a definitions file with this content."""
    path.write_text(content)
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(path)
    evaluate("u1")


def use_cache(settings: Settings, name: str) -> None:
    """Make a broken cache with a hostile alias the shared one."""
    backend = {"BACKEND": f"tests.test_log_lines.{name}", "LOCATION": name}
    settings.CACHES = {**settings.CACHES, HOSTILE: backend}
    settings.POSTHOG_CACHE_ALIAS = HOSTILE


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
@pytest.mark.django_db
def test_each_record_is_one_printable_line(
    source: Callable[[Site], None], site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Text from any source is escaped in messages, and in exception texts of tracebacks."""
    with caplog.at_level(logging.DEBUG):
        source(site)

    ours = [one for one in caplog.records if one.name.split(".")[0].startswith("olposthog")]
    sdks = [one for one in caplog.records if one.name == "posthog" and one.levelname != "DEBUG"]
    assert ours or sdks
    for record in ours + sdks:
        assert record.getMessage().isprintable()
        lines = logging.Formatter("%(message)s").format(record).split("\n")
        assert all(line.isprintable() for line in lines)
        assert not any(line.lstrip().startswith(FORGED) for line in lines)


def test_all_loggers_escape() -> None:
    """No module of the package has a logger without the filter."""
    folder = Path(olposthog.__file__).parent
    api = folder.parent / "api" / "olposthog_api"
    made = [
        path.name
        for path in (*folder.rglob("*.py"), *api.rglob("*.py"))
        if "logging.getLogger(__name__)" in path.read_text()
    ]

    assert made == []


def test_messages_are_cut() -> None:
    """A message of any length is at most `MAX_CHARACTERS` long, escapes included."""
    record = logging.makeLogRecord({"msg": "%s", "args": ("\x1b" * 10**6,)})

    assert EscapeFilter().filter(record)

    assert len(record.getMessage()) == MAX_CHARACTERS


def test_ordinary_records_are_unchanged() -> None:
    """A printable message keeps its template and arguments, by which error trackers group it."""
    record = logging.makeLogRecord({"msg": "caf\u00e9 %s", "args": ("cr\u00e8me",)})

    assert EscapeFilter().filter(record)

    assert (record.msg, record.args) == ("caf\u00e9 %s", ("cr\u00e8me",))


def test_traceback_keeps_its_lines() -> None:
    """A traceback names files, lines and causes as Python does; only exception texts change."""
    try:
        try:
            os.environ["ORDINARY"]
        except KeyError as cause:
            raise ValueError(HOSTILE) from cause
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": (type(error), error, None)})
    EscapeFilter().filter(record)

    lines = str(record.exc_text).split("\n")
    assert lines.count("Traceback (most recent call last):") == 2
    assert "KeyError: 'ORDINARY'" in lines
    assert f"ValueError: {printable(HOSTILE)}" == lines[-1]


@pytest.mark.parametrize(
    "error",
    [
        PostHogError(HOSTILE, hint=HOSTILE),
        DefinitionsError(HOSTILE),
        Undecided(UndecidedReason.UNSUPPORTED, HOSTILE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_texts_are_escaped_where_they_are_made(error: object) -> None:
    """Whoever shows an error or a reason, in a log of its own or a terminal, gets one line."""
    assert str(error).isprintable()
    assert getattr(error, "hint", "").isprintable()


@pytest.mark.parametrize(
    "content",
    ["{secret-token", '{"flags": secret-token}', '{"flags": [1e999, secret-token', '"secret-token'],
)
def test_json_errors_quote_positions_only(content: str) -> None:
    """The error of a document that is not JSON says where, and quotes nothing of it."""
    with pytest.raises(DefinitionsError) as raised:
        parse(content, "flags.json")

    assert "secret" not in str(raised.value)
    assert "line 1 column" in str(raised.value)


def test_status_escapes_what_the_shared_cache_holds(
    enabled: PostHogServer, settings: Settings
) -> None:
    """A failure that someone wrote into the shared cache is one line in the status."""
    settings.POSTHOG_PERSONAL_API_KEY = "phx_personal"
    poll = engine.current().poller
    assert poll
    caches["durable"].set(poll._key("head"), Head("t", FETCH_SECONDS, failure=HOSTILE).to_text())

    assert status().headline.isprintable()
