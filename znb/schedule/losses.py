"""What becomes of the jobs of a worker that is gone: who is charged, who may have run, who runs alone next.

A worker runs its jobs in order, so the oldest without an outcome is the one that ran, unless outcomes died
with the worker: a process that calls ``os._exit`` takes along what its I/O thread had not sent yet. So the
oldest (or the one that ``started`` named) is charged, and whatever else was there goes out again in pieces,
each alone at an idle worker, cut again at each death. A culprit among ten thousand is found in five deaths, and
no innocent job is charged twice, because a charged job runs alone and its next death is its own.

Invariants: at most one job is charged per death; none if the job that ran had ended here already, if
somebody else's cell ran, or if the worker was stopped on request. Owning thread: whichever drives the
``Scheduler``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from znb.schedule.groups import live_runs
from znb.schedule.records import Attempt, Fail, Loss

if TYPE_CHECKING:
    from znb.schedule.fleet import Chunk, Worker
    from znb.schedule.placement import Placement

__all__ = ["requeue"]

#: Seconds within which the outcomes of jobs that have ended arrive. After a longer silence, no job behind the oldest
#: one can have begun.
FLUSH_TIME = 0.1
#: Into how many pieces a chunk is cut when its worker died in a job that is not certain.
SPLIT = 8


def requeue(placement: Placement, lost: Worker, reason: str, now: float, *, charge: bool, ended: bool) -> Loss | None:
    """Queue again what a lost worker had, and charge or fail the job that ran, which is returned; ``None`` for none.

    Args:
        placement: The books.
        lost: The worker, already out of the fleet.
        reason: How it ended.
        now: Monotonic seconds.
        charge: Whether its death may be a job's fault.
        ended: Whether the process is known to have ended.
    """
    if not lost.queue:
        return None
    guilty, index = lost.running()
    reported = lost.reported() is not None
    alone = len(lost.queue) == 1 and guilty.stop - guilty.next == 1
    idle = lost.busy and not reported  # somebody else's cell was running
    charged = charge and not idle and not guilty.is_stopped(index)
    # What can have begun decides only what is said of a job, not what is done with it.
    exact = ended and (reported or alone or idle or now - lost.heard > FLUSH_TIME)
    attempt = Attempt(lost.name, reason)
    loss = None if idle else Loss(guilty.group.number, index, guilty.attempt, lost.heard)
    passed = False
    for chunk in lost.queue:
        begun = chunk.next if passed and exact else chunk.stop
        if chunk is guilty:
            passed = True
            if exact:
                begun = index if idle else index + 1
        limit = max(1, -(-(chunk.stop - chunk.next) // SPLIT)) if charged else chunk.limit
        _take_back(placement, chunk, index if charged and chunk is guilty else -1, begun, limit, attempt)
    lost.queue.clear()
    return loss


def _take_back(placement: Placement, chunk: Chunk, suspect: int, begun: int, limit: int, attempt: Attempt) -> None:
    """Queue again what is left of one chunk.

    Args:
        placement: The books.
        chunk: The chunk.
        suspect: The job to charge; -1 for none.
        begun: One past the last job that may have begun.
        limit: Above 0, the rest goes out alone, in chunks of at most so many jobs.
        attempt: What the suspect is charged.
    """
    group = chunk.group
    without = chunk.absent()
    if suspect >= 0:
        without.add(suspect)
        if group.charge(suspect, attempt):
            chunk.worker.retried += 1
            group.put_back(suspect, suspect + 1, chunk.attempt + 1, 1)
        else:
            group.failed += 1
            placement.out.append(Fail(group.number, suspect, "lost", group.attempts.pop(suspect)))
    for start, stop in live_runs(chunk.next, begun, without):
        group.put_back(start, stop, chunk.attempt + 1, limit)
    for start, stop in live_runs(begun, chunk.stop, without):
        group.put_back(start, stop, chunk.attempt, limit)
    placement.release(chunk)
    placement.line_up(group)
