"""The common part of all picklers: what goes out of band, and how functions and classes are told from the rest.

Everything is the C pickler. It calls ``reducer_override`` for whatever is not a builtin container or scalar: one Python
call of about 0.1 µs an object. Large buffers (NumPy arrays, pandas blocks, ``bytes``, ``bytearray``) are not copied:

- objects that offer a ``PickleBuffer`` come in through ``buffer_callback``;
- exact ``bytes`` and ``bytearray`` cannot be overridden, but the C pickler hands those of 64 kB or more to its file's
  ``write`` as they are, right after a write that ends in their opcode and length. ``seal`` takes that header off and
  puts opcodes in its place that read the next out-of-band buffer (CPython, ``Modules/_pickle.c``,
  ``_Pickler_write_bytes``).

Not shared between threads: a pickler belongs to one ``encode``.
"""

from __future__ import annotations

import pickle
import struct
import types
from typing import TYPE_CHECKING, Any, ClassVar

from znb.serialize import reducers, revive
from znb.serialize.names import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from znb.serialize.names import Importables

__all__ = ["PROTOCOL", "BasePickler", "Chunks", "seal"]

PROTOCOL = 5

#: Smallest buffer that goes out of band, in bytes. Below it copying into the body costs less than a frame of its own
#: on the wire (about 2 µs at both ends together).
OUT_OF_BAND_BYTES = 8 * 1024

#: From this size on the C pickler writes bytes past its frames (``FRAME_SIZE_TARGET``), in bytes.
_BYPASS_BYTES = 64 * 1024

_SHORT_HEADER = struct.Struct("<cI")  # BINBYTES
_LONG_HEADER = struct.Struct("<cQ")  # BINBYTES8, BYTEARRAY8
_READ_BYTES = b"cbuiltins\nbytes\n\x97\x85R"
_READ_BYTEARRAY = b"cbuiltins\nbytearray\n\x97\x85R"

#: Flags of types that derive from ``type`` or ``BaseException``.
_SPECIAL = (1 << 31) | (1 << 30)
_IS_TYPE = 1 << 31
#: Flag of types that are made at run time and so can be made again.
_HEAP_TYPE = 1 << 9


class Chunks(list[Any]):
    """What the C pickler writes, in order, with the out-of-band buffers where they belong in that order."""

    __slots__ = ()
    write = list.append

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of band; true if it is to stay in band."""
        if buffer.raw().nbytes < OUT_OF_BAND_BYTES:
            return True
        self.append(buffer)
        return False


def seal(chunks: Chunks) -> tuple[bytes, tuple[memoryview | bytes, ...]]:
    """Return the body and the out-of-band buffers of what was written."""
    if len(chunks) == 1:
        return chunks[0], ()
    parts: list[Any] = []
    buffers: list[memoryview | bytes] = []
    for chunk in chunks:
        kind = type(chunk)
        if kind is pickle.PickleBuffer:
            buffers.append(chunk.raw())
            continue
        if parts and (kind is bytes or kind is bytearray) and len(chunk) >= _BYPASS_BYTES:
            opened = _open_header(parts[-1], kind, len(chunk))
            if opened is not None:
                parts[-1] = opened
                buffers.append(chunk if kind is bytes else memoryview(chunk))
                continue
        parts.append(chunk)
    return b"".join(parts), tuple(buffers)


def _open_header(written: Any, kind: type, length: int) -> bytes | None:
    """Replace the header of in-band bytes at the end of a write by opcodes that read them out of band."""
    if type(written) is not bytes:
        return None
    if kind is bytearray:
        if written[-9:] == _LONG_HEADER.pack(b"\x96", length):
            return written[:-9] + _READ_BYTEARRAY
    elif written[-5:] == _SHORT_HEADER.pack(b"B", length & 0xFFFFFFFF) and length <= 0xFFFFFFFF:
        return written[:-5] + _READ_BYTES
    elif written[-9:] == _LONG_HEADER.pack(b"\x8e", length):
        return written[:-9] + _READ_BYTES
    return None


class BasePickler(pickle.Pickler):
    """The C pickler with hooks for functions, classes and odd builtin types.

    It has no constructor of its own, which would cost a third of a small ``encode``: give it the C pickler's
    arguments, then set its attributes.

    Attributes:
        names: What goes by reference.
    """

    __slots__ = ("names",)

    #: Reducers by exact type; subclasses extend it.
    table: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {
        **reducers.TABLE,
        type: lambda pickler, obj: pickler.reduce_class(obj),
        **dict.fromkeys((types.FunctionType, *VARIABLES), lambda pickler, obj: pickler.reduce_named(obj)),
    }
    names: Importables

    def reducer_override(self, obj: Any) -> Any:
        """Decide how one object is pickled; called by the C pickler."""
        kind = type(obj)
        reduce = self.table.get(kind)
        if reduce is not None:
            return reduce(self, obj)
        flags = kind.__flags__
        if flags & _SPECIAL:
            if flags & _IS_TYPE:
                return self.reduce_class(obj)
            return reducers.exception(kind, obj)
        return NotImplemented

    def reduce_class(self, cls: type) -> Any:
        """By reference where peers can import it, else as a definition."""
        if self.names.reaches(cls):
            return NotImplemented
        if cls.__flags__ & _HEAP_TYPE:
            return self.reduce_definition(cls)
        if cls in {type(None), type(Ellipsis), type(NotImplemented)}:
            return NotImplemented
        if cls in _NAMELESS:
            return revive.builtin_type, (_NAMELESS[cls],)
        message = f"type {cls.__qualname__!r} is built in and no module holds it under that name"
        raise pickle.PicklingError(message)

    def reduce_named(self, obj: Any) -> Any:
        """By reference where peers can import a function or type variable, else as a definition."""
        if self.names.reaches(obj):
            return NotImplemented
        return self.reduce_definition(obj)

    def reduce_definition(self, obj: Any) -> Any:
        """Refer to a function, class or type variable that peers cannot import."""
        raise NotImplementedError


#: Types whose module and name do not lead to them, by the name under which ``types`` has them.
_NAMELESS: dict[type, str] = {
    value: name
    for name, value in vars(types).items()
    if type(value) is type and value.__module__ == "builtins" and name != value.__qualname__
}
