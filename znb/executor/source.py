"""Where a map's items come from: pulls them, and encodes them in parts.

What is pulled is encoded before anybody can change it. A container keeps its items as they are, so many are encoded
together. An iterator may yield one buffer again and again, filled anew. As long as what it yields is *settled*
(``znb.serialize.settled``) once the next item is there, items are encoded together too; the first ones, and all after
one that was not, are encoded one by one.

Invariants: items keep their order; what cannot be encoded loses nothing that came before it. Owning thread: the one
that takes the map's results.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from znb.errors import SerializationError
from znb.executor.groups import NOTHING, Part
from znb.serialize import Codec, Payload
from znb.serialize.settled import ATOMS, TRUST_AFTER, copied, is_settled

__all__ = ["Source", "is_container"]

#: Items encoded together at most. A chunk takes its items from such parts, so at its edges up to this much of a part
#: goes to two workers.
PART_ITEMS = 2048
#: The same for a range, which is two numbers however long it is.
RANGE_ITEMS = 1 << 16
#: Bytes of encoded items at which parts stop growing, so that a chunk does not drag along what it does not need.
PART_BYTES = 64 << 10
#: Seconds for which items are pulled at a time, so that results do not wait for a slow source.
PULL_TIME = 0.02
#: Items pulled between two looks at the clock.
PULL_ITEMS = 64
#: Containers that are sliced rather than iterated over: a part of a range is two numbers.
_SLICED = frozenset((range, list, tuple))


class Source:
    """The items of one map.

    Args:
        codec: Encodes them.
        items: The items.
        contained: Whether they are those of a container.
        keep_going: Whether an item that cannot be encoded becomes a failed job; otherwise it is the end.

    Attributes:
        exhausted: Whether no more will come.
        error: What ended it, if it was not its end.
        refused: Items that cannot be encoded, by number, since the last look.
        count: Items that have been pulled.
    """

    def __init__(self, codec: Codec, items: Iterable[Any], *, contained: bool, keep_going: bool) -> None:
        self.exhausted = False
        self.error: Exception | None = None
        self.refused: dict[int, SerializationError] = {}
        self.count = 0
        self._codec = codec
        self._sequence: Sequence[Any] | None = items if type(items) in _SLICED else None  # type: ignore[assignment]
        self._items = iter(items)
        self._contained = contained
        self._keep_going = keep_going
        self._part_items = 1
        self._settled = 0  # items so far; -1 when one was not
        self._last: list[Any] = []

    def pull(self, wanted: int) -> list[Part]:
        """Pull and encode up to so many items: a part of them, or more where one cannot be encoded."""
        began = time.monotonic()
        items = self._pull_items(min(wanted, self._part_items), began + PULL_TIME)
        if not items:
            return []
        parts = self._encode(items)
        size = sum(len(part.payload.body) for part in parts)
        took = time.monotonic() - began
        if took > PULL_TIME or size > PART_BYTES or any(part.payload.buffers for part in parts):
            self._part_items = max(1, len(items) // 2)
        elif took < PULL_TIME / 4 and size < PART_BYTES // 2:
            most = PART_ITEMS if type(self._sequence) is not range else RANGE_ITEMS
            self._part_items = min(most, self._part_items * 2)
        return parts

    def close(self, error: Exception) -> None:
        """Pull no more, because of ``error``."""
        self.error, self.exhausted = error, True

    def _pull_items(self, wanted: int, deadline: float) -> Sequence[Any]:
        """Pull up to so many items, fewer if that takes too long; sets ``exhausted`` at the end of the source."""
        if self._sequence is not None:
            part = self._sequence[self.count : self.count + wanted]
            self.exhausted = len(part) < wanted
            return part
        items: list[Any] = []
        try:
            if not self._contained:
                if self._settled < TRUST_AFTER:
                    self._pull_carefully(items, wanted)
                    return items
                self._note([])  # and let go of it
            while not self.exhausted and len(items) < wanted:
                count = min(wanted - len(items), PULL_ITEMS)
                before = len(items)
                items.extend(itertools.islice(self._items, count))
                self.exhausted = len(items) - before < count
                if time.monotonic() > deadline:
                    break
        except Exception as error:  # noqa: BLE001 - raised to the consumer after the results of what came before
            self.close(error)
        if not self._contained and not is_settled(items[:-1]):
            self._settled = -1
        self._last = items[-1:]
        return items

    def _pull_carefully(self, items: list[Any], wanted: int) -> None:
        """Pull items up to the first that could change."""
        for item in itertools.islice(self._items, wanted):
            items.append(item)
            self._note(items[-1:])
            if type(item) not in ATOMS:
                return
        self.exhausted = len(items) < wanted

    def _note(self, last: list[Any]) -> None:
        """Look whether the item before the one just pulled is settled."""
        before, self._last = self._last, []
        if before and self._settled >= 0:
            self._settled = self._settled + 1 if is_settled(list(before)) else -1
        self._last = last

    def _encode(self, items: Sequence[Any]) -> list[Part]:
        """Encode items together, or if one of them cannot be, all up to it; sets ``refused``, or ``error``."""
        first = self.count
        self.count += len(items)
        part = self._part(items)
        if isinstance(part, Part):
            return [part]
        if len(items) == 1:
            return self._refuse(items[0], first, part)
        parts: list[Part] = []
        for position, item in enumerate(items):
            part = self._part([item])
            if isinstance(part, Part):
                parts.append(part)
                continue
            parts += self._refuse(item, first + position, part)
            if self.exhausted:
                break
        return parts

    def _part(self, items: Sequence[Any]) -> Part | SerializationError:
        """Return items encoded; or why they cannot be, so that what is raised next has nothing to do with it."""
        try:
            return Part(self._payload(items), len(items))
        except SerializationError as error:
            return error

    def _payload(self, items: Sequence[Any]) -> Payload:
        payload = self._codec.encode(items)
        return payload if self._contained or self._settled >= TRUST_AFTER else copied(payload)

    def _refuse(self, item: Any, index: int, error: SerializationError) -> list[Part]:
        try:  # again, so that it says where it sits
            self._codec.encode((item,), labels=(f"items[{index}]",))
        except SerializationError as named:
            error = named
        if not self._keep_going:
            error.add_note("With errors='return' that item fails alone, and the rest goes on.")
            self.close(error)
            return []
        self.refused[index] = error
        return [Part(NOTHING, 1)]


def is_container(iterable: Iterable[Any]) -> bool:
    """Whether an iterable holds its items, rather than making them as they are asked for."""
    return isinstance(iterable, Collection)
