r"""The records of serialisation: payloads, definitions, and what a codec remembers of a function or class.

A body that refers to definitions is a protocol 5 pickle with a prefix, itself made of pickle opcodes, that names
them, so that a receiver knows what it lacks before anything runs::

    c znb.serialize.stream\n require\n      GLOBAL
    B <length, 4 bytes little endian> <rows>   BINBYTES; a row is token (16 bytes) and key (16 bytes)
    \x85 R 0                                   TUPLE1, REDUCE, POP
    ...                                        the pickle of the object; it names rows by their index

A *token* is the identity of one function or class object in the process that defined it; a *key* is a digest of its
contents at one moment.
"""

from __future__ import annotations

import struct
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from znb.errors import ZnbError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from znb.serialize.watch import Unchanged

__all__ = ["KEY_BYTES", "Definition", "Entry", "Frame", "MissingDefinitions", "Payload", "join_prefix", "split_prefix"]

#: Length of tokens and keys, in bytes: 128 bits, where a chance collision takes 2**64 definitions.
KEY_BYTES = 16

#: What a definition costs its holder beyond its frames, in bytes: function objects, dictionaries, registry entries.
DEFINITION_OVERHEAD = 4096

Frame = bytes | bytearray | memoryview

_PREFIX = b"cznb.serialize.stream\nrequire\nB"
_SUFFIX = b"\x85R0"
_LENGTH = struct.Struct("<I")
_ROW = 2 * KEY_BYTES


class MissingDefinitions(ZnbError):
    """A body refers to definitions that this process does not hold (any more): ask the sender for them.

    Attributes:
        keys: What is missing.
    """

    keys: tuple[bytes, ...]

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        count = len(keys)
        super().__init__(
            f"{count} definition{'s' if count != 1 else ''} not held here; the sender has to ship "
            f"{'them' if count != 1 else 'it'} again",
            keys=keys,
        )


@dataclass(frozen=True, slots=True)
class Payload:
    """An object made ready to travel.

    ``buffers`` are views on the caller's memory wherever possible: do not change an array between ``encode`` and the
    moment its payload was handed to the kernel (or copied); afterwards it is the caller's again.

    Attributes:
        body: Pickle protocol 5, with the prefix described above if it refers to definitions.
        buffers: Contiguous out-of-band buffers, zero copy.
        definitions: Keys of all definitions that the body needs, transitively, dependencies first.
        held: Keeps the definitions' frames in memory for as long as somebody may have to be sent them.
    """

    body: bytes
    buffers: tuple[memoryview | bytes, ...] = ()
    definitions: tuple[bytes, ...] = ()
    held: tuple[Definition, ...] = field(default=(), repr=False, compare=False)


class Definition:
    """The frames of one version of a function or class, and the object once it was loaded from them.

    Attributes:
        key: Digest of the contents.
        frames: Header, body, then out-of-band buffers.
        loaded: The function or class made from the frames, or ``None`` as long as nobody needed it.
        shared: Whether arrays made from the frames may have been written to since.
    """

    __slots__ = ("__weakref__", "frames", "key", "loaded", "shared", "size_bytes")

    def __init__(self, key: bytes, frames: Sequence[Frame]) -> None:
        self.key = key
        self.frames: tuple[Frame, ...] = tuple(frames)
        self.loaded: Any = None
        self.shared = False
        self.size_bytes = DEFINITION_OVERHEAD + sum(memoryview(frame).nbytes for frame in self.frames)


class Entry:
    """What a codec remembers of one function or class object, for as long as the object lives.

    Attributes:
        ref: The object, weakly.
        token: Its identity among processes.
        foreign: Whether it was loaded from a peer's definition.
        key: Digest of the last version made or loaded; empty before the first.
        watch: Tells whether that version still describes the object.
        needs: Entries of the classes that the definition refers to.
        encoded: A function's payload, and the entries and keys that it depends on.
    """

    __slots__ = ("__weakref__", "_learned", "_own", "encoded", "foreign", "key", "needs", "ref", "token", "watch")

    def __init__(self, ref: weakref.ref[Any], token: bytes, *, foreign: bool) -> None:
        self.ref = ref
        self.token = token
        self.foreign = foreign
        self.key = b""
        self.watch: Unchanged | None = None
        self.needs: tuple[Entry, ...] = ()
        self.encoded: tuple[Payload, tuple[tuple[Entry, bytes], ...]] | None = None
        self._own: Definition | None = None
        self._learned: Callable[[], Definition | None] | None = None

    @property
    def definition(self) -> Definition | None:
        """The last version; ``None`` before the first, or when a foreign one was dropped to save memory."""
        if self._own is not None:
            return self._own
        return self._learned() if self._learned is not None else None

    def own(self, definition: Definition, watch: Unchanged, needs: tuple[Entry, ...]) -> None:
        """Take a version that was made here; it is held as long as the object lives."""
        self._own, self._learned = definition, None
        self.key, self.watch, self.needs = definition.key, watch, needs

    def adopt(self, definition: Definition, watch: Unchanged, needs: tuple[Entry, ...]) -> None:
        """Take a version that a peer made; its store decides how long it is held."""
        self._own, self._learned = None, weakref.ref(definition)
        self.key, self.watch, self.needs = definition.key, watch, needs

    def clear(self) -> None:
        """Let go of everything: the object is gone. Entries refer to each other, and would wait for the collector."""
        self._own = self._learned = self.watch = self.encoded = None
        self.needs = ()


def join_prefix(rows: list[tuple[bytes, bytes]], pickled: bytes) -> bytes:
    """Return a body that names its definitions: pairs of token and key."""
    packed = b"".join([part for row in rows for part in row])
    return b"".join((_PREFIX, _LENGTH.pack(len(packed)), packed, _SUFFIX, pickled))


def split_prefix(body: bytes | memoryview) -> tuple[list[tuple[bytes, bytes]], int]:
    """Return the pairs of token and key that a body names, and where its object's pickle begins."""
    start = len(_PREFIX)
    if bytes(body[:start]) != _PREFIX:
        return [], 0
    (length,) = _LENGTH.unpack(body[start : start + 4])
    start += 4
    packed = bytes(body[start : start + length])
    rows = [(packed[at : at + KEY_BYTES], packed[at + KEY_BYTES : at + _ROW]) for at in range(0, length, _ROW)]
    return rows, start + length + len(_SUFFIX)
