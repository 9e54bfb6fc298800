"""Signs: how the streams and services of a worker on another machine are found on the machine of its cluster's head.

Processes of one machine find each other by files in the runtime directory. A worker elsewhere *tells* what would be in
such a file: through a pipe to its agent, which passes it on to the head (``znb.launchers.line``), which puts it up
where it is looked for (``znb.launchers.board``). A sign that leads nowhere takes the earlier one of its key down.

Invariants: a process that is no such worker tells nothing; what a parent was told does not hold for its forked
children. Any thread may tell; signs arrive in that order.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Literal, NamedTuple

import msgspec

from znb.auth import Gate
from znb.control import encode_frame

__all__ = ["OUTSIDE", "Outside", "Place", "Sign"]


class Sign(msgspec.Struct, frozen=True):
    """Where something of a worker is found.

    Attributes:
        kind: What it is: its streams, or a service.
        key: Tells it from others of its kind and worker.
        url: Where it listens; empty if it does no more.
        record: What else a file on its own machine says of it (``znb.rpc.registry``).
    """

    kind: Literal["events", "service"]
    key: str
    url: str = ""
    record: bytes = b""


class Place(NamedTuple):
    """Where a worker on another machine may listen, and who sees to it that only its cluster is let in.

    Attributes:
        bind: An address whose port may be ``*``, or a range.
        gate: The worker's.
    """

    bind: str
    gate: Gate


class Outside:
    """What this process is for other machines."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._place: Place | None = None
        self._fd = -1
        self._pid = 0

    def settle(self, place: Place, fd: int) -> None:
        """Say where this process may listen, and which descriptor takes its signs."""
        self._place, self._fd, self._pid = place, fd, os.getpid()

    @property
    def place(self) -> Place | None:
        """Where it may listen; ``None`` for a process that is found on its own machine alone."""
        return self._place if self._pid == os.getpid() else None

    def tell(self, sign: Sign) -> None:
        """Have a sign put up, or taken down; a process that is no worker elsewhere need not."""
        if self.place is None:
            return
        frame = encode_frame(sign)
        with self._lock, contextlib.suppress(OSError):  # its agent is gone, and so will it be
            while frame:
                frame = frame[os.write(self._fd, frame) :]


#: This process. ``publish`` and ``expose`` are called from anywhere, so there is nobody who could hold it.
OUTSIDE = Outside()
