"""Calls that wait for their time: a heap of timers.

Invariants: a cancelled timer holds nothing and is never called; cancelled ones do not pile up. One thread owns it.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Timer", "Timers"]

#: Seconds that one poll may last: far timers are looked at again then (poll counts milliseconds in 32 bits).
LONGEST_POLL = 3600.0
#: Cancelled timers that may wait in the heap for their time, before it is rebuilt without them.
CANCELLED_MAX = 64


class Timer:
    """A pending call."""

    __slots__ = ("_args", "_fn", "_timers")

    def __init__(self, timers: Timers, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._timers = timers
        self._fn: Callable[..., object] | None = fn
        self._args = args

    @property
    def cancelled(self) -> bool:
        """Whether the call will not happen (any more): it was cancelled, or has been made."""
        return self._fn is None

    def cancel(self) -> None:
        """Make sure that the call does not happen, and let go of its arguments.

        On the reactor's thread; may be called twice, and after the call.
        """
        if self._fn is not None:
            self._fn, self._args = None, ()
            self._timers.forget()

    def take(self) -> tuple[Callable[..., object], tuple[Any, ...]] | None:
        """Return what to call, once; ``None`` if it was cancelled."""
        fn, args = self._fn, self._args
        self._fn, self._args = None, ()
        return None if fn is None else (fn, args)


class Timers:
    """Pending calls in the order of their time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, delay: float, fn: Callable[..., object], args: tuple[Any, ...]) -> Timer:
        """Return a timer for ``fn(*args)`` in ``delay`` seconds."""
        timer = Timer(self, fn, args)
        heapq.heappush(self._heap, (time.monotonic() + delay, next(self._order), timer))
        return timer

    def due(self) -> Iterator[tuple[Callable[..., object], tuple[Any, ...]]]:
        """Yield the calls whose time has come."""
        if not self._heap:
            return
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            call = heapq.heappop(self._heap)[2].take()
            if call is None:
                self._cancelled = max(0, self._cancelled - 1)
            else:
                yield call

    def milliseconds_left(self) -> int | None:
        """Return the time until the next call, rounded up and bounded; ``None`` if there is none."""
        while self._heap and self._heap[0][2].cancelled:
            heapq.heappop(self._heap)
            self._cancelled = max(0, self._cancelled - 1)
        if not self._heap:
            return None
        left = min(self._heap[0][0] - time.monotonic(), LONGEST_POLL)
        return max(0, int(left * 1000) + 1)

    def forget(self) -> None:
        """Note that a timer was cancelled; rebuild the heap when most are."""
        self._cancelled += 1
        if self._cancelled > CANCELLED_MAX and self._cancelled > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if not entry[2].cancelled]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def clear(self) -> None:
        """Drop all of them."""
        self._heap.clear()
