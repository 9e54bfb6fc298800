"""What one process has published: the last value of each topic, and a ring of the latest, from which all readers read.

A reader is a position in the ring and a number of bytes that it may still be sent. One that does not keep up costs
nothing: its position stays, the ring goes on, and when it reads again it finds its gap, by the numbers that messages
have on their topic. What the ring has lost of a topic that it has nothing of any more is handed over all the same: its
last value.

Invariants: bounded in messages and bytes, however many readers there are; a reader gets what it gets in order, and
each message once; the last message of each topic reaches every reader that reads on. Pure: no sockets, no clock, no
lock.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from znb.pubsub.messages import Content, Item

__all__ = ["Board", "BoardStats", "Posted", "Reader"]

#: Messages that the ring holds: some seconds of a busy worker, and some megabytes at most.
RING_MESSAGES = 10_000
#: Bytes that it holds, unless one message alone is larger.
RING_BYTES = 16_000_000
#: Topics whose last value is kept; those that were silent for longest go first.
TOPICS = 10_000
#: Bytes of last values that are kept, unless one alone is larger.
TOPICS_BYTES = 64_000_000
#: Bytes that may be under way to one reader before it says that it has taken some, plus one message.
WINDOW_BYTES = 2_000_000
#: Messages in one batch.
BATCH_MESSAGES = 2000


class Posted(NamedTuple):
    """A message on the board.

    Attributes:
        item: What is sent.
        frames: Its buffers.
        size_bytes: Of both.
    """

    item: Item
    frames: tuple[bytes, ...]
    size_bytes: int


class Reader:
    """Who reads a board.

    Attributes:
        topics: Beginnings of the topics that it wants.
        cursor: Index of the first message that it has not got.
        late: Last values that it is to be handed first.
        sent_bytes: Bytes that it has been sent.
        taken_bytes: Bytes that it has said it got.
    """

    __slots__ = ("cursor", "late", "sent_bytes", "taken_bytes", "topics")

    def __init__(self, topics: Sequence[str], cursor: int, late: Sequence[Posted] = ()) -> None:
        self.topics = tuple(topics) or ("",)
        self.cursor = cursor
        self.late = deque(late)
        self.sent_bytes = 0
        self.taken_bytes = 0

    @property
    def may_read(self) -> bool:
        """Whether it has taken enough of what was sent to be sent more."""
        return self.sent_bytes - self.taken_bytes <= WINDOW_BYTES


class BoardStats(NamedTuple):
    """A snapshot of a board.

    Attributes:
        published: Messages published in all.
        held: Messages in the ring.
        held_bytes: Their size.
        topics: Topics whose last value is kept.
        forgotten: Last values that were let go because there were too many.
    """

    published: int
    held: int
    held_bytes: int
    topics: int
    forgotten: int


class Board:
    """Messages of one process.

    Args:
        messages: Bound of the ring.
        size_bytes: Bound of the ring.
        topics: Bound of the last values.
        topics_bytes: Bound of the last values.
        note: Called with a topic and the number of its last message; with 0 when its last value is let go.
    """

    def __init__(
        self,
        messages: int = RING_MESSAGES,
        size_bytes: int = RING_BYTES,
        topics: int = TOPICS,
        topics_bytes: int = TOPICS_BYTES,
        note: Callable[[str, int], object] | None = None,
    ) -> None:
        self._bounds = (messages, size_bytes, topics, topics_bytes)
        self._ring: deque[Posted] = deque()
        self._ring_bytes = 0
        self._last: dict[str, Posted] = {}
        self._last_bytes = 0
        self._next = 0
        self._forgotten = 0
        self._note = note
        #: When each topic began.
        self._born: dict[str, float] = {}

    def post(
        self, topic: str, content: Content, frames: tuple[bytes, ...], size_bytes: int, *, time: float, source: str
    ) -> None:
        """Add a message."""
        before = self._last.pop(topic, None)
        number = 1
        if before is None:
            self._born[topic] = time
        else:
            number = before.item.number + 1
            self._last_bytes -= before.size_bytes
        item = Item(topic, number, self._next, time, source, content)
        self._next += 1
        posted = Posted(item, frames, size_bytes + len(topic))
        self._ring.append(posted)
        self._ring_bytes += posted.size_bytes
        self._last[topic] = posted  # at the end: those that were silent for longest come first
        self._last_bytes += posted.size_bytes
        if self._note is not None:
            self._note(topic, number)
        self._trim()

    def _trim(self) -> None:
        messages, size_bytes, topics, topics_bytes = self._bounds
        while len(self._ring) > messages or (self._ring_bytes > size_bytes and len(self._ring) > 1):
            self._ring_bytes -= self._ring.popleft().size_bytes
        while len(self._last) > topics or (self._last_bytes > topics_bytes and len(self._last) > 1):
            oldest = next(iter(self._last))
            self._last_bytes -= self._last.pop(oldest).size_bytes
            del self._born[oldest]
            self._forgotten += 1
            if self._note is not None:
                self._note(oldest, 0)

    def open(self, topics: Sequence[str], since: float) -> tuple[Reader, dict[str, int]]:
        """Return a new reader, and the numbers after which it counts gaps, by topic.

        It gets what was published from ``since`` on, as far as the ring has it, and of topics that have been silent
        since then the last value. A topic without a number begins with 1.
        """
        wanted = tuple(topics) or ("",)
        recent = list(itertools.takewhile(lambda posted: posted.item.time >= since, reversed(self._ring)))
        cursor = recent[-1].item.index if recent else self._next
        base: dict[str, int] = {}
        late: list[Posted] = []
        for topic, last in self._last.items():
            if not topic.startswith(wanted):
                continue
            if last.item.index < cursor:
                late.append(Posted(msgspec.structs.replace(last.item, late=True), last.frames, last.size_bytes))
                base[topic] = last.item.number - 1
            elif self._born[topic] < since:
                base[topic] = last.item.number - 1
        for posted in recent:  # the newest first
            if posted.item.topic in base:
                base[posted.item.topic] = posted.item.number - 1
        return Reader(wanted, cursor, late), base

    def resume(self, topics: Sequence[str], cursor: int) -> Reader:
        """Return a reader that goes on where another one was."""
        return Reader(topics, min(max(cursor, 0), self._next))

    def take(self, reader: Reader) -> list[Posted]:
        """Return what a reader is to be sent now, as far as it may be sent any."""
        taken: list[Posted] = []
        while reader.late and reader.may_read:
            self._give(reader, reader.late.popleft(), taken)
        if reader.late or reader.cursor == self._next:
            return taken
        first = self._ring[0].item.index
        if reader.cursor < first:
            self._skip(reader, first)
            return [*taken, *self.take(reader)]
        new = list(itertools.islice(reversed(self._ring), self._next - reader.cursor))
        for posted in reversed(new):
            if not reader.may_read or len(taken) >= BATCH_MESSAGES:
                break
            reader.cursor = posted.item.index + 1
            if posted.item.topic.startswith(reader.topics):
                self._give(reader, posted, taken)
        return taken

    def _skip(self, reader: Reader, first: int) -> None:
        """Move a reader that has been overtaken to the ring's first message, past what is left of those before."""
        reader.late.extend(
            posted
            for topic, posted in self._last.items()
            if reader.cursor <= posted.item.index < first and topic.startswith(reader.topics)
        )
        reader.cursor = first

    @staticmethod
    def _give(reader: Reader, posted: Posted, taken: list[Posted]) -> None:
        reader.sent_bytes += posted.size_bytes
        taken.append(posted)

    def is_done(self, reader: Reader) -> bool:
        """Whether a reader has been sent everything."""
        return not reader.late and reader.cursor == self._next

    def topics(self, most: int) -> tuple[str, ...]:
        """Return the names of the topics that were last heard of, at most so many."""
        return tuple(itertools.islice(reversed(self._last), most))

    def stats(self) -> BoardStats:
        """Return what is held."""
        return BoardStats(self._next, len(self._ring), self._ring_bytes, len(self._last), self._forgotten)
