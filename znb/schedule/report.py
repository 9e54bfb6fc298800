"""The counts behind ``Scheduler.stats()``.

Invariants: a snapshot is frozen and holds no reference to live state. Owning thread: whichever drives the
``Scheduler``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from znb.schedule.records import GroupStats, SchedulerStats, WorkerStats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from znb.schedule.fleet import Fleet, Worker
    from znb.schedule.groups import Group

__all__ = ["Totals"]

#: What a worker has counted whose name is new.
_NOTHING = WorkerStats(
    worker=0,
    name="",
    state="lost",
    chunks=0,
    running=0,
    done=0,
    failed=0,
    retried=0,
    run_time=0.0,
    sent_bytes=0,
    received_bytes=0,
)


class Totals:
    """What groups and workers that are gone have counted."""

    __slots__ = ("_former", "cancelled", "done", "failed", "lost_workers", "retried")

    def __init__(self) -> None:
        self._former: dict[str, WorkerStats] = {}
        self.done = 0
        self.failed = 0
        self.cancelled = 0
        self.retried = 0
        self.lost_workers = 0

    def add(self, group: Group) -> None:
        """Keep the counts of a finished group."""
        self.done += group.done
        self.failed += group.failed
        self.cancelled += group.cancelled
        self.retried += group.retried

    def lose(self, worker: Worker) -> None:
        """Keep the counts of a worker that is gone, by its name."""
        self.lost_workers += 1
        lost = self._worker(worker)
        self._former[worker.name] = msgspec.structs.replace(lost, state="lost", chunks=0, running=0, groups=())

    def _worker(self, worker: Worker) -> WorkerStats:
        """Return a worker's counts, with those of its former incarnations."""
        state: Literal["idle", "running", "busy", "suspended"] = "running" if worker.queue else "idle"
        if worker.busy:
            state = "busy"
        if worker.suspended:
            state = "suspended"
        former = self._former.get(worker.name, _NOTHING)
        return WorkerStats(
            worker=worker.number,
            name=worker.name,
            state=state,
            chunks=len(worker.queue),
            running=sum(chunk.left() for chunk in worker.queue),
            done=worker.done + former.done,
            failed=worker.failed + former.failed,
            cancelled=worker.cancelled + former.cancelled,
            retried=worker.retried + former.retried,
            run_time=worker.run_time + former.run_time,
            sent_bytes=worker.sent_bytes + former.sent_bytes,
            received_bytes=worker.received_bytes + former.received_bytes,
            groups=tuple(dict.fromkeys(chunk.group.number for chunk in worker.queue)),
        )

    def snapshot(self, groups: Iterable[Group], fleet: Fleet, holding: Iterable[Worker]) -> SchedulerStats:
        """Return the counts of this moment.

        Args:
            groups: The groups that are not finished.
            fleet: The live workers.
            holding: Workers with a chunk that is not sent yet; its jobs count as queued.
        """
        held: dict[int, int] = {}
        for worker in holding:
            if worker.held is not None:
                number = worker.held.group.number
                held[number] = held.get(number, 0) + worker.held.stop - worker.held.next
        rows = tuple(_group_stats(group, held.get(group.number, 0), fleet.eligible(group.targets)) for group in groups)
        workers = tuple(self._worker(worker) for worker in fleet.workers.values())
        gone = tuple(former for name, former in self._former.items() if fleet.named(name) is None)
        everyone = (*workers, *gone)
        return SchedulerStats(
            queued=sum(row.queued for row in rows),
            running=sum(row.running for row in rows),
            done=self.done + sum(row.done for row in rows),
            failed=self.failed + sum(row.failed for row in rows),
            cancelled=self.cancelled + sum(row.cancelled for row in rows),
            retried=self.retried + sum(row.retried for row in rows),
            lost_workers=self.lost_workers,
            sent_bytes=sum(worker.sent_bytes for worker in everyone),
            received_bytes=sum(worker.received_bytes for worker in everyone),
            groups=rows,
            workers=workers,
            gone=gone,
        )


def _group_stats(group: Group, held: int, eligible: int) -> GroupStats:
    queued = group.queued + held
    return GroupStats(
        group=group.number,
        queued=queued,
        running=group.fed - queued - group.done - group.failed - group.cancelled,
        done=group.done,
        failed=group.failed,
        cancelled=group.cancelled,
        retried=group.retried,
        undelivered=group.fed - group.taken if group.pulled else 0,
        job_time=group.job_time,
        chunk_size=group.cap,
        eligible=eligible,
    )
