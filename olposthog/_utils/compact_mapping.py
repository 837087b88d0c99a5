"""Memory shared between people: mappings with the same keys store the keys once per process."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from functools import lru_cache
from typing import Any, Generic, TypeVar

V = TypeVar("V")

MAX_KEY_SETS = 64
"""How many sets of keys a process remembers. A mapping with a forgotten one stays valid."""


class CompactMapping(Mapping[str, V], Generic[V]):
    """A read-only mapping that costs 8 bytes per entry, because its keys are shared."""

    __slots__ = ("_positions", "_values")

    def __init__(self, positions: dict[str, int], values: tuple[V, ...]) -> None:
        self._positions = positions
        self._values = values

    def __getitem__(self, key: str) -> V:
        return self._values[self._positions[key]]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default` if there is none."""
        position = self._positions.get(key)
        return default if position is None else self._values[position]

    def __contains__(self, key: object) -> bool:
        return key in self._positions

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> KeysView[str]:
        """Return the keys, in order."""
        return self._positions.keys()

    def values(self) -> ValuesView[V]:
        """Return the values, in the order of the keys."""
        return self.copy().values()

    def items(self) -> ItemsView[str, V]:
        """Return keys and values, in order."""
        return self.copy().items()

    def copy(self) -> dict[str, V]:
        """Return a dictionary with the same entries."""
        return dict(zip(self._positions, self._values, strict=True))

    def __repr__(self) -> str:
        return repr(self.copy())

    def __reduce__(self) -> tuple[Any, ...]:
        return compact, (self.copy(),)


def compact(mapping: Mapping[str, V]) -> CompactMapping[V]:
    """Return a read-only copy that shares its keys with others of the same keys and order."""
    if isinstance(mapping, CompactMapping):
        return mapping
    return CompactMapping(_positions(tuple(mapping)), tuple(mapping.values()))


@lru_cache(MAX_KEY_SETS)
def _positions(keys: tuple[str, ...]) -> dict[str, int]:
    return {key: position for position, key in enumerate(keys)}
