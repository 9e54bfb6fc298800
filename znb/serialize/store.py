"""Definitions by key, bounded in bytes.

Definitions that were not used for longest are dropped when the bound is passed; a dropped one that somebody still
holds (a payload under way, the entry of a living function) is found for as long as they hold it. Received ones that
nobody needed yet were shipped for a message that is about to be read: they go last, so that a message which needs more
than the bound can still be read. Callers hold the codec's lock.
"""

from __future__ import annotations

import sys
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from znb.serialize.records import Definition

__all__ = ["Store"]


class Store:
    """Definitions by key.

    Args:
        limit_bytes: What the definitions held here may take; the newest is held whatever its size.
        unread_bytes: What they may take together with those that were not loaded yet.
        limit: How many of those that were loaded are held.
    """

    def __init__(self, limit_bytes: int, unread_bytes: int = 0, *, limit: int = sys.maxsize) -> None:
        self.limit_bytes = limit_bytes
        self.limit = limit
        self.unread_bytes = unread_bytes
        self.size_bytes = 0
        self._kept: OrderedDict[bytes, Definition] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[bytes, Definition] = weakref.WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: bytes) -> bool:
        return key in self._alive

    def add(self, definition: Definition) -> None:
        """Hold a definition, and drop others if need be."""
        self.drop(definition.key)
        self._kept[definition.key] = definition
        self._alive[definition.key] = definition
        self.size_bytes += definition.size_bytes
        while (self.size_bytes > self.limit_bytes or len(self._kept) > self.limit) and len(self._kept) > 1:
            spared = self.size_bytes <= max(self.limit_bytes, self.unread_bytes)
            oldest = self._oldest(is_unread_spared=spared)
            if oldest is None or oldest is definition:
                break
            del self._kept[oldest.key]
            self.size_bytes -= oldest.size_bytes

    def _oldest(self, *, is_unread_spared: bool) -> Definition | None:
        kept = iter(self._kept.values())
        return next((each for each in kept if each.loaded is not None or not is_unread_spared), None)

    def get(self, key: bytes) -> Definition | None:
        """Return a definition, which counts as a use of it; ``None`` if it is not held."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._alive.get(key)

    def drop(self, key: bytes) -> None:
        """Hold a definition no longer."""
        dropped = self._kept.pop(key, None)
        self._alive.pop(key, None)
        if dropped is not None:
            self.size_bytes -= dropped.size_bytes
