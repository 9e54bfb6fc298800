"""Which spans stand side by side: the lanes of a process.

Formats of nested intervals (speedscope, Chrome's threads) need that of two spans in one lane, one contains the other or
they do not overlap. Coroutines and open generators overlap, so a thread has as many lanes as it takes; a span goes into
its parent's if it fits, so that what one call did stays together, and else into one of its own thread.

Invariants: in a lane, intervals nest; rows come by start, the longer first. Pure.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from znb.traces.model import TraceData

__all__ = ["Lane", "lanes"]


class Lane:
    """Spans of one process that nest.

    Attributes:
        process: Index of the process.
        number: Which of its lanes.
        thread: Index of the thread.
        nth: Which of the lanes of that thread.
        rows: By start, the longer first.
    """

    __slots__ = ("_ends", "nth", "number", "process", "rows", "thread")

    def __init__(self, process: int, number: int, thread: int, nth: int) -> None:
        self.process = process
        self.number = number
        self.thread = thread
        self.nth = nth
        self.rows: list[int] = []
        self._ends: list[int] = []

    def take(self, row: int, start: int, end: int) -> bool:
        """Add a row if it fits; rows are offered by start."""
        ends = self._ends
        while ends and ends[-1] <= start:
            ends.pop()
        if ends and ends[-1] < end:
            return False
        ends.append(end)
        self.rows.append(row)
        return True

    @property
    def free_at(self) -> int:
        """When all of its spans have ended."""
        return self._ends[0] if self._ends else 0


def lanes(data: TraceData) -> list[Lane]:
    """Return the lanes of all processes, those of one process together."""
    table, finish = data.table, data.end_ns
    process_of = [number for number, _, _ in table.threads]
    starts, ends = table.start_ns, [end or finish for end in table.end_ns]
    found: list[list[Lane]] = [[] for _ in table.processes]
    of_thread: list[list[Lane]] = [[] for _ in table.threads]
    waiting: list[list[tuple[int, int]]] = [[] for _ in table.threads]  # by the time they are free
    lane_of: list[Lane | None] = [None] * len(table)
    for row in _by_start(starts, ends):
        start, end, parent, thread = starts[row], ends[row], data.parent[row], table.thread[row]
        process = process_of[thread]
        lane = lane_of[parent] if parent >= 0 else None
        if lane is None or lane.process != process or not lane.take(row, start, end):
            lane = _free(of_thread[thread], waiting[thread], start)
            if lane is None:
                lane = Lane(process, len(found[process]), thread, len(of_thread[thread]))
                found[process].append(lane)
                of_thread[thread].append(lane)
            lane.take(row, start, end)
            heapq.heappush(waiting[thread], (end, lane.nth))
        lane_of[row] = lane
    return [lane for group in found for lane in group]


def _free(lanes_there: list[Lane], waiting: list[tuple[int, int]], start: int) -> Lane | None:
    """Return a lane of a thread that is free, if there is one."""
    while waiting and waiting[0][0] <= start:
        _, nth = heapq.heappop(waiting)
        lane = lanes_there[nth]
        if lane.free_at <= start:
            return lane
        heapq.heappush(waiting, (lane.free_at, nth))  # it has been given more since
    return None


def _by_start(starts: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return rows by start, the longer first, those that came first before others."""
    rows = sorted(range(len(starts)), key=ends.__getitem__, reverse=True)
    rows.sort(key=starts.__getitem__)
    return rows
