"""The block list of an ad blocker stops PostHog's addresses, and none of ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.browser.conftest import node

HERE = Path(__file__).parent
PAGE = "https://www.example.com"
POSTHOG = ["https://us.i.posthog.com/flags/?v=2", "https://eu.i.posthog.com/e/"]
PATHS = [
    "/api/features/",
    "/api/features/?keys=checkout,new-nav",
    "/api/features/checkout/",
    "/api/features/checkout/exposure/",
    "/api/features/exposures/",
    "/ofrep/v1/evaluate/flags",
    "/ofrep/v1/evaluate/flags/checkout",
]
HOSTS = [PAGE, "https://api.example.com", "https://api.example.org"]
"""The origin of the page, another one of its site, and another site."""


@pytest.fixture(scope="module")
def blocked() -> set[str]:
    """The addresses that a page's requests to are blocked."""
    assert (HERE / "node_modules").exists(), "Install the block list first: make blocklists"
    urls = [*POSTHOG, *(host + path for host in HOSTS for path in PATHS)]
    requests = [{"url": url, "type": "xhr", "sourceUrl": f"{PAGE}/"} for url in urls]
    matches = subprocess.run(
        [node(), "matches.js"],
        cwd=HERE,
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = map(json.loads, matches.stdout.splitlines())
    return {url for url, is_match in zip(urls, found, strict=True) if is_match}


def test_posthog_is_blocked(blocked: set[str]):
    """The list blocks what it is known to block."""
    assert blocked >= set(POSTHOG)


def test_our_addresses_are_not_blocked(blocked: set[str]):
    """The REST API and OFREP are not on the list, on whichever host they are."""
    assert blocked - set(POSTHOG) == set()
