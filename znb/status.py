"""What a cluster's workers do: immutable records for people, panels and programs.

Widgets, the command line and ``%znb cluster status`` take a ``ClusterStatus``; none of them holds a live cluster.
"""

from __future__ import annotations

import concurrent.futures
import html
import platform
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psutil

from znb.errors import CallTimeout, WorkerLost, ZnbError
from znb.lifecycle import WorkerStatus as Member
from znb.link import Link
from znb.schedule import SchedulerStats

__all__ = ["ClusterStatus", "JobStats", "WorkerInfo", "WorkerJobs", "WorkerStatus"]

#: Seconds within which a worker's I/O thread answers unless its interpreter is held or stopped.
ANSWER_TIMEOUT = 0.5
#: The same for one on another machine, to which a connection may be being made: some trips there and back.
FAR_ANSWER_TIMEOUT = 2.0
#: What a worker counts of its jobs.
COUNTED = ("queued", "running", "done", "failed", "cancelled", "retried")


class WorkerJobs(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs on one worker.

    Attributes:
        name: The worker's stable name.
        queued: Jobs that lie there and have not begun.
        running: 1 while a job runs there, else 0.
        done: Jobs that ended there with a value.
        failed: Jobs that ended there with an error.
        cancelled: Jobs that were cancelled while they ran there.
        retried: Jobs that were run again, or have to be, because their worker died or ``retry_on`` says so.
        sent_bytes: Bytes that went to the worker for jobs.
        received_bytes: Bytes that came from it.
        run_time: Seconds that its jobs took; 0 where that is not known.
    """

    name: str
    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    run_time: float = 0.0


class JobStats(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs that one process has given to a cluster, since it attached to it.

    Attributes:
        queued: Jobs that have not begun, here or at a worker.
        running: Jobs that run.
        done: Jobs that ended with a value.
        failed: Jobs that ended with an error, timeouts and lost workers included.
        cancelled: Jobs that were cancelled.
        retried: Runs again after the death of a worker or after ``retry_on``.
        lost_workers: Processes of workers that died or were replaced.
        sent_bytes: Bytes that went to workers for jobs.
        received_bytes: Bytes that came from workers.
        workers: The workers, in the order in which they came; the counts go on when a process is replaced.
    """

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    lost_workers: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    workers: tuple[WorkerJobs, ...] = ()

    @classmethod
    def of(cls, stats: SchedulerStats) -> JobStats:
        """Tell what a scheduler has counted as a user sees it: a job that lies at a worker waits."""
        workers = tuple(
            WorkerJobs(
                name=row.name,
                queued=row.running - (running := int(row.state == "running" and row.running > 0)),
                running=running,
                done=row.done - row.failed - row.cancelled,
                failed=row.failed,
                cancelled=row.cancelled,
                retried=row.retried,
                sent_bytes=row.sent_bytes,
                received_bytes=row.received_bytes,
                run_time=row.run_time,
            )
            for row in sorted((*stats.workers, *stats.gone), key=lambda row: row.worker)
        )
        running = sum(worker.running for worker in workers)
        return cls(
            queued=max(0, stats.queued + stats.running - running),
            running=running,
            done=stats.done,
            failed=stats.failed,
            cancelled=stats.cancelled,
            retried=stats.retried,
            lost_workers=stats.lost_workers,
            sent_bytes=stats.sent_bytes,
            received_bytes=stats.received_bytes,
            workers=workers,
        )

    def counts(self) -> dict[str, int]:
        """Return the counts of jobs, by name."""
        names = ("queued", "running", "done", "failed", "cancelled", "retried")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"<jobs: {self}>"

    def __str__(self) -> str:
        """Say it in a line."""
        said = ", ".join(f"{count:,} {name}" for name, count in self.counts().items() if count) or "none"
        return f"{said}; {size_text(self.sent_bytes)} sent, {size_text(self.received_bytes)} received"


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker at one moment.

    Attributes:
        name: Stable name.
        pid: Process id.
        host: Name of its machine.
        state: ``starting``, ``idle``, ``busy``, ``frozen`` (stopped by a signal), ``silent`` (its interpreter is held
            by native code) or ``lost``.
        running: What it runs, or empty.
        seconds: For how long.
        queued: Cells and chunks of jobs that wait for it.
        restarts: How often its process was replaced.
        memory_bytes: Resident set size, where it can be seen.
        cpu_time: User and system time used, in seconds.
        jobs: Everybody's jobs there, since its process began; ``None`` where it does not answer.
        stats: Everything else that the worker tells.
    """

    name: str
    pid: int
    host: str
    state: str
    running: str = ""
    seconds: float = 0.0
    queued: int = 0
    restarts: int = 0
    memory_bytes: int = 0
    cpu_time: float = 0.0
    jobs: WorkerJobs | None = None
    stats: dict[str, Any] = {}


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster at one moment.

    Attributes:
        name: Its name.
        where: Where its workers are.
        workers: The workers, in order.
        jobs: What this process has given it to do.
    """

    name: str
    where: str
    workers: tuple[WorkerStatus, ...]
    jobs: JobStats = JobStats()

    @classmethod
    def take(cls, name: str, where: str, workers: Sequence[WorkerInfo], jobs: JobStats) -> ClusterStatus:
        """Ask all workers at once what they do."""
        if not workers:
            return cls(name=name, where=where, workers=(), jobs=jobs)
        with concurrent.futures.ThreadPoolExecutor(min(32, len(workers))) as pool:
            return cls(name=name, where=where, workers=tuple(pool.map(WorkerInfo.status, workers)), jobs=jobs)

    def rows(self) -> list[tuple[str, ...]]:
        """Return a table for people: a header, and a row for each worker."""
        far = len({w.host for w in self.workers} | {platform.node()}) > 1
        header = ("worker", *(("host",) if far else ()), "state", "pid", "memory", "restarts")
        counted = ("queued", "done", "failed", "cancelled", "retried")
        rows: list[tuple[str, ...]] = [(*header, *counted, "bytes", "runs")]
        for w in self.workers:
            jobs = w.jobs
            counts: tuple[str, ...] = ("",) * 6
            if jobs is not None:
                numbers = (f"{getattr(jobs, name):,}" for name in counted)
                counts = (*numbers, size_text(jobs.sent_bytes + jobs.received_bytes))
            runs = f"{w.running} ({w.seconds:.0f} s)" if w.running else ""
            name = (w.name, w.host) if far else (w.name,)
            rows.append((*name, w.state, str(w.pid), size_text(w.memory_bytes), str(w.restarts), *counts, runs))
        return rows

    def _title(self) -> str:
        title = f"cluster {self.name!r} on {self.where}, {count_of(len(self.workers), 'worker')}"
        return f"{title}; jobs from here: {self.jobs}" if any(self.jobs.counts().values()) else title

    def __str__(self) -> str:
        """Return the table as text."""
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self._title(), *lines])

    def to_html(self) -> str:
        """Return the table as HTML; it takes its colours from the notebook."""
        head, *body = [[html.escape(cell) for cell in row] for row in self.rows()]
        lines = ["<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in row) + "</tr>" for row in body]
        header = "".join(f'<th scope="col" style="text-align:left">{cell}</th>' for cell in head)
        title = html.escape(self._title(), quote=False)
        return (
            f"<table><caption>{title}</caption><thead><tr>{header}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        )


class WorkerInfo:
    """A worker, as ``cluster.workers`` lists it.

    Attributes:
        name: Stable name.
        pid: Process id of its present process.
        host: Name of its machine.
        generation: 1 for its first process, one more for each replacement.
    """

    def __init__(self, link_of: Callable[[str], Link | None], member: Member) -> None:
        self._link_of = link_of
        self._member = member
        self.name = member.name
        self.pid = member.pid
        self.host = member.host or platform.node()
        self.generation = member.generation

    def __repr__(self) -> str:
        return f"<{self.name} {self.state}, pid {self.pid}>"

    @property
    def state(self) -> str:
        """What the worker is up to (see ``WorkerStatus.state``)."""
        return self.status().state

    def stats(self) -> dict[str, Any]:
        """Return what the worker tells about itself: times, memory, jobs.

        Raises:
            WorkerLost: Its process is gone.
            CallTimeout: It does not answer.
        """
        link = self._link_of(self.name)
        if link is None:
            raise WorkerLost(self.name, "has no process at the moment")
        return dict(link.control("_znb_stats", timeout=FAR_ANSWER_TIMEOUT if self._member.host else ANSWER_TIMEOUT))

    def load(self) -> tuple[int, float]:
        """Return what to compare when the least busy worker is wanted: queue length, then time in the current cell."""
        status = self.status()
        return (status.queued + (status.state != "idle"), status.seconds)

    def status(self) -> WorkerStatus:
        """Return what the worker does now; never waits longer than ``FAR_ANSWER_TIMEOUT``."""
        common: dict[str, Any] = {
            "name": self.name,
            "pid": self.pid,
            "host": self.host,
            "restarts": self.generation - 1,
        }
        link = self._link_of(self.name)
        if link is None:
            return WorkerStatus(**common, state="lost" if self._member.state == "dead" else "starting")
        memory = 0 if self._member.host else _memory(self.pid)
        try:
            stats = self.stats()
        except CallTimeout:
            return WorkerStatus(**common, state="frozen" if link.frozen() else "silent", memory_bytes=memory)
        except ZnbError:
            return WorkerStatus(**common, state="lost")
        running = stats.pop("running") or {}
        return WorkerStatus(
            **common,
            state="busy" if running else "idle",
            running=running.get("label", ""),
            seconds=running.get("seconds", 0.0),
            queued=running.get("queued", 0),
            memory_bytes=memory or stats.get("rss_bytes", 0),
            cpu_time=stats["user_time"] + stats["system_time"],
            jobs=WorkerJobs(
                name=self.name,
                **{name: stats.pop(f"jobs_{name}", 0) for name in COUNTED},
                # What it has received was sent to it.
                sent_bytes=stats.pop("received_bytes"),
                received_bytes=stats.pop("sent_bytes"),
            ),
            stats=stats,
        )


def _memory(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def size_text(size_bytes: int) -> str:
    """Return a number of bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= size:
            return f"{size_bytes / size:.{int(size_bytes < 10 * size)}f} {unit}"
    return f"{size_bytes} B"


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 worker``, ``2 workers``."""
    return f"{number} {noun}{'s' * (number != 1)}"
