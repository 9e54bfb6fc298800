"""The last words of a worker: a ring in shared memory that survives the process.

A worker that is killed takes with it what it had printed a moment before and not yet sent. So everything it prints also
goes into this ring, which is part of its crash file; the zygote reads it when the process is dead.

=================== ==========================================================
bytes of the region  content
=================== ==========================================================
0 … 7                how many bytes were ever written, little-endian
8 … 8 + SIZE         the last ``SIZE`` of them, as a ring
=================== ==========================================================

Invariants: a write costs a copy and no system call; what is read may lack the write that was under way at the death.
One thread writes at a time (the capture's lock). The file also holds faulthandler's dump, at its beginning.
"""

from __future__ import annotations

import mmap
import os

__all__ = ["Journal", "read_journal"]

#: Where the region begins in the crash file: a multiple of any page size, beyond any dump.
OFFSET = 1 << 20
#: Bytes of text that are kept: a screenful.
SIZE = 4096
_HEADER = 8


class Journal:
    """The writing end.

    Args:
        fd: The crash file; stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        os.ftruncate(fd, OFFSET + _HEADER + SIZE)
        self._map = mmap.mmap(fd, _HEADER + SIZE, offset=OFFSET)
        self._written = 0

    def write(self, text: str) -> None:
        """Append text."""
        data = text.encode("utf-8", "surrogatepass")
        total = self._written + len(data)
        data = data[-SIZE:]
        start = (total - len(data)) % SIZE
        first = data[: SIZE - start]
        self._map[_HEADER + start : _HEADER + start + len(first)] = first
        if len(first) < len(data):
            self._map[_HEADER : _HEADER + len(data) - len(first)] = data[len(first) :]
        self._written = total
        self._map[:_HEADER] = total.to_bytes(_HEADER, "little")


def read_journal(fd: int) -> str:
    """Return the last words in a crash file; empty if there are none."""
    region = os.pread(fd, _HEADER + SIZE, OFFSET)
    written = int.from_bytes(region[:_HEADER], "little")
    ring = region[_HEADER:]
    if not written or len(ring) < SIZE:
        return ""
    if written <= SIZE:
        return ring[:written].decode("utf-8", "replace")
    start = written % SIZE
    text = (ring[start:] + ring[:start]).decode("utf-8", "replace")
    return text.partition("\n")[2] or text
