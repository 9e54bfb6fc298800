"""Names that bodies and definitions refer to and that mean something only to the loader reading them.

Pickles contain them as ``GLOBAL znb.serialize.stream <name>``; ``znb.serialize.loading`` answers them with the bound
methods of the loader at work, so no loader has to be found through a global variable. Called directly they fail.

A definition's body is several pickles that share one memo: first the root (a function, or what a class's skeleton is
made of), then steps, each a tuple that begins with one of the numbers below, and ``None`` at the end. What a function
or class refers to is filled in by steps, after the objects themselves exist, so that any cycle through globals, cells
or class attributes can be loaded. Steps are in the order in which things become usable: functions first, then
containers, then instances, whose making may call them.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

__all__ = [
    "ATTRIBUTES",
    "BIND",
    "CELL",
    "FILL",
    "IMPORT",
    "MEMBERS",
    "REGISTER",
    "cell",
    "function",
    "itself",
    "member",
    "module",
    "namespace",
    "reference",
    "require",
]

#: ``(FILL, function, state, namespace, bindings)``: finish a function and bind globals that are plain.
FILL: Final = 1
#: ``(BIND, namespace, name, value)``: bind a global that is a mutable object.
BIND: Final = 2
#: ``(CELL, cell, value)``: fill a closure's cell.
CELL: Final = 3
#: ``(IMPORT, names)``: import submodules that are reached through their packages.
IMPORT: Final = 4
#: ``(MEMBERS, [(name, arguments, state)])``: make the members of an enumeration.
MEMBERS: Final = 5
#: ``(ATTRIBUTES, attributes)``: set attributes of the class.
ATTRIBUTES: Final = 6
#: ``(REGISTER, classes)``: register virtual subclasses of an ABC.
REGISTER: Final = 7


def _unbound(name: str) -> NoReturn:
    message = f"{name} can be read by a znb codec alone: use Codec.decode, not pickle.loads"
    raise RuntimeError(message)


def require(_rows: bytes) -> NoReturn:
    """Name the definitions of the body that follows."""
    _unbound("a body with definitions")


def reference(_index: int) -> NoReturn:
    """Return a definition's object, by its row in the prefix or in the header."""
    _unbound("a reference")


def itself() -> NoReturn:
    """Return the class whose definition is being read."""
    _unbound("a class")


def member(_name: str) -> NoReturn:
    """Return a member of the enumeration whose definition is being read."""
    _unbound("a member")


def function(_data: bytes, _space: Any, _cells: Any, _name: str, _qualname: str) -> NoReturn:
    """Make a function without its defaults and attributes."""
    _unbound("a function")


def cell() -> NoReturn:
    """Make an empty cell."""
    _unbound("a cell")


def namespace(_name: bytes, _imported: bool, _package: str | None) -> NoReturn:  # noqa: FBT001 positional in pickles
    """Return the globals of an importable module, or new ones for notebook functions to share."""
    _unbound("a namespace")


def module(_space: Any, _doc: str | None) -> NoReturn:
    """Return the module object of a namespace."""
    _unbound("a module")
