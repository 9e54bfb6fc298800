"""Ending a job that a worker still has: cancelled, or run for longer than its limit.

The job ends here at once, whatever the worker does; its outcome will not be delivered. The worker is asked to skip
it (``Revoke``) and, if it is the one that runs, to interrupt it. One that does not heed that within a grace costs its
worker the life: two seconds if it overran, longer if it was cancelled, because a call of native code that will return
some time is cheaper than the worker's namespace.

Invariants: a job is interrupted once at most; nobody is charged for what a worker is killed for here. Owning
thread: whichever drives the ``Scheduler``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from znb.schedule.records import Attempt, Fail, Interrupt, Kill, Revoke

if TYPE_CHECKING:
    from znb.schedule.fleet import Chunk, Worker
    from znb.schedule.placement import Placement

__all__ = ["interrupt", "overran", "stop_jobs", "watch"]


def stop_jobs(placement: Placement, chunk: Chunk, start: int, stop: int) -> None:
    """Have a worker skip jobs ``start`` up to ``stop``, all of which have ended here, or interrupt the one it runs."""
    out = placement.out
    worker = chunk.worker
    running, index = worker.running()
    last = out[-1] if out else None
    if isinstance(last, Revoke) and last.chunk == chunk.number and last.stop == start:
        # Many futures cancelled one by one are one command.
        out[-1] = Revoke(worker.number, chunk.number, last.start, stop)
    else:
        out.append(Revoke(worker.number, chunk.number, start, stop))
    if chunk is running and start <= index < stop:
        interrupt(placement, chunk, index)


def interrupt(placement: Placement, chunk: Chunk, index: int) -> None:
    """Interrupt a job that has ended here, once."""
    marks = chunk.mark()
    if index not in marks.interrupted:
        marks.interrupted.add(index)
        placement.out.append(Interrupt(chunk.worker.number, chunk.number, index, index in marks.late))
        placement.interrupted.append(chunk.worker)


def watch(placement: Placement, now: float, grace: float) -> None:
    """See to it that workers whose job has been interrupted heed that within ``grace`` seconds."""
    for worker in placement.interrupted:
        if worker.queue and not worker.overrun and not worker.busy:
            worker.overrun = True
            worker.grace = grace
            placement.deadlines.set(worker, now + grace)
    placement.interrupted.clear()


def overran(placement: Placement, worker: Worker, now: float, grace: float) -> bool:
    """End the job that overran its limit, or this run of it; return whether its worker, told before, has to go.

    Args:
        placement: The books.
        worker: Whose deadline has passed.
        now: Monotonic seconds.
        grace: Seconds that the job has to heed its interrupt.
    """
    out = placement.out
    chunk, index = worker.running()
    group = chunk.group
    if worker.overrun:
        if worker.busy or not chunk.is_stopped(index):  # it has heeded that, and another job runs
            worker.overrun = False
            placement.deadlines.presume(worker, now)
            return False
        worker.deadline = math.inf
        worker.condemned = True
        out.append(Kill(worker.number, group.number, index, worker.grace))
        return True
    if not chunk.is_stopped(index):
        chunk.mark().stopped.add(index)
        chunk.mark().late.add(index)
        before = group.attempts.get(index, ())
        reason = f"ran for longer than {group.job_timeout:g} s"
        if group.retry_timeouts and group.charge(index, Attempt(worker.name, reason)):
            worker.retried += 1
            group.put_back(index, index + 1, chunk.attempt + 1, 0)
            placement.line_up(group)
        else:
            group.attempts.pop(index, None)
            group.failed += 1
            out.append(Fail(group.number, index, "timeout", before))
    interrupt(placement, chunk, index)
    worker.overrun = True
    worker.grace = grace
    placement.deadlines.set(worker, now + grace)
    return False
