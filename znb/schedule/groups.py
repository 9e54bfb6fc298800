"""One group of jobs: what is waiting, how large the next chunk is, how much to pull from the source.

A group is one ``map`` call or one submit stream. Its jobs are the integers 0, 1, 2, … in the order fed, and
what waits is kept as ranges: one counter pair for jobs never sent, a heap of ranges for those that came
back. So a map over ten million items is a handful of integers here; only exceptions (a charged attempt, a
job cancelled while it waited) cost an entry each.

Invariants: ``queued`` is the number of jobs in ``[next, fed)`` and in ``returned``, less those in
``dropped``; ranges never overlap; lower jobs are sent first, because an ordered consumer waits for them.
Owning thread: whichever drives the ``Scheduler``; nothing here locks.

Chunk sizes follow guided self-scheduling (Polychronopoulos and Kuck, 1987): a share of what remains, bounded
above by measured run time and below by the cost of a message.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from znb.schedule.records import Attempt

__all__ = ["Group", "Piece", "live_runs"]

#: Seconds of work aimed at in one chunk: long against a message (0.1 ms), short against a person's patience,
#: and the most that a fair share or a death can be late by.
TARGET_TIME = 0.010
#: Seconds of work below which a chunk is not split further at the end: a message costs about a tenth of it.
FLOOR_TIME = 0.001
#: Jobs in one chunk at most, however short they are; bounds a message and what a death sends again.
MAX_CHUNK = 16_384
#: Weight of the newest chunk in the smoothed run time: about the last four chunks count.
SMOOTHING = 0.25
#: Seconds; the shortest run time believed, so that clocks too coarse for a job divide by something.
MIN_JOB_TIME = 1e-8
#: Jobs per worker that may be ahead of the consumer at any time: an ordered consumer that waits for one job
#: 500 times longer than the rest then leaves no worker idle.
AHEAD = 512

#: A range of waiting jobs: start, stop, attempt, limit. A limit above 0 says that a death in it was not
#: clear: the piece goes to an idle worker alone, in chunks of at most that many jobs, so that the next
#: death tells more. A charged job has the limit 1.
Piece = tuple[int, int, int, int]


def live_runs(start: int, stop: int, without: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of ``[start, stop)`` that are left when the jobs in ``without`` are taken out."""
    for hole in sorted(hole for hole in without if start <= hole < stop):
        if start < hole:
            yield start, hole
        start = hole + 1
    if start < stop:
        yield start, stop


class Group:
    """The scheduler's side of one map call or submit stream.

    Args:
        number: Its integer name.
        retries: Charged attempts that a job survives.
        job_timeout: Seconds that one job may run; ``None`` for no limit.
        chunksize: Jobs per chunk; ``None`` to follow measured run times.
        buffersize: Jobs that may be fed and not yet taken; ``None`` to follow the workers' pace.
        pulled: Whether a source is pulled from; otherwise jobs are fed as the caller submits them.
        weight: Share of the workers' time against other groups.
        targets: Names of the workers that may run it; ``None`` for all.
        retry_timeouts: Whether a job that overran its ``job_timeout`` is charged an attempt, and may run again.
    """

    __slots__ = (
        "asked",
        "attempts",
        "buffersize",
        "cancelled",
        "cap",
        "chunks",
        "chunksize",
        "done",
        "dropped",
        "exclusive",
        "exhausted",
        "failed",
        "fed",
        "floor",
        "job_time",
        "job_timeout",
        "low",
        "next",
        "number",
        "paused",
        "pulled",
        "queued",
        "ramp",
        "ready",
        "retried",
        "retries",
        "retry_timeouts",
        "returned",
        "sharers",
        "taken",
        "targets",
        "vtime",
        "weight",
    )

    def __init__(
        self,
        number: int,
        *,
        retries: int,
        job_timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
        pulled: bool,
        weight: float,
        targets: frozenset[str] | None,
        retry_timeouts: bool,
    ) -> None:
        self.number = number
        self.retries = retries
        self.job_timeout = job_timeout
        self.chunksize = chunksize
        self.buffersize = buffersize
        self.pulled = pulled
        self.weight = weight
        self.targets = targets
        self.retry_timeouts = retry_timeouts
        # With no retry to spare, a death must be certain: one job at a time on a worker of its own.
        self.exclusive = retries == 0 and chunksize is None
        self.fed = 0
        self.next = 0
        self.returned: list[Piece] = []
        self.dropped: set[int] = set()
        self.attempts: dict[int, tuple[Attempt, ...]] = {}
        self.queued = 0
        self.chunks = 0
        self.done = 0
        self.failed = 0
        self.cancelled = 0
        self.retried = 0
        self.taken = 0
        self.asked = 0
        self.exhausted = False
        self.ready = False
        # While so: what came back is sent, since a consumer may wait for it, and nothing new.
        self.paused = False
        self.vtime = 0.0
        self.job_time = 0.0
        self.ramp = 1
        self.cap = chunksize or 1
        self.floor = self.cap
        # At ``low`` waiting jobs, one round of chunks for those who share them, more are pulled.
        self.sharers = 1
        self.low = self.cap

    # --- what waits -------------------------------------------------------------------------------------

    def feed(self, count: int) -> int:
        """Append ``count`` jobs and return the number of the first."""
        first = self.fed
        self.fed += count
        self.queued += count
        self.asked = max(0, self.asked - count)
        return first

    def put_back(self, start: int, stop: int, attempt: int, limit: int) -> None:
        """Put jobs that came back in front of those never sent."""
        heappush(self.returned, (start, stop, attempt, limit))
        self.queued += stop - start

    def take(self, workers: int) -> Piece:
        """Remove and return the next chunk's jobs; there must be some (``queued > 0``).

        Args:
            workers: How many workers share the group.
        """
        size = self.cap
        if self.chunksize is None and size > 1:
            # While the source may have more, what is queued is shared out once; at its end half of it stays
            # back, so that the last chunks are small and uneven jobs even out.
            share = self.queued // (workers if self.pulled and not self.exhausted else 2 * workers)
            if share < size:
                size = max(share, self.floor)
        if self.returned or self.dropped:
            return self._take_exceptional(size)
        start = self.next
        stop = self.next = min(start + size, self.fed)
        self.queued -= stop - start
        return start, stop, 1, 1 if self.exclusive else 0

    def _take_exceptional(self, size: int) -> Piece:
        """Take from what came back, or around jobs that were cancelled while they waited."""
        dropped = self.dropped
        while True:
            came_back = bool(self.returned)
            if came_back:
                start, stop, attempt, limit = heappop(self.returned)
                stop = self._join(start, stop, attempt, limit, size)
            else:
                start, stop, attempt, limit = self.next, self.fed, 1, int(self.exclusive)
            while start < stop and start in dropped:
                dropped.remove(start)
                start += 1
            end = min(stop, start + (min(size, limit) if limit else size))
            if dropped:
                end = next((index for index in range(start, end) if index in dropped), end)
            if not came_back:
                self.next = end
            elif end < stop:
                heappush(self.returned, (end, stop, attempt, limit))
            if start < end:
                self.queued -= end - start
                return start, end, attempt, limit

    def _join(self, start: int, stop: int, attempt: int, limit: int, size: int) -> int:
        """Extend a range by its neighbours of the same kind, up to ``size``; return its new end."""
        returned = self.returned
        while limit == 0 and stop - start < size and returned:
            neighbour = returned[0]
            if neighbour[0] != stop or neighbour[2] != attempt or neighbour[3] != 0:
                break
            stop = heappop(returned)[1]
        return stop

    def drop(self, index: int) -> bool:
        """Forget a waiting job; return whether it was waiting."""
        waiting = self.next <= index < self.fed or any(start <= index < stop for start, stop, *_ in self.returned)
        if not waiting or index in self.dropped:
            return False
        self.dropped.add(index)
        self.queued -= 1
        self.attempts.pop(index, None)
        if self.queued == 0:
            self._clear()
        return True

    def drop_all(self) -> int:
        """Forget everything that waits; return how many jobs that were."""
        count = self.queued
        self.queued = 0
        self._clear()
        return count

    def _clear(self) -> None:
        self.returned.clear()
        self.dropped.clear()
        self.next = self.fed

    # --- attempts ---------------------------------------------------------------------------------------

    def charge(self, index: int, attempt: Attempt) -> bool:
        """Charge an attempt to a job; return whether it may run again."""
        charged = self.attempts[index] = (*self.attempts.get(index, ()), attempt)
        if len(charged) > self.retries:
            return False
        self.retried += 1
        return True

    # --- sizes ------------------------------------------------------------------------------------------

    def measured(self, count: int, run_time: float) -> None:
        """Learn from a chunk that has ended: ``count`` jobs ran for ``run_time`` seconds together."""
        sample = max(run_time / count, MIN_JOB_TIME)
        known = self.job_time
        job_time = self.job_time = known + SMOOTHING * (sample - known) if known else sample
        if self.chunksize is None and not self.exclusive:
            if 2 * count > self.ramp:
                self.ramp = min(2 * count, MAX_CHUNK)
            self.cap = max(1, min(self.ramp, int(TARGET_TIME / job_time)))
            self.floor = max(1, min(self.cap, int(FLOOR_TIME / job_time)))
            self.low = self.sharers * self.cap

    def wanted(self, workers: int) -> int:
        """Return how many more items to pull now; 0 for none.

        Two bounds: about two rounds of chunks wait here, so that no worker idles while the source is asked;
        and no more than ``buffersize`` jobs are ahead of the consumer. Without a ``buffersize`` that grows
        with what the consumer has taken, so that one who takes little never has much piled up for it.
        """
        self.sharers = workers = max(1, workers)
        self.low = workers * self.cap
        waiting = self.queued + self.asked
        target = 2 * self.low
        if self.exhausted or waiting > self.low:
            return 0
        limit = self.buffersize
        if limit is None:
            limit = AHEAD * workers + min(2 * target, self.taken)
        room = limit - (self.fed - self.taken) - self.asked
        need = target - waiting
        if room < min(need, limit // 4):
            return 0
        count = min(room, need)
        if self.chunksize is not None and count > self.chunksize:
            count -= count % self.chunksize
        return max(0, count)
