"""The last words of a worker: a ring in shared memory that survives the process.

A worker that is killed takes with it what it had printed a moment before and not yet sent. So everything it prints also
goes into this ring, which is part of its crash file; the zygote reads it when the process is dead.

=================== ==========================================================
bytes of the region  content
=================== ==========================================================
0 … 7                how many bytes were ever written, in this machine's order
8 … 15               how many of them when the present cell or job began
16 … 16 + SIZE       the last ``SIZE`` of them, as a ring
=================== ==========================================================

Invariants: a write costs a copy and no system call; what is read may lack the write that was under way at the death.
Where the file system has no room for the region, words go nowhere: to write to it would kill the process (SIGBUS).
One thread writes at a time (the capture's lock); ``begin`` is for any. The file also holds faulthandler's dump, at its
beginning.
"""

from __future__ import annotations

import mmap
import os

__all__ = ["Journal", "read_journal"]

#: Where the region begins in the crash file: a multiple of any page size, beyond any dump.
OFFSET = 1 << 20
#: Bytes of text that are kept: a screenful.
SIZE = 4096
_HEADER = 16


class Journal:
    """The writing end.

    Args:
        fd: The crash file; stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        size = _HEADER + SIZE
        os.ftruncate(fd, OFFSET + size)
        try:
            room = os.pwrite(fd, bytes(size), OFFSET) == size
        except OSError:
            room = False
        region = memoryview(mmap.mmap(fd, size, offset=OFFSET) if room else mmap.mmap(-1, size))
        self._counts = region[:_HEADER].cast("Q")
        self._ring = region[_HEADER:]
        self._written = 0

    def write(self, text: str) -> None:
        """Append text."""
        data = text.encode("utf-8", "surrogatepass")
        size = len(data)
        start = self._written % SIZE
        if start + size <= SIZE:
            self._ring[start : start + size] = data
        else:
            data = data[-SIZE:]
            start = (self._written + size - len(data)) % SIZE
            first = data[: SIZE - start]
            self._ring[start : start + len(first)] = first
            self._ring[: len(data) - len(first)] = data[len(first) :]
        self._written += size
        self._counts[0] = self._written

    def begin(self) -> None:
        """Forget what was written so far: another cell or job begins, or none runs any more."""
        self._counts[1] = self._written


def read_journal(fd: int) -> str:
    """Return the last words in a crash file, of the cell or job that ran; empty if there are none."""
    region = os.pread(fd, _HEADER + SIZE, OFFSET)
    if len(region) < _HEADER + SIZE:
        return ""
    written, begun = memoryview(region)[:_HEADER].cast("Q")
    ring = region[_HEADER:]
    start = written % SIZE
    words = ring[:written] if written <= SIZE else ring[start:] + ring[:start]
    new = min(written - begun, len(words))
    text = words[len(words) - new :].decode("utf-8", "replace")
    if written - begun <= SIZE:
        return text
    return text.partition("\n")[2] or text  # its first line has lost its beginning
