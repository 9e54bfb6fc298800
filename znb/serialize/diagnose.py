"""Why an object cannot travel, and where in it the culprit sits.

Runs after an ``encode`` has failed, with the object still at hand: it descends into whichever part fails on its own,
until no part does. Bounded in time; the path is then that of the innermost part found. Nothing is changed or kept.
"""

from __future__ import annotations

import functools
import time
import types
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from znb.errors import SerializationError
from znb.serialize.classes import describe
from znb.serialize.names import MAIN_MODULES
from znb.serialize.watch import cell_contents

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from znb.serialize.codes import Codes

__all__ = ["explain"]

#: How long looking for the culprit may take, in seconds: about what a person takes to wonder.
_PATIENCE = 2.0

#: Deepest path that is followed; longer ones say no more.
_DEPTH = 60

#: Flag of types that are made at run time.
_HEAP_TYPE = 1 << 9

#: Most characters of a key that are shown in a path.
_KEY_WIDTH = 40

_LOCK = ("a lock works within one process only", "Make it inside the function, or leave it out in __getstate__")
_RUNNING = ("it is running, and cannot be moved", "Send the function that makes it, or its results")
_FILE = ("an open file belongs to one process", "Send its path and open it inside the function")
_CONNECTION = ("a connection belongs to one process", "Connect inside the function")
_STACK = ("a stack frame belongs to one process", "Send what is needed from it")

#: Reason and hint for objects that never travel, by the name of their type or of one of its bases.
_REASONS = {
    "lock": _LOCK,
    "RLock": _LOCK,
    "generator": _RUNNING,
    "async_generator": _RUNNING,
    "coroutine": _RUNNING,
    "_IOBase": _FILE,
    "socket": _CONNECTION,
    "Connection": _CONNECTION,
    "frame": _STACK,
    "traceback": _STACK,
    "Thread": ("a thread belongs to one process", "Start it inside the function"),
    "InteractiveShell": ("the IPython shell belongs to one process", "Call get_ipython() where the code runs"),
}


class _Codec(Protocol):
    """What is needed of the codec that failed."""

    codes: Codes

    def attempt(self, obj: Any) -> Any:
        """Encode; raise whatever the pickler raised if that fails."""


def explain(codec: _Codec, obj: Any, error: Exception, labels: Sequence[str]) -> SerializationError:
    """Return the error to raise for an object that could not be encoded.

    Args:
        codec: The codec that failed.
        obj: What it was given.
        error: What happened.
        labels: Names of the items of ``obj``, a tuple.
    """
    if isinstance(error, RecursionError):
        return SerializationError(
            _title(obj),
            "it is nested too deeply for the pickler",
            hint="Send it as a flat list of its parts, or define __getstate__ so that it is",
        )
    search = _Search(codec, error)
    culprit, path = search.descend(obj, labels)
    reason, hint = _reason(culprit, search.error)
    return SerializationError(_title(culprit), reason, path=path, hint=hint)


class _Search:
    """Descends to the innermost part that fails on its own."""

    def __init__(self, codec: _Codec, error: Exception) -> None:
        self.error = error
        self._codec = codec
        self._deadline = time.monotonic() + _PATIENCE
        self._seen: set[int] = set()

    def descend(self, obj: Any, labels: Sequence[str]) -> tuple[Any, str]:
        """Return the culprit and the path to it."""
        path = ""
        for _ in range(_DEPTH):
            self._seen.add(id(obj))
            if _known_reason(obj) is not None:
                break
            parts = _labelled(obj, labels) if labels else _parts(obj, self._codec)
            labels = ()
            found = self._failing(parts)
            if found is None:
                break
            step, obj = found
            path = _join(path, step)
        return obj, path

    def _failing(self, parts: Iterator[tuple[str, Any]]) -> tuple[str, Any] | None:
        """Return the first part that fails, found by halving: one pickle of many parts costs little more than one."""
        try:
            while batch := list(islice(parts, 4096)):
                batch = [part for part in batch if id(part[1]) not in self._seen]
                if batch and self._fails([value for _, value in batch]):
                    while len(batch) > 1:
                        half = batch[: len(batch) // 2]
                        batch = half if self._fails([value for _, value in half]) else batch[len(half) :]
                    return batch[0] if self._fails(batch[0][1]) else None
        except Exception:  # noqa: BLE001 out of patience, or the object's own code fails when it is looked at
            return None
        return None

    def _fails(self, obj: Any) -> bool:
        if time.monotonic() > self._deadline:
            raise TimeoutError
        try:
            self._codec.attempt(obj)
        except Exception as error:  # noqa: BLE001 anything that __reduce__ raises means that it cannot be sent
            self.error = error
            return True
        return False


def _labelled(obj: Any, labels: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for index, value in enumerate(obj):
        yield labels[index] if index < len(labels) else f"[{index}]", value


def _parts(obj: Any, codec: _Codec) -> Iterator[tuple[str, Any]]:
    """Yield the parts of an object with how to get at them."""
    kind = type(obj)  # not isinstance: mocks say of themselves that they are classes
    if kind is types.FunctionType:
        yield from _function_parts(obj, codec)
    elif issubclass(kind, type):
        yield from _class_parts(obj)
    elif kind is dict:
        for key, value in obj.items():
            yield f"[{_short(key)}]", value
        for key in obj:
            yield f" key {_short(key)}", key
    elif kind in {list, tuple}:
        yield from ((f"[{index}]", value) for index, value in enumerate(obj))
    elif kind in {set, frozenset}:
        yield from ((f" item {_short(value)}", value) for value in obj)
    elif kind in _HOLDERS:
        yield from ((f".{name}", getattr(obj, name)) for name in _HOLDERS[kind])
    elif hasattr(obj, "__wrapped__") and not isinstance(obj, types.ModuleType):
        yield ".__wrapped__", obj.__wrapped__
    else:
        yield from _instance_parts(obj)


#: Builtin types that hold others in attributes.
_HOLDERS: dict[type, tuple[str, ...]] = {
    types.MethodType: ("__self__", "__func__"),
    functools.partial: ("func", "args", "keywords"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
}


def _function_parts(function: types.FunctionType, codec: _Codec) -> Iterator[tuple[str, Any]]:
    name = function.__qualname__
    space = function.__globals__
    for each in codec.codes.facts(function.__code__).names:
        if each in space:
            yield f"global {each!r} of function {name}", space[each]
    for each, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield f"closure {each!r} of function {name}", cell_contents(cell)
    for index, value in enumerate(function.__defaults__ or ()):
        yield f"default {index} of function {name}", value
    for each, value in (function.__kwdefaults__ or {}).items():
        yield f"default {each!r} of function {name}", value
    for each, value in vars(function).items():
        yield f"attribute {each!r} of function {name}", value
    for each, value in function.__annotations__.items():
        yield f"annotation {each!r} of function {name}", value


def _class_parts(cls: type) -> Iterator[tuple[str, Any]]:
    if not cls.__flags__ & _HEAP_TYPE:
        return
    for base in cls.__bases__:
        yield f"base of class {cls.__qualname__}", base
    yield f"metaclass of class {cls.__qualname__}", type(cls)
    _, steps = describe(cls, lambda _value: True)
    for step in steps.usable + steps.instances:
        if isinstance(step[1], dict):
            for name, value in step[1].items():
                yield f"attribute {name!r} of class {cls.__qualname__}", value


def _instance_parts(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object's own ``__reduce_ex__`` gives the pickler, attributes by name."""
    try:
        reduced = obj.__reduce_ex__(5)
    except Exception:  # noqa: BLE001 an object that refuses is the culprit itself
        return
    if not isinstance(reduced, tuple):
        return
    yield f" (type {type(obj).__name__})", type(obj)
    state = reduced[2] if len(reduced) > 2 else None
    for each in state if isinstance(state, tuple) else (state,):
        if isinstance(each, dict):
            yield from ((f".{name}", value) for name, value in each.items())
        elif each is not None:
            yield " state", each
    for index, value in enumerate(reduced[1]):
        yield f" (argument {index} of its __reduce__)", value
    if len(reduced) > 3 and reduced[3] is not None:
        yield from ((f"[{index}]", value) for index, value in enumerate(reduced[3]))
    if len(reduced) > 4 and reduced[4] is not None:
        yield from ((f"[{_short(key)}]", value) for key, value in reduced[4])


def _join(path: str, step: str) -> str:
    if not path:
        return step.strip()
    return path + step if step[0] in "[. " else f"{path} → {step}"


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= _KEY_WIDTH else text[: _KEY_WIDTH - 1] + "…"


def _title(obj: Any) -> str:
    kind = type(obj)
    if kind is types.FunctionType:
        return f"function {obj.__qualname__}"
    if issubclass(kind, type):
        return f"class {obj.__qualname__}"
    name = kind.__qualname__
    if kind.__module__ not in {"builtins", "__main__"}:
        name = f"{kind.__module__.lstrip('_')}.{name}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name} object"


def _known_reason(obj: Any) -> tuple[str, str] | None:
    """Return what is known of a type whose objects never travel."""
    for kind in type(obj).__mro__:
        if kind.__name__ in _REASONS and kind.__module__ not in MAIN_MODULES:
            return _REASONS[kind.__name__]
    return None


def _reason(culprit: Any, error: Exception) -> tuple[str, str]:
    known = _known_reason(culprit)
    if known is not None:
        return known
    if isinstance(error, SerializationError):
        return str(error.fields.get("reason", error)), ""
    text = str(error) or type(error).__name__
    return (text if isinstance(error, TypeError) else f"{type(error).__name__}: {text}"), ""
