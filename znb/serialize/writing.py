"""From a function or class to a definition.

A function's definition holds the function and every notebook function it reaches, by value, in one namespace, with a
snapshot of the globals they reach. Classes in it are references to definitions of their own, because a class is one
object per process while functions are copied freely. What the body consists of is described in ``stream.py``.

The codec's lock is held throughout; a pickler here makes one definition.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
import sys
import types
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from znb.serialize import reducers, stream
from znb.serialize.classes import describe
from znb.serialize.names import VARIABLES
from znb.serialize.pickling import PROTOCOL, BasePickler, Chunks, seal
from znb.serialize.records import KEY_BYTES, Definition, Entry, Frame
from znb.serialize.watch import Watches, cell_contents, is_plain, watch_class, watch_function

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from znb.serialize.codes import CodeFacts, Codes
    from znb.serialize.names import Importables

__all__ = ["Header", "write_definition"]

#: Where ``functools.singledispatch`` remembers its calls; it starts anew at the other end.
_DISPATCH_CACHE = "dispatch_cache"


class Header(NamedTuple):
    """The first frame of a definition; not part of its digest.

    Attributes:
        version: Minor version of Python that made its bytecode.
        name: Qualified name of the function or class, for messages.
        token: Identity of the class or type variable; empty for a function, whose contents are all of it.
        needs: Tokens of the classes that it refers to, by the index in ``stream.reference``.
        functions: Tokens of the functions in it, in the order of their making.
        sources: Texts of cells, by their file names.
    """

    version: tuple[int, ...]
    name: str
    token: bytes
    needs: tuple[bytes, ...]
    functions: tuple[bytes, ...]
    sources: dict[str, str]


class Registry(Protocol):
    """What a writer needs of its codec."""

    names: Importables
    codes: Codes

    def entry(self, obj: Any) -> Entry:
        """Return the entry of a function or class, made if need be."""


class _Namespace:
    """Stands for a globals dictionary in the body."""

    __slots__ = ("done", "imported", "package", "space", "title")

    def __init__(self, space: dict[str, Any], name: str, *, imported: bool) -> None:
        self.space = space
        self.title = name.encode()  # as bytes, so that no body has "__main__" in it as a name to look up
        self.imported = imported
        package = space.get("__package__")
        self.package = package if isinstance(package, str) else None
        self.done: set[str] = set()


def _reduce_namespace(_pickler: Any, obj: _Namespace) -> Any:
    return stream.namespace, (obj.title, obj.imported, None if obj.imported else obj.package)


class _Writer(BasePickler):
    """Writes the body of one definition."""

    table: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {
        **BasePickler.table,
        types.CellType: lambda pickler, obj: pickler.reduce_cell(obj),
        types.ModuleType: lambda pickler, obj: pickler.reduce_module(obj),
        _Namespace: _reduce_namespace,
    }

    def __init__(self, chunks: Chunks, registry: Registry, root: Any) -> None:
        super().__init__(chunks, PROTOCOL, buffer_callback=chunks.take)
        self.names = registry.names
        self.registry = registry
        self.root = root
        self.needs: dict[int, tuple[int, Entry, Any]] = {}
        self.functions: list[bytes] = []
        self.watches: list[Any] = []
        self.filenames: dict[str, None] = {}
        self._spaces: dict[int, _Namespace] = {}
        self._forgetful: set[int] = set()
        self._usable: deque[Any] = deque()
        self._containers: deque[Any] = deque()
        self._instances: deque[Any] = deque()

    def write(self) -> None:
        """Write the root and then whatever it and the rest turn out to refer to."""
        if isinstance(self.root, type):
            self.watches.append(watch_class(self.root, self.names))
            skeleton, steps = describe(self.root, self._is_usable)
            self.dump(skeleton)
            self._usable.extend(steps.usable)
            self._instances.extend(steps.instances)
        else:
            self.dump(self.root)  # a function or type variable
        queues = (self._usable, self._containers, self._instances)
        while queue := next(filter(None, queues), None):
            self.dump(queue.popleft())
        self.dump(None)

    def reducer_override(self, obj: Any) -> Any:
        """As in any pickler, with members of the enumeration being written by name."""
        kind = type(obj)
        if kind is self.root:
            name = getattr(obj, "_name_", None)
            if isinstance(name, str) and getattr(self.root, "_member_map_", {}).get(name) is obj:
                return stream.member, (name,)
        if kind is not property and issubclass(kind, property):
            return reducers.property_subclass(obj)
        return super().reducer_override(obj)

    def reduce_definition(self, obj: Any) -> Any:
        """Functions are written where they are met, classes and type variables are referred to."""
        if isinstance(obj, types.FunctionType):
            return self._function(obj)
        if obj is self.root:
            return (stream.itself, ()) if isinstance(obj, type) else reducers.type_variable(obj)
        known = self.needs.get(id(obj))
        if known is None:
            known = self.needs[id(obj)] = (len(self.needs), self.registry.entry(obj), obj)
        return stream.reference, (known[0],)

    def reduce_cell(self, cell: types.CellType) -> Any:
        """Make the cell now and fill it by a later step, so that it may hold what refers to it."""
        if id(cell) in self._forgetful:
            self._later(stream.CELL, (cell,), weakref.WeakKeyDictionary())
            return stream.cell, ()
        try:
            value = cell.cell_contents
        except ValueError:  # nothing in it yet
            return stream.cell, ()
        self._later(stream.CELL, (cell,), value)
        return stream.cell, ()

    def reduce_module(self, module: types.ModuleType) -> Any:
        """A module that peers cannot import is a namespace that shares its functions' globals."""
        if self.names.module(module):
            return reducers.module(self, module)
        space = self._namespace(vars(module))
        names = [name for name in space.space if not (name.startswith("__") and name.endswith("__"))]
        self._bind(space, names)
        return stream.module, (space, module.__doc__)

    def _function(self, function: types.FunctionType) -> Any:
        facts = self.registry.codes.facts(function.__code__)
        self.filenames.update(dict.fromkeys(facts.filenames))
        self.functions.append(self.registry.entry(function).token)
        space = self._namespace(function.__globals__)
        reached = () if space.imported else facts.names
        self.watches.append(watch_function(function, reached, self.names))
        if function.__globals__.get("__name__") == "functools":
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            self._forgetful.update(id(cell) for name, cell in cells if name == _DISPATCH_CACHE)
        self._usable.append((stream.FILL, function, _state(function), space, self._plain(space, reached)))
        self._bind(space, [name for name in reached if name in space.space])
        self._import_submodules(function, facts)
        return stream.function, (facts.data, space, function.__closure__, function.__name__, function.__qualname__)

    def _namespace(self, space: dict[str, Any]) -> _Namespace:
        known = self._spaces.get(id(space))
        if known is None:
            imported = self.names.name_of(space)
            name = imported or space.get("__name__", "__main__")
            known = _Namespace(space, str(name), imported=imported is not None)
            self._spaces[id(space)] = known
        return known

    def _is_usable(self, value: Any) -> bool:
        """Whether a value can be made without any object of the definition being finished."""
        return issubclass(type(value), _USABLE) or is_plain(value, self.names)

    def _plain(self, space: _Namespace, reached: Iterable[str]) -> dict[str, Any]:
        plain = {}
        for name in reached:
            if name in space.space and name not in space.done and self._is_usable(space.space[name]):
                space.done.add(name)
                plain[name] = self._stand_in(space.space[name])
        return plain

    def _bind(self, space: _Namespace, names: Iterable[str]) -> None:
        for name in names:
            if name not in space.done:
                space.done.add(name)
                self._later(stream.BIND, (space, name), space.space[name])

    def _later(self, step: int, where: tuple[Any, ...], value: Any) -> None:
        item = (step, *where, self._stand_in(value))
        if self._is_usable(value):
            self._usable.append(item)
        elif type(value) in _CONTAINERS or type(value).__module__ == "numpy":
            self._containers.append(item)
        else:
            self._instances.append(item)

    def _stand_in(self, value: Any) -> Any:
        """Lazy modules and other subclasses of module are imported by name as well."""
        if type(value) is not types.ModuleType and isinstance(value, types.ModuleType) and self.names.module(value):
            return reducers.ModuleName(value.__name__)
        return value

    def _import_submodules(self, function: types.FunctionType, facts: CodeFacts) -> None:
        """Have ``concurrent.futures`` imported where code reaches it through the global ``concurrent``."""
        values = [function.__globals__.get(name) for name in facts.names]
        values += map(cell_contents, function.__closure__ or ())
        pending = [
            value.__name__ for value in values if isinstance(value, types.ModuleType) and self.names.module(value)
        ]
        found = []
        while pending:
            package = pending.pop()
            for attribute in facts.attributes:
                name = f"{package}.{attribute}"
                if name in sys.modules:
                    pending.append(name)
                    found.append(name)
        if found:
            self._usable.appendleft((stream.IMPORT, found))


_USABLE = (type, types.FunctionType, types.ModuleType, *VARIABLES)
_CONTAINERS = frozenset({list, dict, set, frozenset, tuple, bytearray})


def _state(function: types.FunctionType) -> dict[str, Any]:
    """Return what a function has beyond code, name and closure; only what is not as a new function has it."""
    state: dict[str, Any] = {}
    if function.__defaults__:
        state["__defaults__"] = function.__defaults__
    if function.__kwdefaults__:
        state["__kwdefaults__"] = function.__kwdefaults__
    if function.__annotations__:
        state["__annotations__"] = function.__annotations__
    if function.__dict__:
        state["__dict__"] = dict(function.__dict__)
    state["__doc__"] = function.__doc__
    module = function.__module__
    state["__module__"] = module.encode() if isinstance(module, str) else module
    parameters = getattr(function, "__type_params__", ())
    if parameters:
        state["__type_params__"] = parameters
    return state


class Written(NamedTuple):
    """A definition just made, and what it was made of.

    Attributes:
        definition: The version; an earlier one if its contents are the same.
        watch: Tells whether it still is right.
        needs: Entries of the classes that it refers to.
    """

    definition: Definition
    watch: Watches
    needs: tuple[Entry, ...]


def write_definition(registry: Registry, obj: Any, entry: Entry) -> Written:
    """Write a function or class as it is now.

    Raises:
        Exception: Whatever the C pickler or an object's own ``__reduce__`` raised; nothing was changed then.
    """
    chunks = Chunks()
    writer = _Writer(chunks, registry, obj)
    writer.write()
    body, buffers = seal(chunks)
    needs = tuple(need for _, need, _ in writer.needs.values())
    token = b"" if isinstance(obj, types.FunctionType) else entry.token
    tokens = tuple(need.token for need in needs)
    definition = entry.definition
    if definition is None or not _same(definition, body, buffers, tokens):
        name = f"{'class' if isinstance(obj, type) else 'function'} {getattr(obj, '__qualname__', obj.__name__)}"
        sources = {each: text for each in writer.filenames if (text := registry.codes.source(each)) is not None}
        header = Header(sys.version_info[:2], name, token, tokens, tuple(writer.functions), sources)
        frames = [pickle.dumps(tuple(header), PROTOCOL), body, *map(_snapshot, buffers)]
        definition = Definition(digest(header, frames[1:]), frames)
    return Written(definition, Watches(writer.watches), needs)


def read_header(frame: Frame) -> Header:
    """Return the header in a definition's first frame."""
    return Header(*pickle.loads(frame))


def digest(header: Header, frames: Iterable[Frame]) -> bytes:
    """Return the key of a definition.

    SHA-256 because processors have it in hardware: 1.8 GB/s here, where blake2b does 0.9. It is cut to 128 bits.
    """
    state = hashlib.sha256(repr((header.version, header.token, header.needs)).encode())
    for frame in frames:
        state.update(struct.pack("<Q", memoryview(frame).nbytes))
        state.update(frame)
    return state.digest()[:KEY_BYTES]


def _snapshot(buffer: memoryview | bytes) -> Frame:
    """Copy what its owner may change, so that the definition stays what its key says.

    A bytearray, because comparing one with a buffer is a ``memcmp`` (15 GB/s).
    """
    return buffer if isinstance(buffer, bytes) else bytearray(buffer)


def _same(
    definition: Definition, body: bytes, buffers: tuple[memoryview | bytes, ...], needs: tuple[bytes, ...]
) -> bool:
    """Whether a definition has these contents; much cheaper than digesting large arrays again."""
    frames = definition.frames
    return (
        len(frames) == len(buffers) + 2
        and frames[1] == body
        and all(ours == theirs for ours, theirs in zip(frames[2:], buffers, strict=True))
        and read_header(frames[0]).needs == needs
    )
