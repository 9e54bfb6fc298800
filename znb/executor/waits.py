"""Why jobs that lie at workers do not begin: what the workers run instead.

A scheduler knows which jobs it has sent, not whether the worker has got as far; so the workers are asked.

Any thread; blocks for ``ANSWER_TIMEOUT`` at most.
"""

from __future__ import annotations

import os
import queue
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from znb.errors import NoWorkers
from znb.link import Link
from znb.rpc import Lost
from znb.schedule import SchedulerStats

__all__ = ["awaited_folder", "explain_queue", "explain_wait"]

#: Seconds within which a worker's I/O thread answers, unless its interpreter is held or stopped.
ANSWER_TIMEOUT = 0.5
#: Seconds between two looks whether all workers wait, before that is taken to be so for good.
CONFIRM_AFTER = 0.3
#: Where a thread is that waits for jobs: module and function.
WAITS = frozenset((("znb.executor.futures", "wait_done"), ("znb.executor.mapflow", "_wait_result")))


class Busy(NamedTuple):
    """Why jobs do not begin.

    Attributes:
        reason: What the workers do; empty if one has nothing to do, so that it is about to begin.
        stuck: Whether all of them run jobs that wait for other jobs of their own cluster.
        runs: Whether one of them runs jobs like these.
    """

    reason: str = ""
    stuck: bool = False
    runs: bool = False


def explain_queue(group: int, stats: SchedulerStats, links: Mapping[int, Link]) -> tuple[str, Sequence[Link]]:
    """Return why nothing of a group runs, as far as the scheduler knows, and else which workers may tell.

    Args:
        group: The group's number.
        stats: What the scheduler knows.
        links: The workers, by number.
    """
    found = next((row for row in stats.groups if row.group == group), None)
    if found is None:
        return "", ()
    if not found.eligible:
        return "none of the workers it may run on is there", ()
    frozen = [link.name for link in links.values() if link.frozen()]
    if frozen:
        return f"{', '.join(frozen)} is frozen (stopped by a signal)", ()
    if found.queued and not found.running:
        return "every worker is busy with something else", ()
    return "", [links[row.worker] for row in stats.workers if group in row.groups]


def explain_wait(holders: Sequence[Link], workers: Sequence[Link], label: str) -> str:
    """Say what the workers do in place of jobs of this label; empty if one runs those, or is about to.

    Args:
        holders: The workers that have the jobs.
        workers: All of them: the jobs may move, unless who has them does not answer.
        label: What the jobs are called.

    Raises:
        NoWorkers: All of them wait for jobs, as this one does, so that none can ever run.
    """
    busy = _explain_busy(workers, label)
    if busy.runs:
        return ""
    if busy.stuck and os.getpid() in {link.pid for link in workers}:
        time.sleep(CONFIRM_AFTER)
        if _explain_busy(workers, label).stuck:
            raise NoWorkers(
                f"{label} can never run: every worker runs a job that waits for other jobs of this cluster "
                f"({busy.reason}). Have more workers than jobs that wait (cluster.scale), or submit the inner jobs "
                f"from outside"
            )
    return busy.reason or _explain_busy(holders, label).reason


def _explain_busy(links: Sequence[Link], label: str) -> Busy:
    answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    silent = {link.name for link in links}
    for link in links:
        _ask(link, answers)
    deadline = time.monotonic() + ANSWER_TIMEOUT
    reasons = {}
    waiting = 0
    idle = False
    while silent:
        try:
            name, running = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        silent.discard(name)
        if running is None or isinstance(running, Lost):
            idle = True
            continue
        if running["label"] == label and not running["waits"]:
            return Busy(runs=True)
        waiting += running["waits"]
        reasons[name] = f"{name} is busy with {running['label']} for {running['seconds']:.0f} s"
    if idle:
        return Busy()
    reasons |= {link.name: f"{link.name} {link.explain_silence()}" for link in links if link.name in silent}
    return Busy("; ".join(reasons[link.name] for link in links), stuck=0 < len(links) == waiting)


def awaited_folder(thread: int) -> str:
    """Return the folder of the cluster whose jobs a thread waits for; empty if it does not. On any thread.

    Source: ``WAITS`` names the functions that wait, and what their ``self`` is asked.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) in WAITS:
            return str(frame.f_locals["self"].awaited_folder())
        frame = frame.f_back
    return ""


def _ask(link: Link, answers: queue.SimpleQueue[tuple[str, Any]]) -> None:
    link.control_nowait("_znb_ping", None, lambda answer: answers.put((link.name, answer)))
