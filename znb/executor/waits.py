"""Why jobs that lie at workers do not begin: what the workers run instead.

A scheduler knows which jobs it has sent, not whether the worker has got as far; so the workers are asked.

Any thread; blocks for ``ANSWER_TIMEOUT`` at most.
"""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from znb.link import Link
from znb.rpc import Lost

__all__ = ["Busy", "awaited_folder", "explain_busy"]

#: Seconds within which a worker's I/O thread answers, unless its interpreter is held or stopped.
ANSWER_TIMEOUT = 0.5
#: Where a thread is that waits for jobs: module and function.
WAITS = frozenset((("znb.executor.futures", "wait_done"), ("znb.executor.maps", "_wait_result")))


class Busy(NamedTuple):
    """Why jobs do not begin.

    Attributes:
        reason: What the workers do; empty if one runs jobs like these, or is about to.
        stuck: Whether all of them run jobs that wait for other jobs of their own cluster.
    """

    reason: str = ""
    stuck: bool = False


def explain_busy(links: Sequence[Link], label: str) -> Busy:
    """Say what workers do, if none of them runs jobs of this label.

    Args:
        links: The workers that have the jobs.
        label: What the jobs are called.
    """
    answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    silent = {link.name for link in links}
    for link in links:
        _ask(link, answers)
    deadline = time.monotonic() + ANSWER_TIMEOUT
    reasons = {}
    waiting = 0
    while silent:
        try:
            name, running = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if running is None or isinstance(running, Lost) or (running["label"] == label and not running["waits"]):
            return Busy()
        silent.discard(name)
        waiting += running["waits"]
        reasons[name] = f"{name} is busy with {running['label']} for {running['seconds']:.0f} s"
    reasons |= {name: f"{name} does not answer: its interpreter is held by native code" for name in silent}
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
