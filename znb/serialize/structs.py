"""``msgspec.Struct`` classes, which only their own metaclass can lay out: it has to be given the fields again.

msgspec is looked up when there is a struct, so that importing this package does not wait for it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from typing import Any

__all__ = ["describe_struct", "is_made_by_type", "is_struct", "make_struct"]

#: Options of a class statement that a struct keeps in its configuration under the same name.
_OPTIONS = (
    "array_like",
    "cache_hash",
    "dict",
    "eq",
    "forbid_unknown_fields",
    "frozen",
    "gc",
    "omit_defaults",
    "order",
    "repr_omit_defaults",
    "tag",
    "tag_field",
    "weakref",
)


def is_struct(cls: type) -> bool:
    """Whether a class is a ``msgspec.Struct``."""
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and type(cls) is type(msgspec.Struct)


def is_made_by_type(metaclass: type) -> bool:
    """Whether ``type.__new__`` can make classes of a metaclass, which it cannot if that has its own in C."""
    for each in metaclass.__mro__:
        maker = vars(each).get("__new__")
        if maker is not None and not isinstance(maker, staticmethod | types.FunctionType):
            return each is type
    return True


def describe_struct(cls: Any) -> dict[str, Any]:
    """Return options and own fields of a struct: what ``make_struct`` is to be given."""
    config = cls.__struct_config__
    names = cls.__struct_fields__
    own = [name for name in vars(cls).get("__annotations__", {}) if name in names]
    count = len(cls.__struct_defaults__)
    values = zip(names[len(names) - count :], cls.__struct_defaults__, strict=True)
    defaults: dict[str, tuple[bool, Any]] = {}
    for name, value in values:
        if name in own and value is not sys.modules["msgspec"].NODEFAULT:
            factory = getattr(value, "factory", None) if type(value).__name__ == "Factory" else None
            defaults[name] = (True, factory) if factory is not None else (False, value)
    options = {name: getattr(config, name) for name in _OPTIONS}
    options["rename"] = {
        name: wire for name, wire in zip(names, cls.__struct_encode_fields__, strict=True) if name in own
    }
    parameters = inspect.signature(cls).parameters
    options["kw_only"] = bool(own) and all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in own)
    return {"options": options, "annotations": vars(cls).get("__annotations__", {}), "defaults": defaults}


def make_struct(name: str, bases: tuple[type, ...], space: dict[str, Any], described: dict[str, Any]) -> type:
    """Make a struct with the options and fields described."""
    msgspec: Any = importlib.import_module("msgspec")
    space = {**space, "__annotations__": described["annotations"]}
    for field, (is_factory, value) in described["defaults"].items():
        space[field] = msgspec.field(default_factory=value) if is_factory else msgspec.field(default=value)
    made: type = type(msgspec.Struct)(name, bases, space, **described["options"])
    return made
