"""Room for file descriptors, found out before it runs out.

ZeroMQ ends the whole process (``abort``) when it cannot open a descriptor for a socket, so a kernel with a low
``ulimit -n`` would vanish without a word. A soft limit that is too low is raised as far as needed and allowed;
where that is not enough the user is told.

Source: setrlimit(2); ``zmq_assert`` and ``errno_assert`` in libzmq's ``signaler.cpp``, for the abort.
"""

from __future__ import annotations

import os
from pathlib import Path

from znb.errors import ZnbError

__all__ = ["ensure_descriptors"]

#: Descriptors that a client opens for each worker (five, on tcp eight, measured), and some for calls under way.
PER_WORKER = 10
#: Descriptors that a client opens however few its workers are (ten), with room for what the user's code opens; a
#: worker, which inherits the limit, opens 34 by itself.
BASE = 100
#: Where Linux lists the descriptors of this process.
OPEN = Path("/proc/self/fd")


def ensure_descriptors(workers: int) -> None:
    """Make sure that this process may open what a cluster of that size needs.

    Raises:
        ZnbError: It may not, and must not raise its limit itself.
    """
    if os.name != "posix":
        return
    import resource  # noqa: PLC0415 - there is no such module on other systems

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_open = len(os.listdir(OPEN)) if OPEN.is_dir() else BASE  # noqa: PTH208 - only counted
    needed = is_open + BASE + PER_WORKER * workers
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ZnbError(
            f"{workers} workers need about {needed} file descriptors in this process ({is_open} are open), but its "
            f"limit is {hard}; raise it (`ulimit -n {max(needed, 1024)}` before Jupyter is started) or take fewer "
            f"workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
