"""From definitions to functions and classes.

A session loads what one body needs: first the skeletons of all classes, bases before subclasses, then what fills them,
each class when another first needs it finished, then the functions. Nothing is registered before all of it is loaded,
so a failure leaves no half-made class behind.

The codec's lock is held throughout.
"""

from __future__ import annotations

import importlib
import io
import marshal
import pickle
import sys
import types
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from znb.errors import SerializationError
from znb.serialize import classes, stream
from znb.serialize.codes import register_source
from znb.serialize.revive import check_version
from znb.serialize.watch import ALWAYS, Pristine
from znb.serialize.writing import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from znb.serialize.names import Importables
    from znb.serialize.records import Definition, Entry, Frame

__all__ = ["Session", "Unpickler", "writable"]

_STREAM = stream.__name__


class Registry(Protocol):
    """What a session needs of its codec."""

    names: Importables

    def find(self, token: bytes) -> tuple[Entry, Any] | None:
        """Return the entry and object of a token, if the object is alive."""

    def register(self, obj: Any, token: bytes) -> Entry:
        """Note a function or class that was loaded from a peer."""


def writable(buffer: Frame) -> Frame:
    """Return a buffer that arrays can be written through: a copy of ``bytes``, any other as it is."""
    return bytearray(buffer) if type(buffer) is bytes else buffer


class Unpickler(pickle.Unpickler):
    """The C unpickler, which answers the names of ``stream`` with the methods of a loader."""

    def __init__(self, file: io.BytesIO, buffers: Iterable[Frame], bound: dict[str, Callable[..., Any]]) -> None:
        super().__init__(file, buffers=buffers)
        self._bound = bound

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name in the pickle stands for."""
        if module == _STREAM:
            return self._bound[name]
        return super().find_class(module, name)


class _Loader:
    """Reads one definition."""

    def __init__(self, session: Session, definition: Definition) -> None:
        self.definition = definition
        self.header = read_header(definition.frames[0])
        self.names: set[str] = set()
        self.functions: list[types.FunctionType] = []
        self._session = session
        self._modules: dict[int, types.ModuleType] = {}
        self.root: Any = None
        check_version(self.header.version, self.header.name)
        for filename, text in self.header.sources.items():
            register_source(filename, text)
        bound: dict[str, Callable[..., Any]] = {
            "reference": self._reference,
            "itself": self._itself,
            "member": self._member,
            "function": self._function,
            "cell": types.CellType,
            "namespace": self._namespace,
            "module": self._module,
        }
        buffers = definition.frames[2:]
        self._unpickler = Unpickler(io.BytesIO(definition.frames[1]), map(writable, buffers), bound)
        definition.shared = any(type(buffer) is not bytes for buffer in buffers)

    def read(self) -> Any:
        """Return the next pickle of the body."""
        return self._unpickler.load()

    def finish(self) -> None:
        """Carry out the steps that fill what was made."""
        while (step := self.read()) is not None:
            self._carry_out(*step)
        del self._unpickler  # it refers to this loader, and its memo to everything in the definition

    def _carry_out(self, kind: int, *rest: Any) -> None:
        if kind == stream.FILL:
            _fill(*rest)
        elif kind == stream.BIND:
            space, name, value = rest
            space[name] = value
        elif kind == stream.CELL:
            cell, value = rest
            cell.cell_contents = value
        elif kind == stream.IMPORT:
            for name in rest[0]:
                importlib.import_module(name)
        elif kind == stream.MEMBERS:
            classes.make_members(self.root, *rest)
        elif kind == stream.ATTRIBUTES:
            self.names |= rest[0].keys()
            classes.update(self.root, rest[0])
        elif kind == stream.REGISTER:
            for each in rest[0]:
                self.root.register(each)

    def _reference(self, index: int) -> Any:
        return self._session.referred(self.header.needs[index])

    def _itself(self) -> Any:
        return self.root

    def _member(self, name: str) -> Any:
        return vars(self.root)["_member_map_"][name]

    def _function(
        self, data: bytes, space: dict[str, Any], cells: tuple[types.CellType, ...] | None, name: str, qualname: str
    ) -> types.FunctionType:
        code = marshal.loads(data)  # noqa: S302 from holders of the cluster's keys, as pickles are
        made = types.FunctionType(code, space, name, None, cells)
        made.__qualname__ = qualname
        self.functions.append(made)
        return made

    def _namespace(self, name: bytes, imported: bool, package: str | None) -> dict[str, Any]:  # noqa: FBT001 pickled
        title = name.decode()
        if imported:
            return vars(importlib.import_module(title))
        module = types.ModuleType(title)
        space = vars(module)
        for each in ("__doc__", "__loader__", "__spec__"):
            del space[each]
        space["__package__"] = package
        space["__builtins__"] = sys.modules["builtins"]
        self._modules[id(space)] = module
        return space

    def _module(self, space: dict[str, Any], doc: str | None) -> types.ModuleType:
        module = self._modules[id(space)]
        module.__doc__ = doc
        return module


def _fill(function: types.FunctionType, state: dict[str, Any], space: dict[str, Any], bindings: dict[str, Any]) -> None:
    """Finish a function."""
    module = state.pop("__module__")
    function.__module__ = module.decode() if isinstance(module, bytes) else module
    function.__dict__.update(state.pop("__dict__", {}))
    for name, value in state.items():
        setattr(function, name, value)
    space.update(bindings)


class _ClassLoader(_Loader):
    """Reads the definition of a class (or of a type variable, which has no second stage)."""

    def __init__(self, session: Session, definition: Definition, token: bytes, existing: type | None) -> None:
        super().__init__(session, definition)
        self.token = token
        self._existing = existing
        self._stage = 0

    def make_skeleton(self) -> None:
        """Make the class without attributes, or take the one whose older version is here."""
        if self._stage:
            return
        self._stage = 1
        made = self.read()
        if not isinstance(made, tuple):  # a type variable
            self.root = made if self._existing is None else self._existing
            return
        skeleton = classes.Skeleton(*made)
        self.names |= skeleton.early.keys()
        if self._existing is not None:
            self.root = self._existing
            if self.root.__bases__ != skeleton.bases:
                self.root.__bases__ = skeleton.bases
        else:
            self.root = classes.make(skeleton, is_ours=lambda each: not self._session.names.reaches(each))

    def complete(self) -> None:
        """Give the class its attributes; a class whose attributes are being read counts as complete."""
        if self._stage == 1:
            self._stage = 2
            self.finish()
            if isinstance(self._existing, type):
                classes.retire(self.root, self.names)


class Session:
    """Loads the definitions that one body needs.

    Args:
        registry: The codec.
    """

    def __init__(self, registry: Registry) -> None:
        self.names = registry.names
        self._registry = registry
        self._classes: dict[bytes, _ClassLoader] = {}
        self._completing = False

    def load(self, rows: Sequence[tuple[bytes, Definition | None]]) -> list[Any]:
        """Return the objects of a body's rows.

        Args:
            rows: Tokens and definitions; no definition where the object is this process's own.

        Raises:
            SerializationError: A definition is for another version of Python, or incomplete.
        """
        try:
            return self._load(rows)
        finally:
            self._classes.clear()  # the loaders refer to this session, and to what they have read

    def _load(self, rows: Sequence[tuple[bytes, Definition | None]]) -> list[Any]:
        functions: list[tuple[bytes, Definition]] = []
        for token, definition in rows:
            if definition is None:
                continue
            if read_header(definition.frames[0]).token:
                self._plan_class(token, definition)
            else:
                functions.append((token, definition))
        for loader in list(self._classes.values()):
            loader.make_skeleton()
        self._completing = True
        for loader in list(self._classes.values()):
            loader.complete()
        self._register_classes()
        for token, definition in functions:
            self._load_function(token, definition)
        return [self._object(token, definition) for token, definition in rows]

    def referred(self, token: bytes) -> Any:
        """Return a class that a definition refers to, as finished as it can be."""
        loader = self._classes.get(token)
        if loader is not None:
            loader.make_skeleton()
            if self._completing:
                loader.complete()
            return loader.root
        found = self._registry.find(token)
        if found is None:
            _lacking(token)
        return found[1]

    def _object(self, token: bytes, definition: Definition | None) -> Any:
        if definition is not None:
            return definition.loaded
        found = self._registry.find(token)
        return found[1] if found is not None else _lacking(token)

    def _plan_class(self, token: bytes, definition: Definition) -> None:
        found = self._registry.find(token)
        if found is not None and found[0].key == definition.key:
            entry, cls = found
            if definition.loaded is None:  # it was dropped, and has come again
                definition.loaded = cls
                entry.adopt(definition, ALWAYS, entry.needs)
            return
        if found is not None:
            found[0].key = b""  # until it is complete again
        self._classes[token] = _ClassLoader(self, definition, token, found[1] if found is not None else None)

    def _register_classes(self) -> None:
        loaded = []
        for token, loader in self._classes.items():
            loader.definition.loaded = loader.root
            loaded.append((self._registry.register(loader.root, token), loader))
        for entry, loader in loaded:
            entry.adopt(loader.definition, ALWAYS, self._needs(loader))
            self._register_functions(loader)

    def _load_function(self, token: bytes, definition: Definition) -> None:
        if definition.loaded is not None:
            return
        loader = _Loader(self, definition)
        loader.root = loader.read()
        loader.finish()
        definition.loaded = loader.root
        self._register_functions(loader)
        entry = self._registry.register(loader.root, token)
        entry.adopt(definition, Pristine(loader.root, self.names), self._needs(loader))

    def _register_functions(self, loader: _Loader) -> None:
        for function, token in zip(loader.functions, loader.header.functions, strict=True):
            self._registry.register(function, token)

    def _needs(self, loader: _Loader) -> tuple[Entry, ...]:
        found = [self._registry.find(token) for token in loader.header.needs]
        return tuple(each[0] for each in found if each is not None)


def _lacking(token: bytes) -> NoReturn:
    raise SerializationError(
        "an object to this process", f"the definition of class {token.hex()} was not named by the message that needs it"
    )
