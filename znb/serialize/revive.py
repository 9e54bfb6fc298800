"""What pickles call to make again the builtin types that the C pickler cannot carry; plain functions, no state."""

from __future__ import annotations

import functools
import importlib
import marshal
import sys
import types
import typing
from typing import Any

from znb.errors import SerializationError

__all__ = [
    "attribute",
    "builtin_type",
    "cached_property",
    "cell",
    "check_version",
    "code",
    "exception",
    "lru_wrapper",
    "partial",
    "shaped_view",
    "type_alias",
    "type_variable",
]


def attribute(module: str, path: str) -> Any:
    """Return what a module holds under a dotted path."""
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def builtin_type(name: str) -> Any:
    """Return a type that only the ``types`` module names."""
    return getattr(types, name)


def cached_property(function: Any, name: str | None) -> functools.cached_property[Any]:
    """Make a cached property (Python 3.11 keeps a lock in it, so it cannot be pickled)."""
    made = functools.cached_property(function)
    made.attrname = name
    return made


def cell(*contents: Any) -> types.CellType:
    """Make a cell that holds what is given, or nothing."""
    return types.CellType(*contents)


def check_version(version: tuple[int, ...], what: str) -> None:
    """Refuse bytecode of another minor version of Python.

    Raises:
        SerializationError: The versions differ.
    """
    if tuple(version) != sys.version_info[:2]:
        theirs, ours = (".".join(map(str, each)) for each in (version, sys.version_info[:2]))
        raise SerializationError(
            f"{what} to Python {ours}",
            f"its bytecode is for Python {theirs}",
            hint="Run notebook and workers on the same minor version, or put the code into an importable module",
        )


def code(version: tuple[int, ...], data: bytes) -> types.CodeType:
    """Make a code object."""
    check_version(version, "a code object")
    made: types.CodeType = marshal.loads(data)  # noqa: S302 from holders of the cluster's keys, as pickles are
    return made


def exception(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    """Make an exception without running its ``__init__``, whose parameters need not be its ``args``."""
    made = kind.__new__(kind, *arguments)
    made.args = arguments
    return made


def lru_wrapper(function: Any, maxsize: int | None, typed: bool) -> Any:  # noqa: FBT001 positional in pickles
    """Make an ``lru_cache`` around a function, with an empty cache."""
    return functools.lru_cache(maxsize=maxsize, typed=typed)(function)


def partial(kind: type[functools.partial[Any]]) -> functools.partial[Any]:
    """Make a partial that gets its function and arguments by ``__setstate__``, so that they may refer to it."""
    return kind(int)


def shaped_view(buffer: Any, form: str, shape: tuple[int, ...]) -> memoryview:
    """Make a memoryview of a format and shape on a buffer of bytes."""
    view = memoryview(buffer)
    if form == "B" and len(shape) == 1:
        return view
    return view.cast("B").cast(form, shape)  # type: ignore[call-overload, no-any-return]


def type_variable(kind: str, name: str, arguments: tuple[Any, ...], options: dict[str, Any], module: bytes) -> Any:
    """Make a ``TypeVar``, ``ParamSpec``, ``TypeVarTuple`` or ``NewType``."""
    made = getattr(typing, kind)(name, *arguments, **options)
    made.__module__ = module.decode()
    return made


def type_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    """Make what ``type name[parameters] = value`` makes (Python 3.12 on)."""
    return typing.TypeAliasType(name, value, type_params=parameters)  # type: ignore[attr-defined, unused-ignore]
