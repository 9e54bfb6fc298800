"""A bounded ring of tuples that any thread writes and several readers follow.

Each entry begins with its number. A writer takes a number and stores the entry in that number's slot: two operations,
each atomic, so writers need no lock and never wait. A reader knows by the numbers what it finds: the entry that it
expects, a later one (so it was too slow, and counts what it missed), or an earlier one (not written yet).

Invariants: the memory is that of ``size`` entries; each reader sees an entry at most once, in the order of the numbers;
entries seen + entries missed = entries written. Not owned by a thread.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

__all__ = ["Cursor", "Ring", "Slice"]

#: Entries that a slot which a writer left empty (it was interrupted between its two operations) may hold readers up by.
PATIENCE = 64


class Cursor(NamedTuple):
    """How far a reader has come.

    Attributes:
        next: Number of the first entry that it has not seen.
        dropped: Entries that were overwritten before it came.
    """

    next: int = 0
    dropped: int = 0


class Slice(NamedTuple):
    """What a reader has read.

    Attributes:
        entries: In the order of their numbers.
        cursor: Where to go on.
        more: Whether ``limit`` cut it short.
    """

    entries: list[tuple[Any, ...]]
    cursor: Cursor
    more: bool


class Ring:
    """A ring of ``size`` entries.

    Writers do ``n = ring.take(); ring.slots[n & ring.mask] = (n, …)``, written out where it has to be fast.

    Args:
        size: Entries kept; a power of two.

    Attributes:
        slots: The entries.
        mask: ``size - 1``.
        take: Returns the next number.
    """

    __slots__ = ("mask", "slots", "take")

    def __init__(self, size: int) -> None:
        if size < 2 or size & (size - 1):
            raise ValueError(f"expected a power of two as the ring's size, got {size}")
        self.slots: list[tuple[Any, ...] | None] = [None] * size
        self.mask = size - 1
        self.take = itertools.count().__next__

    def add(self, *fields: Any) -> None:
        """Add an entry of these fields."""
        number = self.take()
        self.slots[number & self.mask] = (number, *fields)

    def read(self, cursor: Cursor, limit: int) -> Slice:
        """Return up to ``limit`` entries that the reader has not seen."""
        slots, mask = self.slots, self.mask
        number, dropped = cursor
        entries: list[tuple[Any, ...]] = []
        while len(entries) < limit:
            block = self._block(number, limit - len(entries))
            entries += block
            number += len(block)
            if len(entries) >= limit:
                break
            entry = slots[number & mask]
            found = -1 if entry is None else entry[0]
            if found == number:
                continue
            if found > number:
                oldest = found - mask
                dropped += oldest - number
                number = oldest
                continue
            step = self._past_hole(number)
            if not step:
                return Slice(entries, Cursor(number, dropped), more=False)
            dropped += step
            number += step
        return Slice(entries, Cursor(number, dropped), more=True)

    def _block(self, number: int, limit: int) -> list[tuple[Any, ...]]:
        """Return the entries from ``number`` on that stand together in the slots."""
        at = number & self.mask
        block = self.slots[at : at + limit]
        expected = range(number, number + len(block))
        for entry, wanted in zip(block, expected, strict=True):
            if entry is None or entry[0] != wanted:
                del block[wanted - number :]
                break
        return block  # type: ignore[return-value]

    def _past_hole(self, number: int) -> int:
        """Return how many entries to skip: more than none if a slot was left empty for good."""
        for step in range(1, min(PATIENCE, self.mask) + 1):
            entry = self.slots[(number + step) & self.mask]
            if entry is not None and entry[0] > number:
                ahead = self.slots[(number + PATIENCE) & self.mask]
                return step if ahead is not None and ahead[0] > number else 0
        return 0
