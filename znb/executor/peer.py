"""What a client's jobs know of one incarnation of a worker.

The reactor's thread owns it.
"""

from __future__ import annotations

import zmq

from znb.executor.groups import Group
from znb.link import Link

__all__ = ["Peer"]


class Peer:
    """One incarnation of a worker, as far as jobs go."""

    __slots__ = ("defined", "known", "link", "number", "printing", "socket", "unacknowledged")

    def __init__(self, link: Link, number: int, socket: zmq.Socket[bytes]) -> None:
        self.link = link
        self.number = number
        self.socket = socket
        self.known: set[bytes] = set()
        self.defined: set[int] = set()
        #: The job that has printed last, and its attempt, if it may go on.
        self.printing: tuple[Group, int, int] | None = None
        self.unacknowledged = 0
