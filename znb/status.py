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

__all__ = ["ClusterStatus", "WorkerInfo", "WorkerStatus"]

#: Seconds within which a worker's I/O thread answers unless its interpreter is held or stopped.
ANSWER_TIMEOUT = 0.5


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
    stats: dict[str, Any] = {}


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster at one moment."""

    name: str
    where: str
    workers: tuple[WorkerStatus, ...]

    @classmethod
    def take(cls, name: str, where: str, workers: Sequence[WorkerInfo]) -> ClusterStatus:
        """Ask all workers at once what they do."""
        if not workers:
            return cls(name=name, where=where, workers=())
        with concurrent.futures.ThreadPoolExecutor(min(32, len(workers))) as pool:
            return cls(name=name, where=where, workers=tuple(pool.map(WorkerInfo.status, workers)))

    def rows(self) -> list[tuple[str, ...]]:
        """Return a table for people: a header, and a row for each worker."""
        rows: list[tuple[str, ...]] = [("worker", "state", "pid", "memory", "restarts", "runs")]
        rows += [
            (w.name, w.state, str(w.pid), f"{w.memory_bytes / 1e6:.0f} MB", str(w.restarts),
             f"{w.running} ({w.seconds:.0f} s)" if w.running else "")
            for w in self.workers
        ]  # fmt: skip
        return rows

    def __str__(self) -> str:
        """Return the table as text."""
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([f"cluster {self.name!r} on {self.where}, {count_of(len(self.workers), 'worker')}", *lines])

    def to_html(self) -> str:
        """Return the table as HTML; it takes its colours from the notebook."""
        head, *body = [[html.escape(cell) for cell in row] for row in self.rows()]
        lines = ["<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in row) + "</tr>" for row in body]
        header = "".join(f'<th scope="col" style="text-align:left">{cell}</th>' for cell in head)
        title = (
            f"cluster {html.escape(self.name)} on {html.escape(self.where)}, {count_of(len(self.workers), 'worker')}"
        )
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
        self.host = platform.node()
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
        return dict(link.control("_znb_stats", timeout=ANSWER_TIMEOUT))

    def load(self) -> tuple[int, float]:
        """Return what to compare when the least busy worker is wanted: queue length, then time in the current cell."""
        status = self.status()
        return (status.queued + (status.state != "idle"), status.seconds)

    def status(self) -> WorkerStatus:
        """Return what the worker does now; never waits longer than ``ANSWER_TIMEOUT``."""
        common: dict[str, Any] = {
            "name": self.name,
            "pid": self.pid,
            "host": self.host,
            "restarts": self.generation - 1,
        }
        link = self._link_of(self.name)
        if link is None:
            return WorkerStatus(**common, state="lost" if self._member.state == "dead" else "starting")
        memory = _memory(self.pid)
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
            memory_bytes=memory,
            cpu_time=stats["user_time"] + stats["system_time"],
            stats=stats,
        )


def _memory(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 worker``, ``2 workers``."""
    return f"{number} {noun}{'s' * (number != 1)}"
