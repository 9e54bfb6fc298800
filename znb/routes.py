"""Where captured output goes, and what it is made of on its way: routes, segments and the ring of what nobody heard.

Plain data, guarded by the lock of ``znb.capture``, which alone uses it.
"""

from __future__ import annotations

import collections
import io
from collections.abc import Callable, Iterator, Sized
from typing import Final, Literal, Protocol

from znb.outputs import Output

__all__ = ["BATCH_CHARS", "Emit", "Journal", "Mark", "MarkedEmit", "Queue", "Ring", "Route", "Segment", "now", "pieces"]

#: Characters after which a batch is sent without waiting, and the most that one ``Text`` holds.
BATCH_CHARS: Final = 65_536

Emit = Callable[[Output], None]
#: Says what writes at this moment. On the thread that writes, or for descriptors the one that drains them.
Mark = Callable[[], int]
#: Takes an output, and the mark of the moment when it was written.
MarkedEmit = Callable[[Output, int], None]


class Journal(Protocol):
    """What keeps the last words of this process (``znb.journal.Journal``)."""

    def write(self, text: str) -> None:
        """Append text."""

    def begin(self) -> None:
        """Forget what was written before."""


class Route:
    """Where output goes: a listener, and whether it has gone."""

    __slots__ = ("closed", "emit", "ended", "mark")

    def __init__(self, emit: Callable[..., None], mark: Mark | None, ended: Sized) -> None:
        self.emit = emit
        self.mark = mark
        self.ended = ended
        self.closed = False


def now(route: Route | None) -> int | None:
    """Return the mark of what is written at this moment."""
    return None if route is None or route.mark is None else route.mark()


class Segment(io.StringIO):
    """Consecutive writes to one stream for one route with one mark."""

    def __init__(self, stream: Literal["stdout", "stderr"], route: Route | None, mark: int | None) -> None:
        super().__init__()
        self.stream = stream
        self.route = route
        self.mark = mark


#: Texts, and other outputs with their routes and marks, in the order written.
Queue = collections.deque[Segment | tuple[Route | None, Output, int | None]]


class Ring:
    """The end of a long text.

    Args:
        size: Characters that are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pieces: collections.deque[str] = collections.deque()
        self._held = 0

    def add(self, text: str) -> None:
        """Append text."""
        self._pieces.append(text)
        self._held += len(text)
        while self._held > self._size:
            oldest = self._pieces.popleft()
            keep = oldest[len(oldest) - max(0, self._size - self._held + len(oldest)) :]
            if keep:
                self._pieces.appendleft(keep)
            self._held += len(keep) - len(oldest)

    def text(self) -> str:
        """Return what is kept."""
        return "".join(self._pieces)

    def clear(self) -> None:
        """Forget it."""
        self._pieces.clear()
        self._held = 0


def pieces(text: str) -> Iterator[str]:
    """Cut text to pieces that can travel: of limited size, and without half characters."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    for start in range(0, len(text), BATCH_CHARS):
        yield text[start : start + BATCH_CHARS]
