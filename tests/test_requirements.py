"""The locks: everything pinned and hashed, and no word about where it is downloaded from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LOCKS = sorted((Path(__file__).parent.parent / "requirements").glob("*.txt"))


def test_there_is_a_lock_for_each_environment() -> None:
    """Development, the lowest versions, the generators of clients, and the benchmarks' peers."""
    names = [lock.name for lock in LOCKS]
    assert names == ["dev.txt", "floor.txt", "generators.txt", "peers.txt"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_each_requirement_is_pinned_and_hashed(lock: Path) -> None:
    """Each entry is a name, one version and its hashes, and there is nothing else."""
    entries = lock.read_text().replace("\\\n", " ").splitlines()

    assert entries
    for entry in entries:
        assert re.fullmatch(
            r"[\w.-]+(\[[\w,-]+\])?==[\w.+!]+( ; [^;#]+?)?( +--hash=sha256:[0-9a-f]{64})+", entry
        ), entry


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_no_download_host_is_named(lock: Path) -> None:
    """A mirror's address is the business of the machine that installs."""
    assert not re.search(r"https?:|index-url|find-links", lock.read_text())
