"""Has anything changed that a definition was made of?

A watch remembers, by identity, every value that a function or class was read with: code, defaults, cells, the globals
it reaches, class attributes. Checking compares identities at C speed. Values that can change in place (arrays,
instances, large containers) cannot be watched: they make a definition *volatile*, and it is pickled again and compared
at each use.

Invariant: a watch holds no strong reference to a function or class that is itself a definition, because the watch is
reachable from the codec and would keep it alive for ever.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import types
import weakref
from functools import partial
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from znb.serialize.names import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from znb.serialize.names import Importables

__all__ = [
    "ALWAYS",
    "Pristine",
    "Unchanged",
    "Watch",
    "Watches",
    "is_plain",
    "watch_class",
    "watch_function",
]

#: Types whose instances cannot change and refer to nothing that could.
_PLAIN_TYPES: frozenset[type] = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        range,
        type(Ellipsis),
        type(NotImplemented),
        types.CodeType,
        *(type(getattr(dataclasses, name)) for name in ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY")),
    }
)

#: The same for types that are not worth an import: module and name.
_PLAIN_NAMES = frozenset(
    {
        *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *(("numpy", name) for name in ("bool", "bool_", "float32", "float64", "int32", "int64", "str_")),
        *(
            (module, name)
            for module in ("pathlib", "pathlib._local")  # the latter since Python 3.13
            for name in ("PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
        ),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("re", "Pattern"),
        ("uuid", "UUID"),
        ("zoneinfo", "ZoneInfo"),
    }
)

#: Longest container whose items are compared one by one; larger ones are pickled again instead, at the same cost.
_SHALLOW_ITEMS = 256

#: Class attributes that nobody changes in place, or that follow from others.
_SETTLED = frozenset(
    {
        "__annotations__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__orig_bases__",
        "__parameters__",
        "__weakref__",
        "_abc_impl",
        "_hashable_values_",
        "_member_map_",
        "_member_names_",
        "_unhashable_values_",
        "_unhashable_values_map_",
        "_value2member_map_",
    }
)

_EMPTY_CELL = "<empty cell>"
_LruWrapper = type(functools.lru_cache(maxsize=1)(lambda: None))
_WEAK = frozenset({types.FunctionType, _LruWrapper, *VARIABLES})


class Unchanged(Protocol):
    """Something that can say whether its subject still is what it was."""

    def unchanged(self) -> bool:
        """Whether nothing has changed since."""


class Watch:
    """The values that one function or class was read with.

    Args:
        owner: The function or class.
        read: Returns its values as a flat list, in the same order each time.
        names: What is importable, and so may be held strongly.
    """

    __slots__ = ("_owner", "_read", "_shallow", "_template", "_weak", "volatile")

    def __init__(self, owner: Any, read: Callable[[Any], list[Any]], names: Importables) -> None:
        values = read(owner)
        self._owner = weakref.ref(owner)
        self._read = read
        self._template: list[Any] = list(values)
        self._weak: list[tuple[int, weakref.ref[Any]]] = []
        self._shallow: list[tuple[int, type, list[Any]]] = []
        self.volatile = False
        for index, value in enumerate(values):
            kind = type(value)
            if is_plain(value, names):
                continue
            self._template[index] = None
            if kind in _WEAK or issubclass(kind, type):
                self._weak.append((index, weakref.ref(value)))
            elif kind in {list, dict, set} and len(value) <= _SHALLOW_ITEMS and is_plain(items_of(value), names):
                self._shallow.append((index, kind, list(items_of(value))))
            else:
                self.volatile = True

    def unchanged(self) -> bool:
        """Whether every value is the very object it was."""
        if self.volatile:
            return False
        owner = self._owner()
        if owner is None:
            return False
        try:
            current = self._read(owner)
        except (LookupError, AttributeError):  # a name that was there is gone
            return False
        expected = self._template
        if len(current) != len(expected):
            return False
        if self._weak or self._shallow:
            expected = list(expected)
            for index, reference in self._weak:
                expected[index] = reference()
            for index, kind, items in self._shallow:
                value = current[index]
                if type(value) is not kind:
                    return False
                now = items_of(value)
                if len(now) != len(items) or not all(map(is_, now, items)):
                    return False
                expected[index] = value
        return all(map(is_, current, expected))


class Watches:
    """All of several."""

    __slots__ = ("_watches",)

    def __init__(self, watches: Iterable[Watch]) -> None:
        every = list(watches)
        # The volatile first: they answer without a look at anything.
        self._watches = tuple(sorted(every, key=lambda watch: not watch.volatile))

    def unchanged(self) -> bool:
        """Whether all are unchanged."""
        return all(watch.unchanged() for watch in self._watches)


class Pristine:
    """What the globals of a loaded function were bound to when it was loaded.

    Objects that the function changed in place are not looked at: a function loaded here is this process's own copy,
    as a module imported here would be, and goes on under the definition it came with.
    """

    __slots__ = ("_bound", "_owner")

    def __init__(self, function: types.FunctionType, names: Importables) -> None:
        self._owner = weakref.ref(function)
        self._bound = {name: _binding(value, names) for name, value in function.__globals__.items()}

    def unchanged(self) -> bool:
        """Whether every name is bound to what it was bound to."""
        owner = self._owner()
        if owner is None:
            return False
        space = owner.__globals__
        if space.keys() != self._bound.keys():
            return False
        return all(same(space[name]) for name, same in self._bound.items())


def _binding(value: Any, names: Importables) -> Callable[[Any], bool]:
    """Return a test for being this very value, which does not keep anything but plain values alive."""
    if is_plain(value, names):
        return partial(is_, value)
    try:
        return partial(_refers, weakref.ref(value))
    except TypeError:  # list, dict, set, tuple
        return partial(_is_at, id(value))


def _refers(reference: weakref.ref[Any], now: Any) -> bool:
    return reference() is now


def _is_at(address: int, now: Any) -> bool:
    return id(now) == address


class _Always:
    """For classes loaded from a peer: their home decides what they are."""

    __slots__ = ()

    def unchanged(self) -> bool:
        """Yes."""
        return True


ALWAYS: Unchanged = _Always()


def items_of(container: Any) -> tuple[Any, ...]:
    """Return the items of a list or set, or the keys and values of a dict."""
    if type(container) is dict:
        return (*container, *container.values())
    return tuple(container)


def is_plain(value: Any, names: Importables) -> bool:
    """Whether a value can neither change in place nor refer to a definition."""
    kind = type(value)
    if kind in _PLAIN_TYPES:
        return True
    if kind is tuple or kind is frozenset:
        return len(value) <= _SHALLOW_ITEMS and all(is_plain(item, names) for item in value)
    if kind is types.BuiltinFunctionType:
        return value.__self__ is None or isinstance(value.__self__, types.ModuleType | type)
    if (kind.__module__, kind.__qualname__) in _PLAIN_NAMES:
        return names.reaches(kind)
    if issubclass(kind, types.ModuleType):
        return names.module(value)
    if kind is types.FunctionType or kind in VARIABLES or issubclass(kind, type):
        return names.reaches(value)
    return False


def watch_function(function: types.FunctionType, reached: tuple[str, ...], names: Importables) -> Watch:
    """Return a watch on a function and the globals that it reaches.

    Args:
        function: The function.
        reached: Global names that it reaches; those not defined (mostly builtins) are watched for appearing.
        names: What is importable.
    """
    space = function.__globals__
    present = tuple(name for name in reached if name in space)
    absent = tuple(name for name in reached if name not in space)
    pick: Callable[[Any], Any] | None = itemgetter(*present) if present else None
    single = len(present) == 1

    def read(owner: types.FunctionType) -> list[Any]:
        values: list[Any] = [owner.__code__, owner.__name__, owner.__qualname__, owner.__doc__]
        if owner.__defaults__:
            values += owner.__defaults__
        if owner.__kwdefaults__:
            values += items_of(owner.__kwdefaults__)
        if owner.__dict__:
            values += items_of(owner.__dict__)
        if owner.__closure__:
            values += map(cell_contents, owner.__closure__)
        space = owner.__globals__
        if pick is not None:
            values += (pick(space),) if single else pick(space)
        if absent and not space.keys().isdisjoint(absent):
            raise KeyError(absent)
        return values

    return Watch(function, read, names)


def cell_contents(cell: types.CellType) -> Any:
    """Return what a cell holds, or a marker if it holds nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY_CELL


def watch_class(cls: type, names: Importables) -> Watch:
    """Return a watch on a class's own attributes (its bases have their own)."""
    return Watch(cls, _read_class, names)


def _read_class(cls: type) -> list[Any]:
    values: list[Any] = [*cls.__bases__]
    if isinstance(cls, abc.ABCMeta):
        values.append(abc.get_cache_token())  # changes when a virtual subclass is registered anywhere
    for name, value in cls.__dict__.items():
        kind = type(value)
        if name in _SETTLED or kind is cls or kind in _OWN_DESCRIPTORS:
            continue
        values.append(name)
        if kind is property:
            values += (value.fget, value.fset, value.fdel)
        elif kind is staticmethod or kind is classmethod:
            values.append(value.__func__)
        elif kind is functools.cached_property:
            values.append(value.func)
        else:
            values.append(value)
    return values


#: Descriptors that a class makes for its slots; they refer to it strongly and never change.
_OWN_DESCRIPTORS = frozenset({types.MemberDescriptorType, types.GetSetDescriptorType})
