"""The codec: objects to payloads and back, and the definitions that go with them.

One per process, made after any fork. Any thread may call anything. Plain data takes no lock; what makes or loads
definitions holds one, which is reentrant because objects' own ``__reduce__`` and ``__setstate__`` run under it.

What it keeps: for each function or class that ever was a definition here, an entry, as long as the object lives; the
definitions themselves in two stores bounded in bytes (received, and made here). A function that is alive keeps its last
version, a snapshot of the arrays it reaches included.

What follows from copying definitions: each function sent, and each class, has its globals for itself at the other end,
shared by the functions in it. They live as long as the version does, so what a call leaves in them the next call
finds; another function, or a method of a class, does not. Names reached by ``globals()["x"]`` or ``eval`` are not seen.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import threading
import types
import weakref
from dataclasses import dataclass
from os import urandom
from typing import TYPE_CHECKING, Any

from znb.errors import SerializationError
from znb.serialize import stream
from znb.serialize.codes import Codes
from znb.serialize.diagnose import explain
from znb.serialize.loading import Session, Unpickler, writable
from znb.serialize.names import Importables
from znb.serialize.pickling import PROTOCOL, BasePickler, Chunks, seal
from znb.serialize.records import (
    KEY_BYTES,
    Definition,
    Entry,
    Frame,
    MissingDefinitions,
    Payload,
    join_prefix,
    split_prefix,
)
from znb.serialize.store import Store
from znb.serialize.writing import digest, read_header, write_definition

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["Codec", "CodecStats"]

#: Bytes of received definitions that are held by default: a few notebooks' arrays on a worker of a small machine.
LEARNED_BYTES = 512 * 1024 * 1024

#: Received definitions that were loaded and are held; one takes about 13 kB beyond its arrays, so this is 25 MB.
LEARNED = 2048

#: Bytes of definitions made here that are held by default after the function they describe is gone and no payload
#: refers to them; enough for a peer to ask again for what was sent last.
MADE_BYTES = 16 * 1024 * 1024

#: First byte of a body that names definitions.
_PREFIXED = ord("c")

#: How a name in the main module looks in a pickle: SHORT_BINUNICODE, length, text.
_BY_NAME = b"\x8c\x08__main__"

#: Opcodes that leave the strings on the stack as they are.
_SILENT = frozenset({"FRAME", "PROTO", "STOP"})


@dataclass(frozen=True, slots=True)
class CodecStats:
    """What a codec holds.

    Attributes:
        learned: Received definitions held.
        learned_bytes: Their size.
        made: Definitions made here and held beyond need.
        made_bytes: Their size.
        objects: Living functions and classes that are, or came from, definitions.
    """

    learned: int
    learned_bytes: int
    made: int
    made_bytes: int
    objects: int


class _PayloadPickler(BasePickler):
    """Writes an object, referring to definitions by the order in which they were met."""

    __slots__ = ("codec", "entries")
    codec: Codec
    entries: list[Entry]

    def reduce_definition(self, obj: Any) -> Any:
        """Refer to a function or class by its row."""
        self.entries.append(self.codec.entry(obj))
        return stream.reference, (len(self.entries) - 1,)


class Codec:
    """Makes objects ready to travel, and takes them in.

    Args:
        by_value: Names of modules that peers shall not import but be sent; may be added to until something that uses
            them is sent.
        learned_bytes: Bound of the received definitions held, in bytes; older ones are dropped and asked for again.
        made_bytes: Bound of the definitions made here that are held beyond need, in bytes.

    Example:
        >>> codec = Codec()
        >>> payload = codec.encode({"answer": 42})
        >>> codec.decode(payload.body, payload.buffers)
        {'answer': 42}
    """

    def __init__(
        self,
        *,
        by_value: Collection[str] = (),
        learned_bytes: int = LEARNED_BYTES,
        made_bytes: int = MADE_BYTES,
    ) -> None:
        self.names = Importables(by_value)
        self.codes = Codes()
        self._lock = threading.RLock()
        self._entries: dict[int, Entry] = {}
        self._tokens: dict[bytes, Entry] = {}
        self._learned = Store(learned_bytes, 2 * learned_bytes, limit=LEARNED)
        self._made = Store(made_bytes)

    def encode(self, obj: Any, *, labels: Sequence[str] = ()) -> Payload:
        """Make an object ready to travel.

        All or nothing: if anything in it cannot travel nothing is noted or kept. Functions and classes go with the
        values of this moment. Buffers are views on the object's memory (see ``Payload``).

        Args:
            obj: Anything.
            labels: What to call the items of ``obj``, a tuple, in messages: ``("function", "args", "kwargs")``.

        Raises:
            SerializationError: Something in it cannot travel; ``path`` says what.
        """
        try:
            return self.attempt(obj)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is explained
            raise explain(self, obj, error, labels) from (None if _says_nothing(error) else _of_user(error))

    def decode(self, body: bytes | memoryview, buffers: Iterable[Frame] = ()) -> Any:
        """Return the object of a payload.

        Arrays are backed by the buffers: writable if those are. ``bytes`` among the buffers are copied to make them
        so, other buffers never are.

        Raises:
            MissingDefinitions: The body needs definitions that are not held here. Nothing was run.
            SerializationError: Something in it cannot be loaded here.
        """
        try:
            if body[0] != _PREFIXED:
                return pickle.loads(body, buffers=map(writable, buffers))
            rows, start = split_prefix(body)
            objects = self._resolve(rows)
            file = io.BytesIO(body)
            file.seek(start)
            return Unpickler(file, map(writable, buffers), {"reference": objects.__getitem__}).load()
        except (ImportError, AttributeError, pickle.UnpicklingError, EOFError) as error:
            if isinstance(error, AttributeError) and not str(error).startswith("Can't get attribute"):
                raise  # of an object's own making
            raise SerializationError(
                "this object to here",
                f"it cannot be loaded ({type(error).__name__}: {error})",
                hint="What it was made of has to be importable here as well",
            ) from error

    def definition(self, key: bytes) -> tuple[Frame, ...]:
        """Return the frames of a definition, to ship them to a peer that lacks it.

        Raises:
            KeyError: It is not held here, or an array in it was changed since it was loaded.
        """
        with self._lock:
            definition = self._get(key)
            if definition is None or not self._intact(definition):
                raise KeyError(key)
            return definition.frames

    def learn(self, key: bytes, frames: Sequence[Frame]) -> None:
        """Take in a definition that a peer shipped; it is loaded when something first needs it."""
        with self._lock:
            self._learned.add(self._learned.get(key) or Definition(key, frames))

    def knows(self, key: bytes) -> bool:
        """Whether a definition is held here."""
        with self._lock:
            return key in self._learned or key in self._made

    def stats(self) -> CodecStats:
        """Return what is held."""
        with self._lock:
            return CodecStats(
                len(self._learned),
                self._learned.size_bytes,
                len(self._made),
                self._made.size_bytes,
                len(self._entries),
            )

    def attempt(self, obj: Any) -> Payload:
        """Encode; raise whatever the pickler raised if that fails."""
        if type(obj) is types.FunctionType and (known := self._unchanged_function(obj)) is not None:
            return known
        chunks = Chunks()
        pickler = _PayloadPickler(chunks, PROTOCOL, buffer_callback=chunks.take)
        pickler.names, pickler.codec, pickler.entries = self.names, self, []
        pickler.dump(obj)
        body, buffers = seal(chunks)
        if _BY_NAME in body:
            _refuse_names(body)
        if not pickler.entries:
            return Payload(body, buffers)
        with self._lock:
            ordered = self._refreshed(pickler.entries)
            payload = _with_definitions(body, buffers, pickler.entries, ordered)
            if type(obj) is types.FunctionType:
                _remember(pickler.entries[0], payload, ordered)
            return payload

    def _unchanged_function(self, function: types.FunctionType) -> Payload | None:
        """Return what encoding a function gave before, if it would give the same again."""
        entry = self._entries.get(id(function))
        if entry is None or entry.ref() is not function or entry.encoded is None:
            return None
        payload, sources = entry.encoded
        for source, key in sources:
            if source.key is not key or source.watch is None or not source.watch.unchanged():
                return None
        return payload

    def entry(self, obj: Any) -> Entry:
        """Return the entry of a function or class, made if it has none (for the picklers)."""
        entry = self._entries.get(id(obj))
        if entry is not None and entry.ref() is obj:
            return entry
        return self._note(obj, urandom(KEY_BYTES), foreign=False)

    def find(self, token: bytes) -> tuple[Entry, Any] | None:
        """Return the entry and object of a token, if the object is alive (for the loaders)."""
        entry = self._tokens.get(token)
        obj = entry.ref() if entry is not None else None
        return None if entry is None or obj is None else (entry, obj)

    def register(self, obj: Any, token: bytes) -> Entry:
        """Note a function or class that was loaded from a peer (for the loaders)."""
        entry = self._entries.get(id(obj))
        if entry is not None and entry.ref() is obj:
            return entry
        return self._note(obj, token, foreign=True)

    def _note(self, obj: Any, token: bytes, *, foreign: bool) -> Entry:
        entries, tokens, address = self._entries, self._tokens, id(obj)

        def forget(reference: weakref.ref[Any]) -> None:
            # Runs whenever and wherever the object dies, so without the lock; each step is atomic.
            if (entry := entries.get(address)) is not None and entry.ref is reference:
                entries.pop(address, None)
            if (entry := tokens.get(token)) is not None and entry.ref is reference:
                tokens.pop(token, None)
            if (entry := made()) is not None:
                entry.clear()

        with self._lock:
            entry = entries.get(address)
            if entry is not None and entry.ref() is obj:
                return entry
            entry = entries[address] = Entry(weakref.ref(obj, forget), token, foreign=foreign)
            made = weakref.ref(entry)
            known = tokens.get(token)
            if known is None or known.foreign or known.ref() is None:
                tokens[token] = entry
            return entry

    def _refreshed(self, entries: list[Entry]) -> list[Entry]:
        """Return these entries and all they need, transitively, brought up to date, needs first."""
        ordered: list[Entry] = []
        seen: set[int] = set()
        stack = [(entry, False) for entry in reversed(entries)]
        while stack:
            entry, is_done = stack.pop()
            if is_done:
                ordered.append(entry)
            elif id(entry) not in seen:
                seen.add(id(entry))
                self._refresh(entry)
                stack.append((entry, True))
                stack += [(need, False) for need in entry.needs if id(need) not in seen]
        return ordered

    def _refresh(self, entry: Entry) -> None:
        if entry.definition is not None and entry.watch is not None and entry.watch.unchanged():
            return
        obj = entry.ref()
        if obj is None:
            message = "a class was deleted while a function that refers to it was being sent"
            raise ReferenceError(message)
        written = write_definition(self, obj, entry)
        if written.definition is not entry.definition:
            self._made.add(written.definition)
        entry.own(written.definition, written.watch, written.needs)

    def _resolve(self, rows: list[tuple[bytes, bytes]]) -> list[Any]:
        """Return the objects that a body refers to, loaded if need be."""
        with self._lock:
            missing: list[bytes] = []
            found: list[tuple[bytes, Definition | None]] = []
            for token, key in rows:
                known = self.find(token)
                if known is not None and not known[0].foreign:
                    found.append((token, None))  # it has come home
                    continue
                definition = self._get(key)
                if definition is None or (self._is_stale(known, definition) and not self._intact(definition)):
                    missing.append(key)
                found.append((token, definition))
            if missing:
                raise MissingDefinitions(tuple(dict.fromkeys(missing)))
            return Session(self).load(found)

    def _is_stale(self, known: tuple[Entry, Any] | None, definition: Definition) -> bool:
        """Whether a class has to be given the attributes of a definition that it had been given before."""
        return definition.loaded is not None and known is not None and known[0].key != definition.key

    def _get(self, key: bytes) -> Definition | None:
        return self._learned.get(key) or self._made.get(key)

    def _intact(self, definition: Definition) -> bool:
        """Whether a definition still is what its key says: its arrays are those of the object loaded from it."""
        if not definition.shared:
            return True
        if digest(read_header(definition.frames[0]), definition.frames[1:]) == definition.key:
            return True
        self._learned.drop(definition.key)
        return False


def _with_definitions(
    body: bytes, buffers: tuple[memoryview | bytes, ...], direct: list[Entry], ordered: list[Entry]
) -> Payload:
    """Return the payload of a body that refers directly to some entries, and through them to all of the others."""
    first = {id(entry) for entry in direct}
    rows = [(entry.token, entry.key) for entry in direct]
    rows += [(entry.token, entry.key) for entry in ordered if id(entry) not in first]
    held = tuple(definition for entry in ordered if (definition := entry.definition) is not None)
    keys = tuple(dict.fromkeys(entry.key for entry in ordered))
    return Payload(join_prefix(rows, body), buffers, keys, held)


def _remember(entry: Entry, payload: Payload, ordered: list[Entry]) -> None:
    """Keep a function's payload for as long as nothing changes."""
    # A payload holds its definitions, and those that came from peers hold the objects made from them: remembered
    # here they would keep those alive, and with them perhaps the function itself.
    if not any(source.foreign for source in ordered):
        entry.encoded = payload, tuple((source, source.key) for source in ordered)


def _refuse_names(body: bytes) -> None:
    """Raise if a body looks something up by name in the main module, which is another one in each process.

    Objects whose ``__reduce__`` returns a string do that (PEP 307).
    """
    memo: list[Any] = []
    recent: list[Any] = [None, None]
    for opcode, argument, _ in pickletools.genops(body):
        name = opcode.name
        if name == "MEMOIZE":
            memo.append(recent[-1])
        elif name in {"BINGET", "LONG_BINGET"}:
            recent = [recent[-1], memo[int(argument or 0)]]
        elif name == "STACK_GLOBAL":
            if recent[0] == "__main__":
                message = f"it is pickled as the name {recent[1]!r} in the main module, which differs between processes"
                raise pickle.PicklingError(message)
            recent = [recent[-1], None]
        elif name not in _SILENT:
            recent = [recent[-1], argument if isinstance(argument, str) else None]


def _says_nothing(error: Exception) -> bool:
    """Whether an error is the pickler's own, which the explanation replaces; others are of the user's code."""
    return isinstance(error, pickle.PicklingError) or (isinstance(error, TypeError) and "pickle" in str(error))


def _of_user(error: Exception) -> Exception:
    """Return an error of the user's code without the frames here that led to it."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return error.with_traceback(frames)
