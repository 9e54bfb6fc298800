"""Moving jobs that wait at a slow, busy or suspended worker to one that has nothing to do.

At the end of a map the last chunks wait behind a job that may be hundreds of times longer than the rest. A
worker without work therefore takes from the others: a ``Revoke`` asks for jobs not begun, and only when the
worker has confirmed them are they queued again, so that none can run twice.

Invariants: at most one unanswered steal per chunk and no more in all than there are idle workers; a look
costs at most ``LOOK`` candidates whatever the number of workers. Owning thread: whichever drives the
``Scheduler``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from znb.schedule.fleet import IDLE
from znb.schedule.records import Revoke

if TYPE_CHECKING:
    from znb.schedule.fleet import Chunk, Fleet, Worker
    from znb.schedule.records import Command

__all__ = ["Stealer"]

#: Seconds of work that must wait at a worker before some is moved: a few round trips.
WORTH = 0.001
#: Seconds without an outcome, beyond what the running chunk was expected to take, after which a worker counts as
#: stuck in a long job.
SILENCE = 0.005
#: Seconds until the next look after one that found too little.
PAUSE = 0.002
#: Workers considered in one look; bounds its cost with thousands of workers.
LOOK = 64


class Stealer:
    """Finds what to revoke.

    Attributes:
        pending: Steals that are unanswered.
        again: When the next look makes sense.
    """

    __slots__ = ("_candidates", "again", "pending")

    def __init__(self) -> None:
        self._candidates: deque[Worker] = deque()
        self.pending = 0
        self.again = 0.0

    def note(self, worker: Worker) -> None:
        """Remember that this worker holds something that another one could take."""
        if not worker.listed:
            worker.listed = True
            self._candidates.append(worker)

    def answered(self, chunk: Chunk) -> None:
        """Count a steal as over: answered, or moot because its chunk is gone."""
        if chunk.stealing:
            chunk.stealing = False
            self.pending -= 1

    def next_look(self, fleet: Fleet) -> float | None:
        """Return when to look again, or ``None`` while there is nobody to take, or nothing to be taken."""
        if self._candidates and len(fleet.buckets[IDLE]) > self.pending:
            return self.again
        return None

    def look(self, fleet: Fleet, now: float, out: list[Command]) -> None:
        """Ask for jobs on behalf of the idle workers."""
        idle = len(fleet.buckets[IDLE]) - self.pending
        if idle <= 0 or now < self.again:
            return
        candidates = self._candidates
        asked = 0
        for _ in range(min(len(candidates), LOOK)):
            if asked == idle:
                break
            worker = candidates.popleft()
            chunk = _stealable(worker, fleet) if fleet.workers.get(worker.number) is worker else None
            if chunk is None:
                worker.listed = False
                continue
            candidates.append(worker)
            start = _first_to_take(worker, chunk, now)
            if start < chunk.stop:
                chunk.stealing = True
                asked += 1
                if _is_stuck(worker, now):
                    # What comes back is cut by measured run time, so let that know: the next may be as long.
                    worker.queue[0].group.measured(1, now - worker.heard)
                out.append(Revoke(worker.number, chunk.number, start, chunk.stop))
        self.pending += asked
        if asked < idle:
            self.again = now + PAUSE


def _stealable(worker: Worker, fleet: Fleet) -> Chunk | None:
    """Return the worker's last chunk of which something could run elsewhere."""
    stuck = worker.busy or worker.suspended
    for chunk in reversed(worker.queue):
        if chunk.stealing or chunk.begun or not chunk.left():
            continue
        if chunk is worker.queue[0] and not stuck and chunk.stop - chunk.next < 2:
            continue
        targets = chunk.group.targets
        if targets is None or any(name != worker.name and fleet.named(name) for name in targets):
            return chunk
    return None


def _is_stuck(worker: Worker, now: float) -> bool:
    """Tell whether the running job takes far longer than was expected of its chunk."""
    return not worker.suspended and not worker.busy and now - worker.heard >= SILENCE + worker.queue[0].cost


def _first_to_take(worker: Worker, chunk: Chunk, now: float) -> int:
    """Return the first job to ask for; ``chunk.stop`` if it is not worth while yet."""
    if worker.busy or worker.suspended:
        return chunk.next
    stuck = _is_stuck(worker, now)
    if chunk is not worker.queue[0]:
        return chunk.next if stuck or worker.backlog >= WORTH else chunk.stop
    if stuck:
        running, index = worker.running()
        return (index if running is chunk else chunk.next) + 1
    left = chunk.stop - chunk.next
    return chunk.stop - left // 2 if left * chunk.group.job_time >= 2 * WORTH else chunk.stop
