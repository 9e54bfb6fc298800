"""What may go along with a map: somebody who shows how far it is, and somebody who keeps its results.

Both are called on the thread that takes the results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

__all__ = ["Keeper", "Progress"]


class Progress(Protocol):
    """Shows how far a map has come (``znb.progress``)."""

    def update(self, done: int, failed: int, retried: int) -> None:
        """So many more results have been taken, so many of them failures; so many runs were repeated in all."""

    def close(self) -> None:
        """No more will come."""


class Keeper(Protocol):
    """Keeps results for another run (``znb.checkpoint``). On the consumer's thread."""

    def select(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items that have no result yet."""

    def take_found(self) -> int:
        """Return how many items have been found to have a result, since the last call."""

    def keep(self, results: Iterable[tuple[int, Any]]) -> None:
        """Keep results of items that ``select`` yielded, given by their number in that order."""

    def drop(self, index: int) -> None:
        """Note that an item failed: it has no result."""
