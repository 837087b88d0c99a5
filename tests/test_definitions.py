"""Flag definitions in a file: read, read again, survived, and evaluated without a network."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from pytest_django import Settings

from olposthog import conf
from olposthog._core import engine
from olposthog._core.engine import Engine
from olposthog._local import Definitions, DefinitionsError, DefinitionsFile, parse, read_strictly
from olposthog._local.file import RECHECK_SECONDS
from olposthog._utils.workers import within
from olposthog.features import evaluate, get_feature_flag, is_enabled
from olposthog.snapshot import Runtime, Source
from tests.posthog_server import PATIENCE, PostHogServer

EVERYONE = {"groups": [{"properties": [], "rollout_percentage": 100}]}


def flag(key: str, filters: object = None, **more: object) -> dict[str, object]:
    """A definition as PostHog writes it: on for everyone, unless told otherwise."""
    return {
        "id": 1,
        "key": key,
        "active": True,
        "version": 2,
        "filters": EVERYONE if filters is None else filters,
        **more,
    }


def where(*properties: dict[str, Any]) -> dict[str, Any]:
    """The filters of a flag that is on for people with these properties."""
    return {"groups": [{"properties": list(properties), "rollout_percentage": 100}]}


class Clock:
    """Seconds that pass when a test says so."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class DefinitionsOnDisk:
    """The file that a site names, and what a test writes into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.versions = 0

    def write(self, *flags: dict[str, object], **more: object) -> None:
        self.write_text(json.dumps({"flags": flags, **more}))

    def write_text(self, text: str) -> None:
        self.path.write_text(text)
        self.versions += 1  # so that no two versions are from the same moment
        os.utime(self.path, (self.versions, self.versions))


@pytest.fixture
def disk(tmp_path: Path) -> DefinitionsOnDisk:
    return DefinitionsOnDisk(tmp_path / "flags.json")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(disk: DefinitionsOnDisk, clock: Clock) -> DefinitionsFile[Definitions]:
    return DefinitionsFile(str(disk.path), lambda definitions: definitions, clock)


def keys(definitions: Definitions | None) -> list[str] | None:
    return None if definitions is None else list(definitions.flags)


# ---- the format


def test_parse_reads_posthogs_format() -> None:
    """What PostHog's definitions endpoint sends is understood, with runtimes and versions."""
    text = json.dumps(
        {
            "flags": [
                flag("a", id=7, version=3, evaluation_runtime="server"),
                flag("b", evaluation_runtime=None),
                {"key": "c", "filters": {}},
            ],
            "group_type_mapping": {"0": "company"},
            "cohorts": {"1": {"type": "OR", "values": []}},
            "property_matching_version": 2,
        }
    )

    definitions = parse(text, "here")

    assert keys(definitions) == ["a", "b", "c"]
    read = {key: (one.runtime, one.id, one.version) for key, one in definitions.flags.items()}
    assert read == {"a": ("server", 7, 3), "b": ("all", 1, 2), "c": ("all", None, None)}
    assert definitions.group_types == {"0": "company"}
    assert definitions.cohorts == {"1": {"type": "OR", "values": []}}
    assert definitions.matching_version == 2
    assert definitions.faults == ()


def test_only_flags_are_required() -> None:
    """A file by hand needs no cohorts and no group types."""
    definitions = parse('{"flags": []}', "here")

    assert (definitions.flags, definitions.group_types, definitions.cohorts) == ({}, {}, {})
    assert definitions.matching_version == 1
    assert definitions.faults == ()


@pytest.mark.parametrize("runtime", list(Runtime))
@pytest.mark.parametrize(("of_flag", "suits"), [("all", Runtime), ("server", ["server"])])
def test_suits(runtime: Runtime, of_flag: str, suits: Any) -> None:
    """A flag may be used in its own runtime, one for all in both, and so may an unknown key."""
    definitions = parse(json.dumps({"flags": [flag("a", evaluation_runtime=of_flag)]}), "here")

    assert definitions.suits("a", runtime) is (runtime in list(suits))
    assert definitions.suits("unknown", runtime)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("\x00", "not JSON"),
        ("[" * 200_000, "not JSON"),
        ("[]", '"flags"'),
        ("null", '"flags"'),
        ("{}", '"flags"'),
        ('{"flags": {}}', '"flags"'),
        ('{"flags": null}', '"flags"'),
        ('{"flags": [], "cohorts": []}', '"cohorts"'),
        ('{"flags": [], "cohorts": null}', '"cohorts"'),
        ('{"flags": [], "group_type_mapping": [1]}', '"group_type_mapping"'),
        ('{"flags": [5]}', "flags[0]"),
        ('{"flags": [null]}', "flags[0]"),
        ('{"flags": [{}]}', "flags[0]"),
        ('{"flags": [{"key": 1, "filters": {}}]}', "flags[0]"),
        ('{"flags": [{"key": "", "filters": {}}]}', "flags[0]"),
        ('{"flags": [{"key": "a", "filters": {}}, {"key": "b"}]}', "flags[1]"),
        ('{"flags": [{"key": "a", "filters": {}}, {"key": "b", "filters": 5}]}', "flags[1]"),
        ('{"flags": [{"key": "a", "filters": {"groups": {}}}]}', "flags[0]"),
        ('{"flags": [{"key": "a", "filters": {"groups": [5]}}]}', "flags[0]"),
        ('{"flags": [{"key": "a", "filters": {"groups": [{"properties": 5}]}}]}', "flags[0]"),
        ('{"flags": [{"key": "a", "filters": {"groups": [{"properties": [5]}]}}]}', "flags[0]"),
        (
            '{"flags": [{"key": "a", "filters": {"groups": [{"rollout_percentage": "x"}]}}]}',
            "flags[0]",
        ),
        ('{"flags": [{"key": "a", "filters": {"multivariate": 5}}]}', "flags[0]"),
        ('{"flags": [{"key": "a", "filters": {"multivariate": {"variants": 5}}}]}', "flags[0]"),
        ('{"flags": [{"key": "a", "filters": {"multivariate": {"variants": [5]}}}]}', "flags[0]"),
        ('{"flags": [{"key": "a", "filters": {"multivariate": {"variants": [{}]}}}]}', "flags[0]"),
        ('{"flags": [{"key": "a", "filters": {"payloads": 5}}]}', "flags[0]"),
        ('{"flags": [{"key": "a", "filters": {"payloads": {"true": NaN}}}]}', "flags[0]"),
        (
            '{"flags": [{"key": "a", "filters": {"groups": [{"properties": [{"value": 1}]}]}}]}',
            "flags[0]",
        ),
        (
            '{"flags": [{"key": "a", "filters": {"multivariate": {"variants": [{"key": "x"}]}}}]}',
            "flags[0]",
        ),
        ('{"flags": [{"key": "a", "filters": {}}, {"key": "a", "filters": {}}]}', "flags[1]"),
        ('{"flags": [{"key": "a", "filters": {}, "evaluation_runtime": "web"}]}', "flags[0]"),
        ('{"flags": [{"key": "a", "filters": {}, "active": "no"}]}', "flags[0]"),
    ],
)
def test_malformed_file_says_where(disk: DefinitionsOnDisk, text: str, place: str) -> None:
    """A file that cannot be used is refused with its name and the place of the fault."""
    disk.write_text(text)

    with pytest.raises(DefinitionsError) as caught:
        read_strictly(str(disk.path))

    assert str(disk.path) in str(caught.value)
    assert place in str(caught.value)


def test_file_that_is_no_text_is_refused(disk: DefinitionsOnDisk) -> None:
    """Bytes that are no text are as malformed as any others."""
    disk.path.write_bytes(b"\xff\xfe\x00\x80")

    with pytest.raises(DefinitionsError, match="is not JSON"):
        read_strictly(str(disk.path))


def test_missing_file_says_so(tmp_path: Path) -> None:
    """A path that leads nowhere, or to a folder, is named with the reason."""
    with pytest.raises(DefinitionsError, match=r"none\.json cannot be read: No such file"):
        read_strictly(str(tmp_path / "none.json"))
    with pytest.raises(DefinitionsError, match="cannot be read: Is a directory"):
        read_strictly(str(tmp_path))


def test_pipe_is_refused(tmp_path: Path) -> None:
    """What is no regular file might keep its reader waiting for ever: it is not read."""
    os.mkfifo(tmp_path / "pipe")

    for path in (str(tmp_path / "pipe"), os.devnull):
        with pytest.raises(DefinitionsError, match=f"^{path} cannot be read: it is no regular"):
            within(PATIENCE, partial(read_strictly, path))


# ---- the file, over time


def test_file_is_read_once(
    disk: DefinitionsOnDisk, file: DefinitionsFile[Definitions], clock: Clock
) -> None:
    """While the file stays as it is, so does what was read from it."""
    disk.write(flag("a"))

    first = file.current()
    clock.now += 10 * RECHECK_SECONDS

    assert keys(first) == ["a"]
    assert file.current() is first


def test_changed_file_is_read_again(
    disk: DefinitionsOnDisk, file: DefinitionsFile[Definitions], clock: Clock
) -> None:
    """A new version is in use after a moment, in which the file is not looked at."""
    disk.write(flag("a"))
    file.current()
    disk.write(flag("b"))

    clock.now += RECHECK_SECONDS * 0.9
    assert keys(file.current()) == ["a"]
    clock.now += RECHECK_SECONDS * 0.2
    assert keys(file.current()) == ["b"]


def test_replaced_file_is_read_again(
    disk: DefinitionsOnDisk, file: DefinitionsFile[Definitions], clock: Clock
) -> None:
    """A file put in the place of another one counts as changed, also with the same times."""
    disk.write(flag("a"))
    file.current()
    other = DefinitionsOnDisk(disk.path.with_name("other.json"))
    other.write(flag("b"))
    other.path.replace(disk.path)

    clock.now += RECHECK_SECONDS
    assert keys(file.current()) == ["b"]


def test_broken_file_keeps_the_last_good_version(
    disk: DefinitionsOnDisk,
    file: DefinitionsFile[Definitions],
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However it breaks, each fault costs one warning, and so does its end."""
    disk.write(flag("a"))
    file.current()
    for broken in ("{", "[]", None):
        caplog.clear()
        if broken is None:
            disk.path.unlink()
        else:
            disk.write_text(broken)
        for _ in range(3):
            clock.now += RECHECK_SECONDS
            assert keys(file.current()) == ["a"]
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert str(disk.path) in record.getMessage()
        assert "the last good version stays in use" in record.getMessage()

    caplog.clear()
    disk.write(flag("b"))
    clock.now += RECHECK_SECONDS
    assert keys(file.current()) == ["b"]
    (record,) = caplog.records
    assert record.getMessage() == "POSTHOG_FLAG_DEFINITIONS_FILE can be used again."

    disk.write_text("{")
    clock.now += RECHECK_SECONDS
    assert keys(file.current()) == ["b"]
    assert len(caplog.records) == 2


@pytest.mark.parametrize("text", [None, "{", "[]"], ids=["missing", "no JSON", "malformed"])
def test_file_that_is_broken_from_the_start(
    disk: DefinitionsOnDisk,
    file: DefinitionsFile[Definitions],
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    text: str | None,
) -> None:
    """Without a good version there are no definitions, one line says why, and it can be mended."""
    if text is not None:
        disk.write_text(text)

    for _ in range(5):
        assert file.current() is None
        clock.now += RECHECK_SECONDS

    (record,) = caplog.records
    assert str(disk.path) in record.getMessage()
    assert "settings.FEATURES is used" in record.getMessage()

    disk.write(flag("a"))
    clock.now += RECHECK_SECONDS
    assert keys(file.current()) == ["a"]


# ---- evaluated through the API


@pytest.fixture
def offline(
    disk: DefinitionsOnDisk, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DefinitionsOnDisk]:
    """Flags come from the file; whoever opens a socket fails the test."""
    opened: list[object] = []

    def refuse(self: socket.socket, *args: object) -> None:
        opened.append(args)
        raise AssertionError("there is no network in these tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = disk.path
    yield disk
    assert opened == []


def test_file_needs_no_network_and_no_key(offline: DefinitionsOnDisk, settings: Settings) -> None:
    """With a file there is neither host nor key to configure, and nothing is connected to."""
    offline.write(flag("beta", id=5, version=6), flag("off", {"groups": []}))

    snapshot = evaluate("u1")

    assert snapshot.source is Source.LOCAL
    assert snapshot.flags == {"beta": True, "off": False}
    assert snapshot.evaluation is not None
    assert snapshot.evaluation.request_id is None
    decision = snapshot.evaluation.decisions["beta"]
    assert (decision.reason, decision.id, decision.version) == ("local", 5, 6)
    assert is_enabled("beta", opt_unique_id="u1") is True


def test_file_beats_the_server(
    enabled: PostHogServer, settings: Settings, disk: DefinitionsOnDisk
) -> None:
    """Where both are configured the file alone answers: no request, not even for what it lacks."""
    enabled.flags = {"beta": True, "remote": True}
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = disk.path
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    disk.write(flag("beta", {"groups": []}), flag("static", where(cohort(1))))

    assert evaluate("u1").flags == {"beta": False}
    assert is_enabled("remote", opt_unique_id="u1") is False
    assert enabled.requests == []


def test_local_answer_needs_no_shared_entry(offline: DefinitionsOnDisk) -> None:
    """What every process can evaluate by itself is not put into the shared cache."""
    offline.write(flag("beta"))
    evaluate("u1")

    assert engine.current().shared.settle(10)
    assert not caches["durable"]._cache  # type: ignore[attr-defined]  # LocMemCache's


def test_variants_and_payloads(offline: DefinitionsOnDisk) -> None:
    """A multivariate flag has its variant, and a payload belongs to the value that was decided."""
    variants = {
        "variants": [
            {"key": "control", "rollout_percentage": 0},
            {"key": "test", "rollout_percentage": 100},
        ]
    }
    offline.write(
        flag(
            "checkout",
            {
                **EVERYONE,
                "multivariate": variants,
                "payloads": {"control": '"no"', "test": '{"colour": "green"}'},
            },
        ),
        flag("plain", {**EVERYONE, "payloads": {"true": "[1, 2]"}}),
        flag("text", {**EVERYONE, "payloads": {"true": '"text"'}}),
        flag("off", {"groups": [], "payloads": {"true": "1"}}),
    )

    snapshot = evaluate("u1")

    assert snapshot.flags == {"checkout": "test", "plain": True, "text": True, "off": False}
    assert snapshot.payloads == {
        "checkout": {"colour": "green"},
        "plain": [1, 2],
        "text": "text",
    }


def test_person_properties_decide(offline: DefinitionsOnDisk) -> None:
    """What the caller says of a person is matched, and so are the default properties."""
    offline.write(
        flag(
            "pro", where({"key": "plan", "type": "person", "value": ["pro"], "operator": "exact"})
        ),
        flag(
            "here",
            where(
                {"key": "environment", "type": "person", "value": ["tests"], "operator": "exact"}
            ),
        ),
        flag("me", where({"key": "user_id", "type": "person", "value": "u1", "operator": "exact"})),
    )

    assert evaluate("u1", person_properties={"plan": "pro"}).flags == {
        "pro": True,
        "here": True,
        "me": True,
    }
    assert evaluate("u2", person_properties={"plan": "free"}).flags == {
        "pro": False,
        "here": True,
        "me": False,
    }


def cohort(number: int) -> dict[str, Any]:
    return {"key": "id", "type": "cohort", "value": number}


def test_cohorts_decide(offline: DefinitionsOnDisk) -> None:
    """A cohort that the file defines is looked up."""
    older = {"key": "age", "type": "person", "operator": "gt", "value": 30}
    cohorts = {"12": {"type": "OR", "values": [{"type": "AND", "values": [older]}]}}
    offline.write(flag("beta", where(cohort(12))), cohorts=cohorts)

    assert evaluate("u1", person_properties={"age": 31}).flags == {"beta": True}
    assert evaluate("u1", person_properties={"age": 29}).flags == {"beta": False}


def test_groups_decide(offline: DefinitionsOnDisk) -> None:
    """A flag of groups is evaluated for the group, with the group's properties."""
    big = {"key": "size", "type": "group", "group_type_index": 0, "operator": "gt", "value": 100}
    filters = {**where(big), "aggregation_group_type_index": 0}
    offline.write(flag("beta", filters), group_type_mapping={"0": "company"})

    def on(size: int) -> bool:
        about: Any = {
            "groups": {"company": "acme"},
            "group_properties": {"company": {"size": size}},
        }
        return is_enabled("beta", True, "u1", **about)

    assert on(101) is True
    assert on(99) is False
    assert is_enabled("beta", True, "u1") is False


def test_inactive_flag_is_off(offline: DefinitionsOnDisk, settings: Settings) -> None:
    """A flag that is switched off in PostHog is an explicit off: FEATURES does not turn it on."""
    settings.FEATURES = {"beta": True}
    offline.write(flag("beta", active=False))

    assert is_enabled("beta", True, "u1") is False


@pytest.mark.parametrize(
    "unresolvable",
    [
        flag("hard", where(cohort(99))),
        flag("hard", ensure_experience_continuity=True),
        flag("hard", where({"key": "x", "type": "person", "value": 1, "operator": "of tomorrow"})),
        flag("hard", where({"key": "unsaid", "type": "person", "value": 1, "operator": "exact"})),
    ],
    ids=["static cohort", "experience continuity", "unknown operator", "property not passed"],
)
def test_flag_that_cannot_be_resolved_falls_back(
    offline: DefinitionsOnDisk, settings: Settings, unresolvable: dict[str, object]
) -> None:
    """What the file alone cannot decide has its value from FEATURES, else the default."""
    offline.write(flag("easy"), unresolvable)

    assert evaluate("u1").flags == {"easy": True}
    assert get_feature_flag("hard", "default", "u1") == "default"
    settings.FEATURES = {"hard": "from features", "easy": False}
    snapshot = evaluate("u1")
    assert snapshot.flags == {"hard": "from features", "easy": True}
    assert snapshot.source is Source.LOCAL


def test_runtimes_are_kept_apart(offline: DefinitionsOnDisk, settings: Settings) -> None:
    """Servers get no browser-only flags and browsers no server-only ones, from FEATURES neither."""
    settings.FEATURES = {"server-only": True, "client-only": True, "hard": True, "unknown": True}
    offline.write(
        flag("both", evaluation_runtime="all"),
        flag("unsaid", evaluation_runtime=None),
        flag("server-only", evaluation_runtime="server"),
        flag("client-only", evaluation_runtime="client"),
        flag("hard", where(cohort(99)), evaluation_runtime="server"),
    )

    both = {"both": True, "unsaid": True, "unknown": True}
    assert evaluate("u1").flags == {**both, "server-only": True, "hard": True}
    assert evaluate("u1", runtime=Runtime.CLIENT).flags == {**both, "client-only": True}


def test_change_of_the_file_is_seen(
    offline: DefinitionsOnDisk, settings: Settings, clock: Clock
) -> None:
    """A new version of the file answers once the process cache has forgotten the old one."""
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 5
    offline.write(flag("beta"))
    engine._current = Engine(conf.current(), clock=clock, wall=clock)
    assert is_enabled("beta", opt_unique_id="u1") is True

    offline.write(flag("beta", {"groups": []}))
    clock.now += 4.9
    assert is_enabled("beta", opt_unique_id="u1") is True
    clock.now += 0.2
    assert is_enabled("beta", opt_unique_id="u1") is False


@pytest.mark.parametrize("text", [None, "{", '{"flags": 5}'], ids=["missing", "{", "no list"])
def test_site_starts_with_a_broken_file(
    offline: DefinitionsOnDisk,
    settings: Settings,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    text: str | None,
) -> None:
    """Until the file is mended FEATURES answers, and one line says why."""
    settings.FEATURES = {"beta": True}
    if text is not None:
        offline.write_text(text)
    engine._current = Engine(conf.current(), clock=clock, wall=clock)

    for number in range(10):
        snapshot = evaluate(f"u{number}")
        assert (snapshot.source, snapshot.flags) == (Source.FALLBACK, {"beta": True})
        clock.now += 1
    assert len(caplog.records) == 1

    offline.write(flag("beta", {"groups": []}))
    clock.now += RECHECK_SECONDS
    assert evaluate("u10").flags == {"beta": False}
    assert evaluate("u10").source is Source.LOCAL


def test_file_that_breaks_is_survived(
    offline: DefinitionsOnDisk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """While the process runs a broken file changes no answer."""
    offline.write(flag("beta"))
    engine._current = Engine(conf.current(), clock=clock, wall=clock)
    evaluate("u0")
    offline.write_text("{")

    for number in range(10):
        clock.now += RECHECK_SECONDS
        assert evaluate(f"u{number}").flags == {"beta": True}

    assert len(caplog.records) == 1


def test_empty_project_is_an_answer(offline: DefinitionsOnDisk, settings: Settings) -> None:
    """A file without flags is a project without flags."""
    settings.FEATURES = {"beta": True}
    offline.write()

    assert evaluate("u1").source is Source.LOCAL
    assert evaluate("u1").flags == {"beta": True}


def test_disabled_site_is_not_answered_by_its_file(
    offline: DefinitionsOnDisk, settings: Settings
) -> None:
    """With POSTHOG_ENABLED off FEATURES answers, although there is a file."""
    settings.POSTHOG_ENABLED = False
    settings.FEATURES = {"beta": True}
    offline.write(flag("beta", {"groups": []}))

    snapshot = evaluate("u1")

    assert (snapshot.source, snapshot.flags) == (Source.DISABLED, {"beta": True})


# Cycles and nesting


def depending_on(key: str, other: str, *chain: str) -> dict[str, object]:
    """A flag that is on where another one is on."""
    dependency = {
        "key": other,
        "type": "flag",
        "operator": "flag_evaluates_to",
        "value": True,
        "dependency_chain": [*chain, other],
    }
    return flag(key, where(dependency))


def test_cycles_are_logged_once_per_version(
    tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """One line names the flags with cycles, escaped and ten at most, however many people ask."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(tmp_path / "flags.json")
    settings.POSTHOG_LOCAL_CACHE_SECONDS = 0
    loop = {"type": "AND", "values": [{"key": "id", "type": "cohort", "value": 7}]}
    in_cohort = where({"key": "id", "type": "cohort", "value": 7})
    flags = [
        depending_on("odd\nkey", "odd\nkey"),
        flag("by-cohort", in_cohort),
        flag("good"),
        *(depending_on(f"loop-{number}", f"loop-{number}") for number in range(10)),
    ]
    document = {"flags": flags, "cohorts": {"7": loop}}
    (tmp_path / "flags.json").write_text(json.dumps(document))

    for person in ("ada", "bob", "eve"):
        assert evaluate(person).flags["good"] is True

    (line,) = [one for one in caplog.messages if "cycles" in one]
    assert "'odd\\nkey': it depends on itself" in line
    assert line.endswith("; and 2 more")
    assert "good" not in line
    assert len(line.splitlines()) == 1


def test_chain_that_is_too_deep_is_logged(
    tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """More nested flags than can be evaluated are named, too; a cohort's cycle names its flags."""
    settings.POSTHOG_ENABLED = True
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(tmp_path / "flags.json")
    keys = [f"flag-{number}" for number in range(52)]
    chain = [depending_on(key, after) for key, after in pairwise(keys)]
    loop = {"type": "AND", "values": [{"key": "id", "type": "cohort", "value": 7}]}
    document = {
        "flags": [
            *chain,
            flag(keys[-1]),
            flag("by-cohort", where({"key": "id", "type": "cohort", "value": 7})),
        ],
        "cohorts": {"7": loop},
    }
    (tmp_path / "flags.json").write_text(json.dumps(document))
    evaluate("ada")

    (line,) = [one for one in caplog.messages if "cycles" in one]
    assert "'flag-1': more than 50 flags or cohorts are nested in it" in line
    assert "'by-cohort': the cohort 7 depends on itself" in line
