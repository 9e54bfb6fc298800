"""``cluster.put``: one copy of an object for every process of this machine.

The object is pickled once, into memory that has no name in any file system (``memfd_create``, sealed). Others map it
through ``/proc/<pid>/fd`` of the process that put it, read-only and without a copy.

::

    memory:  buffer | buffer | …      each at a multiple of 64 bytes
             body                     pickle protocol 5 of the object without its buffers
             table                    msgpack: [[offset, length] of each buffer …]

What travels is a *ticket*: where the memory is, and how to tell that it still is the same. It goes as an out-of-band
buffer whose exporter keeps the memory open: whoever holds an encoded message, such as a job that waits, holds the
memory.

Invariants: the memory is never written after ``put``; it goes when the last handle, message and mapping is gone, and
with the last process that has it, however that ends, because the kernel counts. Wherever a handle is unpickled it
arrives as the object itself. Immutable objects are decoded once per process; of others each job gets its own, whose
arrays are the shared memory. Any thread may do anything. Sources: memfd_create(2), proc_pid_fd(5), fcntl(2); PEP 574.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import io
import mmap
import os
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import msgspec

from znb.errors import SerializationError, ZnbError
from znb.serialize.pickling import OUT_OF_BAND_BYTES, PROTOCOL, BasePickler, Chunks, seal
from znb.serialize.settled import Lasting
from znb.tickets import Ticket, host_id, make_memory, places, seal_memory, write_at

if TYPE_CHECKING:
    from znb.serialize import Codec

__all__ = ["Shared", "TicketPage", "put", "sweep"]

#: Seconds for an object from another machine to come here.
ARRIVAL_TIMEOUT = 600.0
#: Mappings that a process holds though no object needs them, because the next job may; for as long as they are put.
KEPT = 16
#: Bytes up to which a mapping's page table is filled at once; larger ones may be read in parts.
POPULATE_MAX = 1 << 30
#: Types whose instances can be handed to several jobs, beyond read-only NumPy arrays of plain numbers.
IMMUTABLE = frozenset({bytes, str, int, float, complex, bool, type(None), range})


class _Memory:
    """The memory of one ``put``, open for as long as this is referred to.

    Args:
        fd: Its descriptor; this closes it.
        closed: Told the memory's key when it has been closed.
    """

    def __init__(self, fd: int, ticket: Ticket, closed: Callable[[bytes], object] | None) -> None:
        self.ticket = ticket
        self.encoded = msgspec.msgpack.encode(ticket)
        finalizer = weakref.finalize(self, _close, fd, os.getpid(), self.encoded, closed)
        finalizer.atexit = False  # the kernel closes what is open then


def _close(fd: int, pid: int, key: bytes, closed: Callable[[bytes], object] | None) -> None:
    if os.getpid() == pid:  # a forked child has the same number for the same file, and no cluster to tell
        os.close(fd)
        drop(key)
        if closed is not None:
            closed(key)


class TicketPage(ctypes.Array[ctypes.c_char], Lasting):
    """A ticket as a buffer that is large enough to go out of band, and holds the memory open."""

    _type_ = ctypes.c_char
    _length_ = OUT_OF_BAND_BYTES
    memory: _Memory


class Shared:
    """A handle to an object that was put into shared memory.

    Pass it to jobs, alone or inside other objects, or push it: it arrives as the object. Arrays in it are read-only
    there: they are the memory, not copies. What the original becomes after ``put`` does not matter.

    The memory is freed with the last handle, once the jobs under way that use it are done; ``release`` or the end of a
    ``with`` block let go of it sooner.

    Examples:
        >>> import znb
        >>> with znb.Cluster.start(2) as cluster, cluster.put(list(range(1000))) as shared:
        ...     cluster.submit(sum, shared).result()
        499500
    """

    def __init__(self, memory: _Memory, definitions: tuple[Any, ...], length: int | None) -> None:
        self._memory: _Memory | None = memory
        self._definitions = definitions
        self._length = length
        self._ticket = memory.ticket

    @property
    def nbytes(self) -> int:
        """Size of the memory in bytes."""
        return self._ticket.size_bytes

    @property
    def memory(self) -> Any:
        """The memory itself, for who brings it elsewhere."""
        return self._open()

    def get(self) -> Any:
        """Return the object, as jobs see it.

        Raises:
            ZnbError: The handle was released.
        """
        return _attached().get(self._open().ticket, self._definitions)

    def release(self) -> None:
        """Let go of the memory. May be called twice."""
        self._memory = None
        self._definitions = ()
        sweep()

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError(f"the shared {self._ticket.kind} has no len()")
        return self._length

    def __bool__(self) -> bool:
        return True  # not by length: a handle is there or not

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "" if self._memory is not None else ", released"
        return f"<Shared {self._ticket.kind}, {_size_text(self.nbytes)}{state}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        memory = self._open()
        if protocol < PROTOCOL:
            return _arrive, (memory.encoded, len(memory.encoded), self._definitions)
        page = TicketPage()
        page.memory = memory
        page[: len(memory.encoded)] = memory.encoded
        return _arrive, (pickle.PickleBuffer(page), len(memory.encoded), self._definitions)

    def _open(self) -> _Memory:
        memory = self._memory
        if memory is None:
            raise ZnbError(f"{self!r} cannot be used any more; put the object again")
        return memory


def put(codec: Codec, obj: Any, *, closed: Callable[[bytes], object] | None = None) -> Shared:
    """Copy an object into shared memory.

    Args:
        codec: Says what travels as a definition, and why something cannot travel.
        obj: Anything that can be sent to a job.
        closed: Told when the memory is no longer open here, with what ``drop`` takes; from any thread.

    Raises:
        SerializationError: Something in it cannot travel.
        OSError: There is not that much memory.
    """
    chunks = Chunks()
    pickler = _PutPickler(chunks, PROTOCOL, buffer_callback=chunks.take)
    pickler.names, pickler.definitions = codec.names, []
    try:
        pickler.dump(obj)
    except Exception:
        codec.encode(obj)  # says what is wrong, and where
        raise
    body, buffers = seal(chunks)
    if b"__main__" in body:
        codec.encode(obj)  # refuses names that mean something else where the object arrives
    table: list[tuple[int, int]] = []
    position = 0
    fd = make_memory()
    try:
        for buffer in buffers:
            table.append((position, memoryview(buffer).nbytes))
            position = write_at(fd, buffer, position)
        body_at, table_at = position, write_at(fd, body, position)
        index = msgspec.msgpack.encode(table)
        size_bytes = write_at(fd, index, table_at)
        os.ftruncate(fd, size_bytes)
        seal_memory(fd)
        found = os.fstat(fd)
        ticket = Ticket(
            host=host_id(),
            pid=os.getpid(),
            fd=fd,
            device=found.st_dev,
            inode=found.st_ino,
            size_bytes=size_bytes,
            body=(body_at, len(body)),
            table=(table_at, len(index)),
            kind=type(obj).__name__,
            immutable=_is_immutable(obj),
        )
        memory = _Memory(fd, ticket, closed)
    except BaseException:
        os.close(fd)
        raise
    return Shared(memory, tuple(pickler.definitions), _length_of(obj))


class _PutPickler(BasePickler):
    """Leaves functions and classes that peers cannot import to whoever sends the ticket."""

    __slots__ = ("definitions",)
    definitions: list[Any]

    def reducer_override(self, obj: Any) -> Any:
        """Bring arrays into one piece, without which they would not go out of band."""
        array = _array_type()
        if array is not None and type(obj) is array and not (obj.flags.c_contiguous or obj.flags.f_contiguous):
            return obj.copy().__reduce_ex__(PROTOCOL)
        return super().reducer_override(obj)

    def reduce_definition(self, obj: Any) -> Any:
        """Refer to a function or class by its place among the definitions."""
        if not any(known is obj for known in self.definitions):
            self.definitions.append(obj)
        return _definition, (next(place for place, known in enumerate(self.definitions) if known is obj),)


def _definition(place: int) -> Any:
    """Stand for a definition in pickles; ``_GetUnpickler`` puts its own in this one's place."""
    raise pickle.UnpicklingError(f"definition {place} of a shared object was asked for out of its place")


class _GetUnpickler(pickle.Unpickler):
    """Finds definitions where the ticket brought them."""

    def __init__(self, body: memoryview, buffers: Sequence[memoryview], definitions: Sequence[Any]) -> None:
        super().__init__(io.BytesIO(body), buffers=buffers)
        self._definitions = definitions

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what a name in the pickle means."""
        if module == __name__ and name == _definition.__name__:
            return self._definitions.__getitem__
        return super().find_class(module, name)


class _Mapping(mmap.mmap):
    """The memory as this process sees it; unmapped when no array refers to it any more."""


class Attachments:
    """The shared memory that this process has mapped: what ``_arrive`` finds again."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # finalizers come whenever they like, also while it is held
        self._mappings: weakref.WeakValueDictionary[Ticket, _Mapping] = weakref.WeakValueDictionary()
        self._kept: collections.OrderedDict[Ticket, tuple[_Mapping, Any]] = collections.OrderedDict()

    def get(self, ticket: Ticket, definitions: Sequence[Any]) -> Any:
        """Return the object of a ticket."""
        with self._lock:
            kept = self._kept.get(ticket)
            if kept is not None:
                self._kept.move_to_end(ticket)
                if ticket.immutable:
                    return kept[1]
            mapping = self._mappings.get(ticket)
        if mapping is None:
            self.sweep()
            mapping = _map(ticket)
        obj = _load(mapping, ticket, definitions)
        with self._lock:
            mapping = self._mappings.setdefault(ticket, mapping)
            self._kept[ticket] = (mapping, obj if ticket.immutable else None)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return obj

    def sweep(self) -> None:
        """Let go of what nobody can ask for any more."""
        with self._lock:
            dead = [self._kept.pop(ticket) for ticket in list(self._kept) if not _alive(ticket)]
        del dead  # outside the lock: it may run finalizers

    def drop(self, key: bytes) -> None:
        """Let go of one memory that was closed where it was put."""
        with self._lock:
            dropped = self._kept.pop(msgspec.msgpack.decode(key, type=Ticket), None)
        del dropped


@functools.cache
def _attached() -> Attachments:
    """Return this process's table: unpickling has no other way to it."""
    return Attachments()


def sweep() -> None:
    """Let go of mappings whose memory can no longer be asked for, because it was released or its process is gone."""
    _attached().sweep()


def drop(key: bytes) -> None:
    """Let go of the mapping of one memory: it was closed where it was put."""
    places().forget(key)
    _attached().drop(key)


def _arrive(page: Any, length: int, definitions: tuple[Any, ...]) -> Any:
    """Return the object of a ticket: what a pickled handle becomes."""
    ticket = msgspec.msgpack.decode(memoryview(page)[:length], type=Ticket)
    return _attached().get(ticket, definitions)


def _alive(ticket: Ticket) -> bool:
    """Whether more jobs may come for a memory: it can still be opened here, or has not been released elsewhere."""
    return ticket.alive() if ticket.host == host_id() else places().find(ticket) is not None


def _map(ticket: Ticket) -> _Mapping:
    """Map the memory of a ticket.

    Raises:
        SerializationError: It is not there.
    """
    where = f"was put by process {ticket.pid} of {ticket.host.partition('/')[0]}"
    found = ticket if ticket.host == host_id() else places().wait(ticket, ARRIVAL_TIMEOUT)
    if found is None:
        raise _gone(ticket, f"{where}, and has not come to {host_id().partition('/')[0]}")
    try:
        fd = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _gone(ticket, f"{where}, which is gone or has released it ({error.strerror})") from error
    try:
        if not found.leads_to(os.fstat(fd)):
            raise _gone(ticket, f"{where}, which has released it")
        flags = mmap.MAP_PRIVATE  # old kernels refuse to map sealed memory as shared, though read-only
        if ticket.size_bytes <= POPULATE_MAX:
            flags |= getattr(mmap, "MAP_POPULATE", 0)
        return _Mapping(fd, ticket.size_bytes, flags=flags, prot=mmap.PROT_READ)
    finally:
        os.close(fd)


def _gone(ticket: Ticket, reason: str) -> SerializationError:
    return SerializationError(
        f"the shared {ticket.kind}", f"it {reason}", hint="Hold on to the handle until the jobs that use it are done"
    )


def _load(mapping: _Mapping, ticket: Ticket, definitions: Sequence[Any]) -> Any:
    view = memoryview(mapping)
    table = msgspec.msgpack.decode(_part(view, *ticket.table), type=list[tuple[int, int]])
    buffers = [_part(view, offset, length) for offset, length in table]
    return _GetUnpickler(_part(view, *ticket.body), buffers, definitions).load()


def _part(view: memoryview, offset: int, length: int) -> memoryview:
    return view[offset : offset + length]


def _length_of(obj: Any) -> int | None:
    try:
        return len(obj)
    except TypeError:
        return None


def _is_immutable(obj: Any) -> bool:
    """Whether an object, once its arrays are read-only, can be handed to several jobs without one seeing the other."""
    if type(obj) in IMMUTABLE:
        return True
    if type(obj) in {tuple, frozenset}:
        return all(map(_is_immutable, obj))
    array = _array_type()
    return array is not None and type(obj) is array and not obj.dtype.hasobject


def _array_type() -> Any:
    """Return NumPy's array type, if NumPy is in use."""
    return getattr(sys.modules.get("numpy"), "ndarray", None)


def _size_text(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
