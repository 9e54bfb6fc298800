"""What of a class travels, and how a class is made again from it.

A class is made in two steps, so that classes may refer to each other in any way: a skeleton with its final metaclass
and bases, then its attributes. None of the hooks that ran when the class was defined runs again (``__init_subclass__``
of notebook classes, ``__set_name__``, metaclass ``__new__`` and ``__init__``, members' ``__init__``): their effects are
in the attributes. Only a library's ``__init_subclass__`` runs, as the library has not seen the class in this process.
"""

from __future__ import annotations

import abc
import enum
import pickle
import sys
import types
from typing import Any, NamedTuple

from znb.serialize import stream
from znb.serialize.structs import describe_struct, is_made_by_type, is_struct, make_struct

__all__ = ["Skeleton", "Steps", "describe", "make", "make_members", "retire", "update"]

#: Attributes that belong to the class object itself and are made with it.
_NEVER = frozenset({"__dict__", "__weakref__", "_abc_impl", "__abstractmethods__", "__slots__", "__module__"})

#: Attributes that the skeleton needs: ``__slots__`` decides its layout, and ``typing`` looks at the others when a
#: subclass is made or subscripted.
_EARLY = ("__slots__", "__orig_bases__", "__parameters__", "_is_protocol", "_fields_", "_pack_", "_anonymous_")


#: Name, constructor arguments of the data type or ``None``, and attributes of an enumeration's member.
_Member = tuple[str, tuple[Any, ...] | None, dict[str, Any]]


class Skeleton(NamedTuple):
    """What a class is made of before it has attributes; no metaclass stands for that of its bases."""

    metaclass: type | None
    name: str
    qualname: str
    module: bytes | None
    bases: tuple[type, ...]
    early: dict[str, Any]
    struct: dict[str, Any] | None


class Steps(NamedTuple):
    """Steps (see ``stream``) that finish a class: those that need nothing finished first, and the others."""

    usable: list[tuple[Any, ...]]
    instances: list[tuple[Any, ...]]


def describe(cls: type, is_usable: Any) -> tuple[tuple[Any, ...], Steps]:
    """Return what a class's skeleton is made of, as a plain tuple, and the steps that finish it.

    Args:
        cls: The class.
        is_usable: Tells values that can be made without anything being finished.
    """
    attributes = dict(vars(cls))
    module = attributes.get("__module__")
    early = {name: attributes[name] for name in _EARLY if name in attributes}
    struct = None
    metaclass = _metaclass(cls)
    if is_struct(cls):
        struct = describe_struct(cls)
        early.pop("__slots__", None)
    elif metaclass is not None and not is_made_by_type(metaclass):
        message = f"its metaclass {metaclass.__qualname__} lays out classes in a way of its own"
        raise pickle.PicklingError(message)
    encoded = module.encode() if isinstance(module, str) else None
    skeleton = Skeleton(metaclass, cls.__name__, cls.__qualname__, encoded, cls.__bases__, early, struct)
    ready: dict[str, Any] = {}
    later: list[tuple[Any, ...]] = []
    for name, value in attributes.items():
        if name in _NEVER or name in early or _is_own_descriptor(cls, value):
            continue
        kind = type(value)
        if is_usable(value) or kind in {property, staticmethod, classmethod}:
            ready[name] = value
        elif name == "_value2member_map_":
            members = set(map(id, attributes["_member_map_"].values()))  # composites of a Flag are made when asked for
            later.append((stream.ATTRIBUTES, {name: {key: each for key, each in value.items() if id(each) in members}}))
        else:
            later.append((stream.ATTRIBUTES, {name: value}))
    if isinstance(cls, abc.ABCMeta):
        ready["__abstractmethods__"] = frozenset(getattr(cls, "__abstractmethods__", ()))
    usable: list[tuple[Any, ...]] = []
    if isinstance(cls, enum.EnumMeta):
        usable.append((stream.MEMBERS, _describe_members(cls), vars(cls).get("_member_type_", object)))
    usable.append((stream.ATTRIBUTES, ready))
    registered = _registered(cls)
    if registered:
        usable.append((stream.REGISTER, registered))
    return tuple(skeleton), Steps(usable, later)


def _metaclass(cls: type) -> type | None:
    """Return the metaclass, or ``None`` if it is that of a base and no module holds it (``ctypes.Structure``'s)."""
    kind = type(cls)
    found = vars(sys.modules.get(kind.__module__, types)).get(kind.__name__)
    is_inherited = any(type(base) is kind and base.__module__ != cls.__module__ for base in cls.__mro__[1:])
    return None if is_inherited and found is not kind else kind


def _is_own_descriptor(cls: type, value: Any) -> bool:
    kinds = (types.MemberDescriptorType, types.GetSetDescriptorType)
    return (isinstance(value, kinds) and value.__objclass__ is cls) or type(value).__module__ == "_ctypes"


def _registered(cls: type) -> list[type]:
    """Return the virtual subclasses of an ABC that still exist."""
    dump = getattr(abc, "_get_dump", None)
    if dump is None or not isinstance(cls, abc.ABCMeta):
        return []
    return [each for reference in dump(cls)[0] if (each := reference()) is not None]


def _describe_members(cls: enum.EnumMeta) -> list[_Member]:
    """Return name, constructor arguments of the data type, and attributes of each member."""
    data_type = vars(cls).get("_member_type_", object)
    described = []
    for name, member in vars(cls)["_member_map_"].items():
        if name != member._name_:  # an alias
            continue
        arguments = None
        if data_type is not object:
            arguments = _data_arguments(data_type, member)
        described.append((name, arguments, dict(vars(member))))
    return described


def _data_arguments(data_type: type, member: Any) -> tuple[Any, ...] | None:
    """Return what the data type's ``__new__`` has to be given for an equal value; ``None`` for nothing."""
    getter = getattr(data_type, "__getnewargs__", None)
    if getter is not None:
        return tuple(getter(member))
    reduced: Any = data_type.__reduce_ex__(member, 2)  # type: ignore[call-arg]
    if reduced[0] is data_type or reduced[0] is type(member):
        return tuple(reduced[1])
    return None


def make(skeleton: Skeleton, *, is_ours: Any) -> type:
    """Make a class without attributes.

    Args:
        skeleton: What it is made of.
        is_ours: Tells classes whose hooks must not run again.
    """
    space = dict(skeleton.early)
    space["__qualname__"] = skeleton.qualname
    if skeleton.module is not None:
        space["__module__"] = skeleton.module.decode()
    with _QuietSubclassing(skeleton.bases, is_ours):
        if skeleton.struct is not None:
            cls = make_struct(skeleton.name, skeleton.bases, space, skeleton.struct)
        elif skeleton.metaclass is not None:
            cls = type.__new__(skeleton.metaclass, skeleton.name, skeleton.bases, space)
        else:  # it lays out its classes itself
            metaclass = next(type(base) for base in skeleton.bases if type(base) is not type)
            cls = metaclass(skeleton.name, skeleton.bases, space)
    if isinstance(cls, abc.ABCMeta):
        abc._abc_init(cls)  # type: ignore[attr-defined]
    return cls


class _QuietSubclassing:
    """Keeps a notebook class's ``__init_subclass__`` from running while a subclass of it is made.

    ``type.__new__`` calls it without the keywords of the class statement, and a second time.
    """

    def __init__(self, bases: tuple[type, ...], is_ours: Any) -> None:
        order = [each for base in bases for each in base.__mro__]
        provider = next((each for each in order if "__init_subclass__" in vars(each)), object)
        self._provider = provider if is_ours(provider) else None

    def __enter__(self) -> None:
        if self._provider is not None:
            self._hook = vars(self._provider)["__init_subclass__"]
            type.__setattr__(self._provider, "__init_subclass__", classmethod(_no_hook))

    def __exit__(self, *_error: object) -> None:
        if self._provider is not None:
            type.__setattr__(self._provider, "__init_subclass__", self._hook)


def _no_hook(_cls: type) -> None:
    """Do nothing."""


def make_members(cls: type, members: list[_Member], data_type: type) -> None:
    """Make the members of an enumeration, without running its ``__new__`` or ``__init__``; keep those it has."""
    existing = vars(cls).get("_member_map_", {})
    made: dict[str, Any] = {}
    for name, arguments, state in members:
        member = existing.get(name)
        if member is None:
            maker = object.__new__ if arguments is None else data_type.__new__
            member = maker(cls, *(arguments or ()))
        vars(member).update(state)
        made[name] = member
    type.__setattr__(cls, "_member_map_", made)


def update(cls: type, attributes: dict[str, Any]) -> None:
    """Set attributes past whatever the metaclass thinks of that."""
    line = attributes.pop("__firstlineno__", None)
    for name, value in attributes.items():
        _set(cls, name, value)
    if line is not None:  # Python 3.13 deletes it when other attributes are set
        _set(cls, "__firstlineno__", line)


def _set(cls: type, name: str, value: Any) -> None:
    try:
        type.__setattr__(cls, name, value)
    except TypeError:  # not allowed past a metaclass with a layout of its own
        setattr(cls, name, value)


def retire(cls: type, kept: set[str]) -> None:
    """Delete the attributes that a newer version of the class does not have."""
    for name in [name for name in vars(cls) if name not in kept and name not in _NEVER]:
        if not _is_own_descriptor(cls, vars(cls)[name]):
            type.__delattr__(cls, name)
