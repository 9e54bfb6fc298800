"""How builtin objects travel that the C pickler cannot carry, or would carry as a name that means nothing elsewhere.

A reducer gets the pickler at work and an object, and returns what ``__reduce__`` would, or ``NotImplemented`` for the
C pickler's own way. For the rarest types the recipe is dill's, read through a stand-in pickler, so that what those
objects contain is still pickled here, with this package's idea of functions and classes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pickle
import sys
import types
import typing
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from znb.serialize import revive
from znb.serialize.codes import CodeFacts

if TYPE_CHECKING:
    from collections.abc import Callable

    from znb.serialize.names import Importables

__all__ = ["TABLE", "ModuleName", "exception", "property_subclass", "type_variable"]

Reduced = Any

#: Formats that ``memoryview.cast`` knows.
_NATIVE = frozenset("bBhHiIlLqQnNfd?cP")


class _Pickler(Protocol):
    """What reducers need of a pickler."""

    names: Importables


class ModuleName:
    """Stands for a module that is imported at the other end, whatever its type is here."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def _module_name(_pickler: _Pickler, obj: ModuleName) -> Reduced:
    return importlib.import_module, (obj.name,)


def module(pickler: _Pickler, obj: types.ModuleType) -> Reduced:
    """By name if peers can import it, else by its attributes."""
    if pickler.names.module(obj):
        return importlib.import_module, (obj.__name__,)
    skip = {"__builtins__", "__loader__", "__spec__", "__cached__"}
    state = {name: value for name, value in vars(obj).items() if name not in skip}
    return types.ModuleType, (obj.__name__, obj.__doc__), state


def _cell(_pickler: _Pickler, obj: types.CellType) -> Reduced:
    try:
        return revive.cell, (obj.cell_contents,)
    except ValueError:
        return revive.cell, ()


def _code(_pickler: _Pickler, obj: types.CodeType) -> Reduced:
    return revive.code, (sys.version_info[:2], CodeFacts(obj).data)


def _method(_pickler: _Pickler, obj: types.MethodType) -> Reduced:
    """A bound method is looked up by name at the other end, unless that would find something else."""
    owner, name = obj.__self__, obj.__name__
    if name == "get_ipython" and _is_shell(owner):
        # What cells see as get_ipython: at the other end it is that process's own shell.
        return revive.attribute, ("IPython", "get_ipython")
    found = None if name.startswith("__") else getattr(owner, name, None)
    if type(found) is types.MethodType and found.__func__ is obj.__func__ and found.__self__ is owner:
        return getattr, (owner, name)
    return types.MethodType, (obj.__func__, owner)


def _is_shell(obj: object) -> bool:
    return any(base.__module__ == "IPython.core.interactiveshell" for base in type(obj).__mro__)


def _memoryview(_pickler: _Pickler, obj: memoryview) -> Reduced:
    if obj.format.lstrip("@") not in _NATIVE:
        message = f"a memoryview of format {obj.format!r} cannot be made again; send an array of it"
        raise pickle.PicklingError(message)
    if not obj.nbytes:
        return memoryview, (b"",)
    data: Any = pickle.PickleBuffer(obj) if obj.c_contiguous else obj.tobytes()
    return revive.shaped_view, (data, obj.format, obj.shape)


def _property(_pickler: _Pickler, obj: property) -> Reduced:
    return type(obj), (obj.fget, obj.fset, obj.fdel, obj.__doc__)


def property_subclass(obj: property) -> Reduced:
    """As a property, with what the subclass keeps in its ``__dict__``."""
    return type(obj), (obj.fget, obj.fset, obj.fdel, obj.__doc__), getattr(obj, "__dict__", None) or None


def _method_holder(_pickler: _Pickler, obj: staticmethod[..., Any] | classmethod[Any, ..., Any]) -> Reduced:
    return type(obj), (obj.__func__,)


def _mapping_proxy(_pickler: _Pickler, obj: types.MappingProxyType[Any, Any]) -> Reduced:
    return types.MappingProxyType, (dict(obj),)


def _cached_property(_pickler: _Pickler, obj: functools.cached_property[Any]) -> Reduced:
    return revive.cached_property, (obj.func, obj.attrname)


def _lru_wrapper(pickler: _Pickler, obj: Any) -> Reduced:
    """By name if that finds it; else the function with an empty cache of the same size."""
    if pickler.names.reaches(obj):
        return NotImplemented
    options = obj.cache_parameters()
    state = {name: value for name, value in vars(obj).items() if name != "cache_parameters"}
    return revive.lru_wrapper, (obj.__wrapped__, options["maxsize"], options["typed"]), state


def _partial(_pickler: _Pickler, obj: functools.partial[Any]) -> Reduced:
    return revive.partial, (functools.partial,), (obj.func, obj.args, obj.keywords, vars(obj) or None)


def _weak_mapping(_pickler: _Pickler, obj: Any) -> Reduced:
    return type(obj), (dict(obj),)


def _weak_set(_pickler: _Pickler, obj: weakref.WeakSet[Any]) -> Reduced:
    return weakref.WeakSet, (list(obj),)


def type_variable(obj: Any) -> Reduced:
    """Make a variable of the same name and options."""
    module = obj.__module__ if isinstance(obj.__module__, str) else "__main__"
    kind = type(obj).__name__
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    if kind == "NewType":
        arguments = (obj.__supertype__,)
    elif kind != "TypeVarTuple":
        arguments = getattr(obj, "__constraints__", ())
        options = {"bound": obj.__bound__, "covariant": obj.__covariant__, "contravariant": obj.__contravariant__}
        if getattr(obj, "__infer_variance__", False):
            options = {"bound": obj.__bound__, "infer_variance": True}
    if getattr(obj, "has_default", None) is not None and obj.has_default():
        options["default"] = obj.__default__
    return revive.type_variable, (kind, obj.__name__, arguments, options, module.encode())


def _type_alias(pickler: _Pickler, obj: Any) -> Reduced:
    if pickler.names.finds(obj.__module__, obj.__name__, obj):
        return NotImplemented
    return revive.type_alias, (obj.__name__, obj.__value__, obj.__type_params__)


def _dataclass_mark(name: str) -> Callable[[_Pickler, Any], Reduced]:
    return lambda _pickler, _obj: (revive.attribute, ("dataclasses", name))


def _dataclass_field_kind(_pickler: _Pickler, obj: Any) -> Reduced:
    return revive.attribute, ("dataclasses", obj.name)


class _Recipe:
    """Stands in for dill's pickler and notes what dill would save for an object."""

    reduced: Reduced = NotImplemented

    def save_reduce(self, *reduced: Any, **_named: Any) -> None:
        self.reduced = reduced


def _by_dill(_pickler: _Pickler, obj: Any) -> Reduced:
    import dill  # noqa: PLC0415 73 ms that only the rarest objects need

    save = dill.Pickler.dispatch.get(type(obj))
    if save is None:
        return NotImplemented
    recipe = _Recipe()
    save(recipe, obj)
    return recipe.reduced


def exception(kind: type[BaseException], obj: BaseException) -> Reduced:
    """Keep the C pickler's way unless making the exception again would call a Python ``__init__`` with ``args``.

    ``class E(Exception): def __init__(self, a, b): super().__init__(f"{a} {b}")`` is the classic one that pickles
    and then cannot be loaded.
    """
    if (
        kind.__reduce__ is BaseException.__reduce__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and isinstance(kind.__init__, types.FunctionType)
        and not isinstance(kind.__new__, types.FunctionType)
    ):
        return revive.exception, (kind, obj.args), obj.__dict__ or None
    return NotImplemented


def _dataclass_marks() -> dict[type, Callable[[Any, Any], Reduced]]:
    """Sentinels that dataclasses tell by identity."""
    table: dict[type, Callable[[Any, Any], Reduced]] = {}
    for name in ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY"):
        mark = getattr(dataclasses, name, None)
        if mark is not None:
            table[type(mark)] = _dataclass_mark(name)
    kind = getattr(dataclasses, "_FIELD_BASE", None)
    if kind is not None:
        table[kind] = _dataclass_field_kind
    return table


def _type_aliases() -> dict[type, Callable[[Any, Any], Reduced]]:
    """What pickles itself as a name in its module."""
    alias = getattr(typing, "TypeAliasType", None)
    return {} if alias is None else {alias: _type_alias}


_BY_DILL: tuple[type, ...] = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    super,
    weakref.ReferenceType,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)

#: Reducers by exact type. Filled at import and never changed.
TABLE: dict[type, Callable[[Any, Any], Reduced]] = {
    **dict.fromkeys(_BY_DILL, _by_dill),
    **_dataclass_marks(),
    **_type_aliases(),
    ModuleName: _module_name,
    types.ModuleType: module,
    types.CellType: _cell,
    types.CodeType: _code,
    types.MethodType: _method,
    types.MappingProxyType: _mapping_proxy,
    memoryview: _memoryview,
    property: _property,
    staticmethod: _method_holder,
    classmethod: _method_holder,
    functools.cached_property: _cached_property,
    functools.partial: _partial,
    type(functools.lru_cache(maxsize=1)(lambda: None)): _lru_wrapper,
    weakref.WeakKeyDictionary: _weak_mapping,
    weakref.WeakValueDictionary: _weak_mapping,
    weakref.WeakSet: _weak_set,
}
