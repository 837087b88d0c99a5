"""Settings that cannot be used, and those that nobody reads because of their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning

from olposthog import conf
from olposthog._local import DefinitionsError, read_strictly

from . import ids

ALIKE = 0.88
"""How alike two names are, of 1, when one is a slip for the other: a letter, or a word of many."""
OTHERS = re.compile(r"POSTHOG_(MW_.*|(APP|UI)_HOST)")
"""Settings that are like ours and not ours: of the SDK's middleware, and for posthog-js."""


def check_settings(**_: Any) -> list[CheckMessage]:
    """Report every setting that cannot be used. Until it is mended, FEATURES answers."""
    settings = conf.current()
    return [*_problems(settings), *_definitions_file(settings), *_names(settings), *_misspelt()]


def _problems(settings: conf.Settings) -> Iterator[CheckMessage]:
    for problem in settings.problems:
        known = ids.MISSING if problem.missing else ids.ERRORS
        yield Error(problem.message, hint=problem.hint, id=known[problem.setting])


def _definitions_file(settings: conf.Settings) -> Iterator[CheckMessage]:
    if not (settings.enabled and settings.definitions_file):
        return
    try:
        read_strictly(settings.definitions_file)
    except DefinitionsError as error:
        yield Error(
            f"POSTHOG_FLAG_DEFINITIONS_FILE is missing or malformed: {error}",
            hint=(
                "Name a JSON file in the form of PostHog's flag definitions endpoint. "
                "`manage.py posthog_check` lists the flags that it cannot decide."
            ),
            id=ids.BAD_DEFINITIONS_FILE,
        )


def _names(settings: conf.Settings) -> Iterator[CheckMessage]:
    """Report values that are well-formed, and are the name of something else."""
    if settings.personal_api_key.startswith("phc_"):
        yield Error(
            "POSTHOG_PERSONAL_API_KEY is a project's key (phc_...), which cannot read flag "
            "definitions: nothing is evaluated locally.",
            hint="Set a personal key (phx_...) or a feature flags secure key (phs_...), or unset "
            "it to do without local evaluation.",
            id=ids.PROJECT_KEY_AS_PERSONAL_KEY,
        )
    name = settings.anonymous_cookie
    for owner in ("SESSION_COOKIE_NAME", "CSRF_COOKIE_NAME", "LANGUAGE_COOKIE_NAME"):
        if name == getattr(django_settings, owner):
            yield Error(
                f"POSTHOG_API_ANONYMOUS_COOKIE is {name!r}, and so is {owner}: the anonymous "
                "visitor's cookie replaces the other.",
                hint='Set a name that no other cookie has, such as "olposthog_id".',
                id=ids.COOKIE_NAME_TAKEN,
            )


def _misspelt() -> Iterator[CheckMessage]:
    ours = [name for name in conf.NAMES if name.startswith("POSTHOG_")]
    unset = [name for name in ours if not hasattr(django_settings, name)]
    for name in sorted(set(dir(django_settings)) - set(ours)):
        if not name.startswith("POSTHOG_") or OTHERS.fullmatch(name):
            continue
        for meant in get_close_matches(name, unset, n=1, cutoff=ALIKE):
            yield CheckWarning(
                f"{name} is no setting that olposthog reads; {meant} is, and is not set.",
                hint=f"Rename it to {meant} if that is what it is for.",
                id=ids.MISSPELT_SETTING,
            )
