"""How much a process has published, where it can be read after the process was killed.

What a killed process had not sent is lost; but nobody may take it for nothing. So each publisher notes the number of
the last message of each topic in a file beside its socket, mapped into memory, which outlives the process. Subscribers
hold it open, and when the process is gone compare it with what has arrived.

============ ====== ==========================================================================================
offset        bytes  content
============ ====== ==========================================================================================
0             8      Unix time at which it was made, double
8             8      1 if topics are missing because the file is full, else 0
16            …      for each topic: its number (8), the length of its name (2), its name as UTF-8
============ ====== ==========================================================================================

A name of no length ends the list. Numbers are little-endian. A writer writes a topic's length last, so that a reader
never sees half of one.

Invariants: written by one thread at a time; bounded; only what the file system has room for is written through the map,
as anything else would kill the process (SIGBUS). The writer removes the file; if it was killed, whoever removes its
socket does.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
from pathlib import Path
from typing import BinaryIO, NamedTuple

__all__ = ["Counts", "Ledger", "ledger_path", "open_ledger", "read_ledger"]

#: Bytes of the file, which takes room only as far as it is written: the topics that a board keeps.
SIZE_BYTES = 1 << 20
#: Bytes by which it takes more room; a topic's name and number are far fewer.
STEP_BYTES = 1 << 14
_HEAD = struct.Struct("<dQ")
_NUMBER = struct.Struct("<Q")
_LENGTH = struct.Struct("<H")
_FRONT = _NUMBER.size + _LENGTH.size


class Counts(NamedTuple):
    """What a ledger says.

    Attributes:
        made: Unix time at which it was begun.
        full: Whether topics are missing, as there was no room for them.
        numbers: The number of the last message of each topic.
    """

    made: float
    full: bool
    numbers: dict[str, int]


def ledger_path(url: str) -> Path | None:
    """Return where the publisher at an address notes its numbers; ``None`` if that is not a file of this machine."""
    return Path(f"{url.removeprefix('ipc://')}.count") if url.startswith("ipc:///") else None


class Ledger:
    """The writing end.

    Args:
        path: The file, which must not exist.

    Raises:
        OSError: The file cannot be made, or there is no room for it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._room = 0
        try:
            os.ftruncate(self._descriptor, SIZE_BYTES)
            self._take_room(STEP_BYTES)
            self._map = mmap.mmap(self._descriptor, SIZE_BYTES)
        except BaseException:
            self.close()
            raise
        self._made = time.time()
        _HEAD.pack_into(self._map, 0, self._made, 0)
        self._places: dict[str, int] = {}
        self._end = _HEAD.size

    def note(self, topic: str, number: int) -> None:
        """Write down the number of a topic's last message."""
        place = self._places.get(topic)
        if place is None:
            place = self._add(topic)
        if place:
            _NUMBER.pack_into(self._map, place, number)

    def _add(self, topic: str) -> int:
        """Return the place of a new topic's number, 0 if there is no room."""
        name = topic.encode()
        end = self._end + _FRONT + len(name)
        try:
            self._take_room(end + _FRONT)
        except OSError:
            _HEAD.pack_into(self._map, 0, self._made, 1)
            return 0
        place = self._places[topic] = self._end
        self._map[place + _FRONT : end] = name
        _LENGTH.pack_into(self._map, place + _NUMBER.size, len(name))
        self._end = end
        return place

    def _take_room(self, end: int) -> None:
        """Have the file system keep room up to ``end``, or raise ``OSError``."""
        if end > SIZE_BYTES or self._descriptor < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        while self._room < end:
            self._room += os.pwrite(self._descriptor, bytes(min(STEP_BYTES, SIZE_BYTES - self._room)), self._room)

    def close(self) -> None:
        """Remove the file. What is noted after this goes nowhere. May be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        self._path.unlink(missing_ok=True)
        os.close(descriptor)


def open_ledger(url: str) -> BinaryIO | None:
    """Return the ledger of the publisher at an address, to be read later; ``None`` if it has none."""
    path = ledger_path(url)
    try:
        return path.open("rb", buffering=0) if path is not None else None
    except OSError:
        return None


def read_ledger(file: BinaryIO) -> Counts:
    """Read a ledger, which may be about to be written."""
    file.seek(0)
    data = file.read(SIZE_BYTES)
    if len(data) < _HEAD.size:
        return Counts(0.0, full=True, numbers={})
    made, full = _HEAD.unpack_from(data, 0)
    numbers: dict[str, int] = {}
    place = _HEAD.size
    while place + _FRONT <= len(data):
        (number,), (length,) = _NUMBER.unpack_from(data, place), _LENGTH.unpack_from(data, place + _NUMBER.size)
        name = data[place + _FRONT : place + _FRONT + length]
        if not length or len(name) < length:
            break
        numbers[name.decode(errors="replace")] = number
        place += _FRONT + length
    return Counts(made, bool(full), numbers)
