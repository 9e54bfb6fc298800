"""Digests of what objects mean, the same in every process: has a function or an input changed since another run?

Functions and classes that cannot be imported count by what they do: bytecode, constants, defaults, closures and the
globals they reach, not by file name or line. Importable functions count by name and bytecode. Sets count without order.

Pure; nothing is run but objects' own ``__reduce__``.
"""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
import types
from typing import Any

from znb.errors import SerializationError
from znb.serialize.names import Importables

__all__ = ["fingerprint"]

#: Length of a fingerprint in bytes.
SIZE = 16
#: Attributes of a class that say nothing of what it does.
INCIDENTAL = frozenset({"__dict__", "__weakref__", "__module__", "__doc__", "__abstractmethods__", "_abc_impl"})
#: Types of those of a class's other attributes that count.
PLAIN = (type, str, int, float, tuple, list, dict, frozenset)
#: Opcodes of sets in pickles: EMPTY_SET, FROZENSET. Their order depends on the process.
SETS = (b"\x8f", b"\x91")
_PYTHON_PICKLER: Any = pickle._Pickler


def fingerprint(obj: Any) -> bytes:
    """Return 16 bytes that tell an object from any other.

    Raises:
        SerializationError: It cannot be pickled.
    """
    for make in (_quick, _thorough):
        try:
            digest = make(obj)
        except (ValueError, RecursionError):
            continue  # it refers to itself
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise SerializationError(f"the {type(obj).__name__}", f"it has no fingerprint ({error})") from error
        if digest is not None:
            return digest
    raise SerializationError(f"the {type(obj).__name__}", "it has no fingerprint: it is nested too deeply")


def _quick(obj: Any) -> bytes | None:
    """Return the digest, or ``None`` if the pickle may depend on more than the object."""
    file = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    pickler = _Quick(file, 5, buffer_callback=buffers.append)
    pickler.fast = True  # equal objects and one object twice are the same thing here
    pickler.dump(obj)
    body = file.getvalue()
    return None if any(opcode in body for opcode in SETS) else _digest(body, buffers)


def _thorough(obj: Any) -> bytes:
    file = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Thorough(file, 5, buffer_callback=buffers.append).dump(obj)
    return _digest(file.getvalue(), buffers)


def _digest(body: bytes, buffers: list[pickle.PickleBuffer]) -> bytes:
    state = hashlib.blake2b(body, digest_size=SIZE)
    for buffer in buffers:
        state.update(buffer.raw())
    return state.digest()


class _Canonical:
    """What both picklers do with functions, classes and modules."""

    def reducer_override(self, obj: Any) -> Any:
        """Reduce what pickle would name to what it does."""
        if isinstance(obj, types.FunctionType):
            return NotImplemented if obj is _mark else _function(obj)
        if isinstance(obj, type) and obj.__flags__ & (1 << 9) and not _names().reaches(obj):
            return _class(obj)
        if isinstance(obj, types.ModuleType):
            return _mark, ("module", obj.__name__)
        if type(obj) is functools.partial:  # its own pickle tells whether its __dict__ was ever looked at
            return _mark, ("partial",), (obj.func, obj.args, obj.keywords, obj.__dict__)
        if isinstance(obj, types.CellType):
            return _mark, ("cell",), _contents(obj)
        return NotImplemented


class _Quick(_Canonical, pickle.Pickler):
    """The C pickler."""


class _Thorough(_Canonical, _PYTHON_PICKLER):  # type: ignore[misc]
    """The Python pickler, which can be taught that sets have no order."""

    dispatch = dict(_PYTHON_PICKLER.dispatch)  # noqa: RUF012 - as its base has it

    def save_set(self, obj: Any) -> None:
        """Save the items' fingerprints, sorted."""
        self.save_reduce(_mark, (type(obj).__name__, sorted(map(fingerprint, obj))), obj=obj)

    dispatch[set] = save_set
    dispatch[frozenset] = save_set


def _mark(*_: Any) -> None:
    """Stand for something in a pickle that is never loaded."""


@functools.cache
def _names() -> Importables:
    return Importables()


def _function(function: types.FunctionType) -> tuple[Any, ...]:
    if _names().reaches(function):
        return _mark, ("function", function.__module__, function.__qualname__, _code(function.__code__))
    names = _global_names(function.__code__)
    space = function.__globals__
    state = (
        function.__defaults__,
        function.__kwdefaults__,
        [_contents(cell) for cell in function.__closure__ or ()],
        {name: space[name] for name in sorted(names) if name in space},
    )
    return _mark, ("function", function.__name__, _code(function.__code__)), state


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty as yet
        return None


def _class(cls: type) -> tuple[Any, ...]:
    state = {name: _plain(name, value) for name, value in sorted(vars(cls).items()) if name not in INCIDENTAL}
    return _mark, ("class", cls.__qualname__), (cls.__bases__, state)


def _plain(name: str, value: Any) -> Any:
    """Return what of a class's attribute counts, as something that can be pickled."""
    if isinstance(value, staticmethod | classmethod):
        return type(value).__name__, value.__func__
    if isinstance(value, property):
        return "property", value.fget, value.fset, value.fdel
    if isinstance(value, types.FunctionType):
        return value
    if not name.startswith("__") and isinstance(value, PLAIN):
        return value
    return type(value).__name__  # descriptors, and what a metaclass keeps


def _code(code: types.CodeType) -> tuple[Any, ...]:
    """Return what of a code object counts: nothing of where it stands."""
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return code.co_code, counts, names, tuple(map(_constant, code.co_consts))


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    if isinstance(value, tuple):
        return tuple(map(_constant, value))
    return value if value is not Ellipsis else "..."


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names
