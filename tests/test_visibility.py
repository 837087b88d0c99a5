"""Which flags a browser may see: PostHog's word, then the site's."""

from __future__ import annotations

import json

import pytest

from olposthog._core.visibility import INTERNAL_PREFIXES, is_visible, visible_flags
from olposthog.features import evaluate
from olposthog.snapshot import Runtime


def definition(key: str, runtime: str | None = "all", **filters):
    groups = {"groups": [{"properties": [], "rollout_percentage": 100}], **filters}
    return {
        "id": 1,
        "key": key,
        "active": True,
        "version": 1,
        "evaluation_runtime": runtime,
        "filters": groups,
    }


@pytest.fixture
def offline(settings, tmp_path):
    """A site whose definitions are in a file; returns the function that writes them."""

    def write(*flags):
        file = tmp_path / "flags.json"
        file.write_text(json.dumps({"flags": flags}))
        settings.POSTHOG_ENABLED = True
        settings.POSTHOG_FLAG_DEFINITIONS_FILE = str(file)

    return write


@pytest.mark.parametrize(
    ("patterns", "key", "visible"),
    [
        (["*"], "anything", True),
        (["*"], "", True),
        (["web-*"], "web-", True),
        (["web-*"], "my-web-nav", False),
        (["web-*"], "web-a\nb", True),
        (["a?c"], "abc", True),
        (["a?c"], "ac", False),
        (["[ab]-x"], "b-x", True),
        (["[!ab]-x"], "b-x", False),
        (["Web"], "web", False),
        (["a.c"], "abc", False),
        (["web", "api"], "api", True),
        ([], "anything", False),
        ([""], "anything", False),
    ],
)
def test_the_site_lists_keys_and_globs(settings, patterns, key, visible):
    """A key is visible when one of `POSTHOG_API_FLAGS` matches all of it, in its exact case."""
    settings.POSTHOG_API_FLAGS = patterns

    assert is_visible(key) is visible


@pytest.mark.parametrize("prefix", ["survey-targeting-", "product-tour-targeting-"])
def test_posthogs_own_flags_are_invisible(settings, prefix):
    """No pattern shows a flag that PostHog made for itself; similar names are ordinary."""
    settings.POSTHOG_API_FLAGS = ["*", f"{prefix}*", f"{prefix}1"]

    assert prefix in INTERNAL_PREFIXES
    assert is_visible(f"{prefix}1") is False
    assert is_visible(f"my-{prefix}1") is True
    assert is_visible(prefix.removesuffix("-")) is True


def test_every_flag_is_visible_unless_the_site_says_otherwise(settings):
    """Without the setting, PostHog's own word is enough."""
    assert not hasattr(settings, "POSTHOG_API_FLAGS")
    assert is_visible("anything") is True


def test_a_list_that_cannot_be_read_shows_nothing(settings):
    """Where the site's list is a mistake, nothing is shown rather than everything."""
    settings.POSTHOG_API_FLAGS = "web-*"

    assert is_visible("web-nav") is False
    assert is_visible("w") is False


def test_visible_flags_are_sorted_and_keep_their_values(enabled, settings):
    """What is left of a snapshot is in order of keys, off and variants as they are."""
    settings.POSTHOG_API_FLAGS = ["?"]
    enabled.flags = {"c": False, "a": "blue", "b": True, "long": True}

    shown = visible_flags(evaluate("1", runtime=Runtime.CLIENT))

    assert list(shown.items()) == [("a", "blue"), ("b", True), ("c", False)]


def test_definitions_keep_flags_in_their_runtime(offline, client):
    """Evaluated locally, server-only flags stay on the server and client-only ones off it."""
    offline(
        definition("both"),
        definition("unset", runtime=None),
        definition("browser", runtime="client"),
        definition("secret", runtime="server"),
    )

    assert set(evaluate("1").flags) == {"both", "unset", "secret"}
    assert set(evaluate("1", runtime=Runtime.CLIENT).flags) == {"both", "unset", "browser"}
    answer = client.get("/api/features/").json()
    assert answer["source"] == "local"
    assert answer["features"] == {"both": True, "browser": True, "unset": True}
    assert client.get("/api/features/secret/").status_code == 404


def test_a_fallback_for_the_server_is_withheld_from_browsers(offline, client, settings):
    """A key of `FEATURES` that the definitions call server-only is not for browsers either."""
    settings.FEATURES = {"secret": True, "browser": True, "own": True}
    undecidable = {"properties": [{"key": "id", "type": "cohort", "value": 99}]}
    offline(
        definition("secret", runtime="server", groups=[undecidable]),
        definition("browser", runtime="client", groups=[undecidable]),
    )

    answer = client.get("/api/features/").json()

    assert answer["features"] == {"browser": True, "own": True}
    assert client.get("/api/features/secret/").status_code == 404
    assert set(evaluate("1").flags) == {"secret", "own"}
