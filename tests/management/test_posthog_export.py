"""`manage.py posthog_export`: definitions in a file, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from olposthog._core import engine
from olposthog.features import evaluate
from olposthog.snapshot import FlagSnapshot, Source
from tests.management.running import run
from tests.posthog_faults import Body, Fault, Hang, Html, Refuse, Status, TrickleHeaders
from tests.posthog_server import PostHogServer
from tests.test_definitions import flag, where
from tests.undecidable import CONTINUOUS, REASONS, SOUND

COMMAND = "posthog_export"
DEFINITIONS = {
    "flags": [
        flag("beta"),
        flag("pro", where({"key": "plan", "value": "pro", "operator": "exact", "type": "person"})),
        flag("grün", {"groups": [], "payloads": {"true": '{"a": 1}'}}, active=False),
    ],
    "group_type_mapping": {"0": "company"},
    "cohorts": {},
}


@pytest.fixture
def keyed(enabled: PostHogServer, settings: Settings) -> PostHogServer:
    """A PostHog that lets us read its definitions."""
    settings.POSTHOG_PERSONAL_API_KEY = enabled.secret
    enabled.definitions = DEFINITIONS
    return enabled


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "flags.json"


# What is written


def test_file_has_what_posthog_sent(keyed: PostHogServer, target: Path) -> None:
    """The definitions, as indented JSON that ends in a newline."""
    found = run(COMMAND, str(target))

    assert found.code == 0
    assert json.loads(target.read_text()) == DEFINITIONS
    assert target.read_text().startswith('{\n  "flags": [\n')
    assert target.read_text().endswith("}\n")


def test_message_says_how_many_and_how_to_use_it(keyed: PostHogServer, target: Path) -> None:
    """The last line names the number of flags and the setting."""
    assert run(COMMAND, str(target)).out.splitlines() == [
        "Fetching flag definitions from 127.0.0.1 ...",
        f"{target} has 3 flags. To use it, set POSTHOG_FLAG_DEFINITIONS_FILE = '{target}'.",
    ]


def test_exported_file_gives_the_same_flags(
    keyed: PostHogServer, target: Path, settings: Settings
) -> None:
    """Offline, a person has the flags that PostHog's definitions give them online."""
    poll = engine.current().poller
    assert poll
    poll.look()
    online = answers()
    assert run(COMMAND, str(target)).code == 0
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(target)
    keyed.clear()
    offline = answers()

    for one, other in zip(online, offline, strict=True):
        assert one.source is other.source is Source.LOCAL
        assert (one.flags, one.payloads, one.reasons) == (
            other.flags,
            other.payloads,
            other.reasons,
        )
    assert [one.flags["pro"] for one in offline] == [True, False]
    assert keyed.requests == []


def answers() -> list[FlagSnapshot]:
    return [evaluate("42", person_properties={"plan": plan}) for plan in ("pro", "free")]


def test_dash_is_the_standard_output(keyed: PostHogServer) -> None:
    """With - the output is the JSON alone, and the rest goes to stderr."""
    found = run(COMMAND, "-")

    assert json.loads(found.out) == DEFINITIONS
    assert found.out.endswith("}\n")
    assert found.err.splitlines() == ["Fetching flag definitions from 127.0.0.1 ...", "3 flags."]


def test_one_fetch_is_billed(keyed: PostHogServer, target: Path) -> None:
    """PostHog is asked once, and for nothing else."""
    run(COMMAND, str(target))

    assert keyed.definitions_sent == 1
    assert len(keyed.requests) == 1


def test_older_file_is_replaced(keyed: PostHogServer, target: Path) -> None:
    """The file that was there gives way, and keeps its permissions."""
    target.write_text("old")
    target.chmod(0o640)
    run(COMMAND, str(target))

    assert json.loads(target.read_text()) == DEFINITIONS
    assert target.stat().st_mode & 0o777 == 0o640


def test_new_file_has_the_permissions_of_any_other(keyed: PostHogServer, target: Path) -> None:
    """A web server of another user may read it, as far as the umask has it."""
    run(COMMAND, str(target))
    (target.parent / "other").touch()

    assert target.stat().st_mode == (target.parent / "other").stat().st_mode


def test_link_stays_a_link(keyed: PostHogServer, target: Path, tmp_path: Path) -> None:
    """What a link points to is replaced, not the link."""
    link = tmp_path / "link.json"
    link.symlink_to(target)
    run(COMMAND, str(link))

    assert link.is_symlink()
    assert json.loads(target.read_text()) == DEFINITIONS


def test_definitions_can_be_renewed_offline(
    keyed: PostHogServer, target: Path, settings: Settings
) -> None:
    """A site that goes by a file, or has flags switched off, can still fetch a newer one."""
    settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(target)
    assert run(COMMAND, str(target)).code == 0
    settings.POSTHOG_ENABLED = False
    assert run(COMMAND, str(target)).code == 0


# What is not


def leaves_all_as_it_was(target: Path) -> bool:
    return target.read_text() == "old" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Refuse(), "connection refused. See `manage.py posthog_check`."),
        (Status(401), "HTTP 401. Check the key"),
        (Status(500), "HTTP 500. See `manage.py posthog_check`."),
        (Html(), "PostHog's reply is not JSON"),
        (Body(b"{}"), 'must be a JSON object with a list under "flags"'),
    ],
    ids=["refused", "key", "500", "html", "no flags"],
)
def test_failure_leaves_the_older_file(
    keyed: PostHogServer, target: Path, fault: Fault, message: str
) -> None:
    """Whatever goes wrong, the file stays as it was, and nothing lies beside it."""
    target.write_text("old")
    keyed.fault = fault
    found = run(COMMAND, str(target))

    assert found.code == 1
    assert message in found.err
    assert leaves_all_as_it_was(target)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"key": "odd", "active": True, "filters": None}, "flags[1], 'odd': \"filters\" must be"),
        (flag("even"), "flags[1], 'even': its key was there before"),
        (flag("odd", evaluation_runtime="edge"), "flags[1], 'odd': \"evaluation_runtime\" must be"),
    ],
    ids=["filters", "twice", "runtime"],
)
def test_malformed_flag_is_exported_with_a_warning(
    keyed: PostHogServer, target: Path, odd: dict[str, Any], message: str
) -> None:
    """One odd flag does not keep the others from the file, and the command names it."""
    keyed.definitions = {"flags": [flag("even"), odd]}
    found = run(COMMAND, str(target))

    assert found.code == 0
    assert json.loads(target.read_text())["flags"] == [flag("even"), odd]
    assert message in found.err


def test_undecidable_flags_are_exported_with_a_warning(keyed: PostHogServer, target: Path) -> None:
    """Offline, nobody decides them: the command says so, and the output stays JSON."""
    keyed.definitions = {"flags": [CONTINUOUS, SOUND]}
    for name in (str(target), "-"):
        found = run(COMMAND, name)

        assert found.code == 0
        assert found.err.splitlines()[-2].startswith(
            "1 of 2 flags cannot be decided locally. Their values are from settings.FEATURES"
        )
        assert f"  continuous  {REASONS['continuous']}. Turn off" in found.err
    assert json.loads(found.out) == json.loads(target.read_text()) == keyed.definitions


def test_reply_that_does_not_come(keyed: PostHogServer, target: Path, settings: Settings) -> None:
    """A hanging PostHog ends the command with a reason."""
    settings.POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS = 50
    keyed.definitions_fault = Hang()
    found = run(COMMAND, str(target))

    assert (found.code, target.exists()) == (1, False)
    assert "cannot be fetched: timeout. It takes more than 0.05 s: is PostHog slow" in found.err


def test_reply_that_trickles_past_the_deadline(
    keyed: PostHogServer,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What no socket timeout ends is abandoned at the command's own deadline."""
    monkeypatch.setattr("olposthog.management.commands.posthog_export.FETCH_SECONDS", 0.05)
    keyed.definitions_fault = TrickleHeaders(interval=0.02)
    found = run(COMMAND, str(target))

    assert (found.code, target.exists()) == (1, False)
    assert "no answer within 0.05 s" in found.err


def test_folder_that_does_not_exist(keyed: PostHogServer, tmp_path: Path) -> None:
    """The file is named and nothing is fetched, for a fetch is billed."""
    target = tmp_path / "nowhere" / "flags.json"
    found = run(COMMAND, str(target))

    assert found.code == 1
    assert f"{target} cannot be written: No such file or directory." in found.err
    assert keyed.requests == []


def test_directory_is_no_file(keyed: PostHogServer, tmp_path: Path) -> None:
    """A directory is not replaced by a file."""
    found = run(COMMAND, str(tmp_path))

    assert found.code == 1
    assert f"{tmp_path} is a directory: name a file" in found.err
    assert keyed.requests == []


def test_device_is_no_file(keyed: PostHogServer) -> None:
    """A device is not replaced by a file, though root could do so."""
    found = run(COMMAND, "/dev/null")

    assert found.code == 1
    assert "/dev/null is no regular file: name a file, or - for the standard output." in found.err
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_name_that_no_file_can_have(keyed: PostHogServer, tmp_path: Path, name: str) -> None:
    """What the system refuses as a name is an error, not a traceback."""
    found = run(COMMAND, str(tmp_path / name))

    assert found.code == 1
    assert "cannot be written" in found.err


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("POSTHOG_PERSONAL_API_KEY", "(phx_...) or the project's feature flags secure key"),
        ("POSTHOG_PROJECT_API_KEY", "it says where to fetch"),
        ("POSTHOG_API_HOST", "it says where to fetch"),
    ],
)
def test_key_or_host_that_is_missing(
    keyed: PostHogServer, target: Path, settings: Settings, setting: str, hint: str
) -> None:
    """The error names the setting that is wanted, also while flags are switched off."""
    settings.POSTHOG_ENABLED = False
    setattr(settings, setting, "")
    found = run(COMMAND, str(target))

    assert found.code == 1
    assert found.err.startswith(f"{setting} is not set")
    assert hint in found.err
    assert keyed.requests == []


def test_setting_that_cannot_be_used(
    keyed: PostHogServer, target: Path, settings: Settings
) -> None:
    """Half a configuration asks nobody."""
    settings.POSTHOG_MAX_RETRIES = -1
    found = run(COMMAND, str(target))

    assert "POSTHOG_MAX_RETRIES is -1, which is not" in found.err
    assert keyed.requests == []


def test_keys_are_never_printed(
    keyed: PostHogServer, target: Path, another_process: Callable[[], None]
) -> None:
    """Neither key is in anything that is said, in success or failure."""
    well = run(COMMAND, str(target))
    keyed.fault = Status(401)
    ill = run(COMMAND, str(target))

    for said in (well.out, well.err, ill.out, ill.err):
        assert keyed.token not in said
        assert keyed.secret not in said
