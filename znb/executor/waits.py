"""Why jobs that lie at workers do not begin: what the workers run instead.

A scheduler knows which jobs it has sent, not whether the worker has got as far; so the workers are asked.

Any thread; blocks for ``ANSWER_TIMEOUT`` at most.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from typing import Any

from znb.link import Link
from znb.rpc import Lost

__all__ = ["explain_busy"]

#: Seconds within which a worker's I/O thread answers, unless its interpreter is held or stopped.
ANSWER_TIMEOUT = 0.5


def explain_busy(links: Sequence[Link], label: str) -> str:
    """Say what workers do, if none of them runs jobs of this label; empty if one does, or is about to.

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
    while silent:
        try:
            name, running = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if running is None or isinstance(running, Lost) or running["label"] == label:
            return ""
        silent.discard(name)
        reasons[name] = f"{name} is busy with {running['label']} for {running['seconds']:.0f} s"
    reasons |= {name: f"{name} does not answer: its interpreter is held by native code" for name in silent}
    return "; ".join(reasons[link.name] for link in links)


def _ask(link: Link, answers: queue.SimpleQueue[tuple[str, Any]]) -> None:
    link.control_nowait("_znb_ping", None, lambda answer: answers.put((link.name, answer)))
