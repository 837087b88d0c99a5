"""Large texts in the shared cache: compressed, and split into entries that every backend accepts.

The keys of the parts contain the digest of the text. So parts of two texts never mix, and a text
that is stored already need not be written again.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.core.cache.backends.base import BaseCache

PART_CHARACTERS = 500_000
"""Maximum length of one part. memcached limits an entry, key and header included, to 1 MiB."""
MAX_PARTS = 32


@dataclass(frozen=True, slots=True)
class PackedText:
    """A text as it is stored: its digest, and base64 of the compressed text in parts."""

    digest: str
    parts: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> PackedText:
        """Return `text` packed."""
        content = text.encode(errors="surrogatepass")
        packed = base64.b64encode(zlib.compress(content)).decode()
        starts = range(0, len(packed), PART_CHARACTERS)
        parts = tuple(packed[start : start + PART_CHARACTERS] for start in starts)
        return cls(_digest(content), parts)

    def store(self, cache: BaseCache, prefix: str) -> bool:
        """Write the parts that are not stored yet; return whether all of them can be read back.

        Raise whatever the backend raises.
        """
        if len(self.parts) > MAX_PARTS:
            return False
        keys = part_keys(prefix, self.digest, len(self.parts))
        stored = cache.get_many(keys)
        # Other builds of zlib compress to other bytes, so the text counts and not its parts.
        if unpack([stored.get(key) for key in keys], self.digest) is not None:
            return True
        for key, part in zip(keys, self.parts, strict=True):
            if stored.get(key) != part:
                cache.set(key, part, None)
        stored = cache.get_many(keys)
        return unpack([stored.get(key) for key in keys], self.digest) is not None


def part_keys(prefix: str, digest: str, count: int) -> list[str]:
    """Return the keys of the parts of the text with this digest."""
    return [f"{prefix}{digest}:{index}" for index in range(count)]


def unpack(parts: Sequence[object], digest: str) -> str | None:
    """Return the text, or None if a part is missing or the digest is another."""
    try:
        content = zlib.decompress(base64.b64decode("".join(parts)))  # type: ignore[arg-type]  # whatever the cache holds
        return content.decode(errors="surrogatepass") if _digest(content) == digest else None
    except (TypeError, ValueError, zlib.error):
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
