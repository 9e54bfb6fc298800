"""What this process is, and what it may use: its CPUs, and the Jupyter kernel that it may be.

Nothing here imports IPython: a process that has not imported it is no kernel.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Literal

__all__ = ["kernel_at_exit", "kernel_of_this_process", "usable_cpus"]


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kernel_of_this_process() -> Any:
    """Return the Jupyter kernel that this process is; ``None`` if it is none."""
    shell = getattr(sys.modules.get("IPython.core.getipython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None)


def kernel_at_exit() -> Literal["restarts", "ends", ""]:
    """Return ``"restarts"`` or ``"ends"`` if this process is a Jupyter kernel, else nothing."""
    kernel = kernel_of_this_process()
    if kernel is None:
        return ""
    message = getattr(kernel, "_shutdown_message", None)
    return "restarts" if message and message.get("content", {}).get("restart") else "ends"
