"""Where shared memory lies: tickets, the memory itself, and what other machines have of it (see ``znb.shared``).

Invariants: memory that has been sealed never changes. Any thread. Sources: memfd_create(2), proc_pid_fd(5), fcntl(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import platform
from pathlib import Path
from typing import Any

import msgspec

from znb.locks import Condition

__all__ = ["Places", "Ticket", "host_id", "make_memory", "places", "seal_memory", "write_at"]

#: Bytes to whose multiples buffers are aligned: a cache line, and the widest vector register.
ALIGNMENT = 64
#: Seals of the memory: no change of size or contents, and no other seals. ``fcntl`` names them from Python 3.13 on.
SEALS = 0x1 | 0x2 | 0x4 | 0x8
F_ADD_SEALS = 1033
#: Seconds after which it is looked again whether a holder is still there.
LOOK_EVERY = 1.0


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """Where an object lies, and how to recognise it.

    Attributes:
        host: The machine (``host_id``).
        pid: The process that put it.
        fd: Its descriptor there.
        device: With ``inode`` and ``size_bytes`` says whether the descriptor is still what it was.
        inode: See ``device``.
        size_bytes: Size of the memory.
        body: Offset and length of the pickle.
        table: Offset and length of the table of buffers.
        kind: What the object is, for messages.
        immutable: Whether one object serves all jobs of a process.
    """

    host: str
    pid: int
    fd: int
    device: int
    inode: int
    size_bytes: int
    body: tuple[int, int]
    table: tuple[int, int]
    kind: str
    immutable: bool

    @property
    def path(self) -> Path:
        """Where others open it."""
        return Path(f"/proc/{self.pid}/fd/{self.fd}")

    def leads_to(self, found: os.stat_result) -> bool:
        """Whether a file is the memory."""
        return (found.st_dev, found.st_ino, found.st_size) == (self.device, self.inode, self.size_bytes)

    def alive(self) -> bool:
        """Whether the memory can still be opened, so that more jobs may come for it."""
        try:
            return self.leads_to(self.path.stat())
        except OSError:
            return False


class Places:
    """Where the memory of other machines is found on this one: a table that the client's messages fill."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._known: dict[bytes, Ticket] = {}

    def learn(self, key: bytes, place: bytes) -> None:
        """Take note of the place of a memory, both encoded tickets."""
        with self._changed:
            self._known[key] = msgspec.msgpack.decode(place, type=Ticket)
            self._changed.notify_all()

    def forget(self, key: bytes) -> None:
        """Forget a memory."""
        with self._changed:
            self._known.pop(key, None)

    def find(self, ticket: Ticket) -> Ticket | None:
        """Return the ticket of the memory on this machine, if it is there."""
        with self._changed:
            known = self._known.get(msgspec.msgpack.encode(ticket))
        return known if known is not None and known.alive() else None

    def wait(self, ticket: Ticket, timeout: float) -> Ticket | None:
        """Return it when it is there; ``None`` if it has not come within ``timeout`` seconds."""
        left = timeout
        while (found := self.find(ticket)) is None and left > 0:
            with self._changed:
                self._changed.wait(min(left, LOOK_EVERY))
            left -= LOOK_EVERY
        return found


@functools.cache
def places() -> Places:
    """Return this process's table: unpickling has no other way to it."""
    return Places()


def make_memory() -> int:
    """Return the descriptor of new memory."""
    return os.memfd_create("znb-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def seal_memory(fd: int) -> int:
    """Have memory never change again; return its descriptor."""
    fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
    return fd


def write_at(fd: int, data: Any, position: int) -> int:
    """Write everything at a position; return the next position that is aligned."""
    view = memoryview(data).cast("B")
    while view.nbytes:
        written = os.pwrite(fd, view, position)
        view = view[written:]
        position += written
    return -(-position // ALIGNMENT) * ALIGNMENT


@functools.cache
def host_id() -> str:
    """Return what tells this machine, and this start of it, from all others."""
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{platform.node()}/{boot}"
