"""When a running job has overrun its ``job_timeout``, and when one that was interrupted must be killed.

Only the job that runs can overrun, so a worker has one deadline, and it moves with each job. The heap has one
entry per worker, looked at when it is due and put back if the deadline has moved on since: a million short
jobs under a long limit cost no entry each.

Invariants: ``worker.armed`` is the time of the worker's earliest entry; an entry at another time is stale.
Owning thread: whichever drives the ``Scheduler``.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from znb.schedule.fleet import Fleet, Worker

__all__ = ["Deadlines"]

#: Seconds added to the limit while a job is only presumed to run, because the worker has not reported its
#: start: a job that holds the GIL keeps that report from being sent, so there must be a limit without it.
PRESUMED = 1.0


class Deadlines:
    """One timer per worker."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []

    def set(self, worker: Worker, deadline: float) -> None:
        """Move a worker's deadline; infinity for none."""
        worker.deadline = deadline
        if deadline < worker.armed:
            worker.armed = deadline
            heappush(self._heap, (deadline, worker.number))

    def presume(self, worker: Worker, now: float) -> None:
        """Start the clock for the first job of the worker's queue, which is presumed to begin now.

        A job whose start was reported keeps the clock that it has.
        """
        if worker.reported() is not None:
            return
        worker.overrun = False
        limit = worker.queue[0].group.job_timeout if worker.queue and not worker.busy else None
        if limit is not None:
            self.set(worker, now + limit + PRESUMED)
        else:
            worker.deadline = math.inf

    def due(self, fleet: Fleet, now: float) -> Iterator[Worker]:
        """Yield the workers whose deadline has passed."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            when, number = heappop(heap)
            worker = fleet.workers.get(number)
            if worker is None or when != worker.armed:
                continue
            worker.armed = math.inf
            if worker.deadline <= now:
                yield worker
            if worker.deadline < worker.armed:
                self.set(worker, worker.deadline)

    def next(self) -> float | None:
        """Return when to look next."""
        return self._heap[0][0] if self._heap else None
