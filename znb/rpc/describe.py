"""What an object offers as a service: its methods, their signatures and docs, as they are, and as they travel.

An object is exposed unmodified. Of a module its public functions are offered (``__all__`` if it has one), of a class
those of an instance made without arguments, of a dict its values; names with a leading underscore never are. Things
within things have dotted names (``"Thing.method"``).

A description is plain data: ``{"name", "doc", "methods": {name: {"doc", "kind", "params", "returns"}}}``, where *kind*
is ``call`` or ``stream`` and *params* is ``null`` where it is not known, or ``[[name, kind, default, annotation] …]``
with *default* ``null``, ``["value", v]`` or ``["repr", text]``.

Invariants: reading a description runs nothing. No state, no thread.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from znb.errors import SerializationError, ZnbError
from znb.rpc import values

__all__ = ["Method", "describe", "methods_of", "read_signature", "zerorpc_args", "zerorpc_inspect"]

#: Characters of one default's or annotation's text.
MAX_TEXT = 200
#: Levels of things within things.
MAX_DEPTH = 3
#: Where the types of plain values are.
VALUE_MODULES = frozenset({"builtins", "datetime", "decimal", "fractions", "uuid"})

Kind = Literal["call", "stream", "coroutine", "async stream"]


class Method(NamedTuple):
    """One thing that can be called.

    Attributes:
        name: What callers say, such as ``"add"`` or ``"Thing.method"``.
        function: What runs.
        kind: How its result comes.
        signature: ``None`` where Python does not know it.
    """

    name: str
    function: Callable[..., Any]
    kind: Kind
    signature: inspect.Signature | None

    @property
    def doc(self) -> str:
        """Its docstring, cleaned; ``""`` for none."""
        return inspect.getdoc(self.function) or ""


def methods_of(obj: Any, name: str) -> dict[str, Method]:
    """Return what an object offers.

    Args:
        obj: A function, class, instance, module or dict.
        name: The service's name, which a nameless function takes.

    Raises:
        ZnbError: It offers nothing, or is a class that wants arguments.
    """
    found = {path: _method(path, function) for path, function in _walk(obj, name, "", 0)}
    if not found:
        raise ZnbError(
            f"{obj!r:.100} has no public methods to expose; expected a function, class, instance, module or dict"
        )
    return found


def left_out(obj: Any) -> list[str]:
    """Return the public names of a dict that are not offered, because they stand for values."""
    return [str(key) for key, value in obj.items() if is_value(value)] if isinstance(obj, Mapping) else []


def is_value(obj: Any) -> bool:
    """Whether an object is a number, text, date, list or the like, whose methods nobody wants to call from afar."""
    return type(obj).__module__ in VALUE_MODULES and not (
        isinstance(obj, types.ModuleType | type | Mapping) or callable(obj)
    )


def _walk(obj: Any, name: str, prefix: str, depth: int) -> Iterator[tuple[str, Callable[..., Any]]]:
    if depth > MAX_DEPTH:
        return
    if inspect.isroutine(obj) or isinstance(obj, functools.partial):
        own = getattr(obj, "__name__", name)
        yield prefix.rstrip(".") or (own if own.isidentifier() else name), obj
        return
    if isinstance(obj, Mapping):
        for key, value in obj.items():
            if isinstance(key, str) and not key.startswith("_"):
                yield from _walk(value, key, f"{prefix}{key}.", depth + 1)
        return
    if isinstance(obj, type):
        obj = _instance(obj)
    elif is_value(obj):
        return
    names = list(_public_names(obj))
    for attribute in names:
        value = getattr(obj, attribute)
        if callable(value) and not isinstance(value, type):
            yield prefix + attribute, value
    if not names and callable(obj):
        yield prefix.rstrip(".") or name, obj


def _public_names(obj: Any) -> Iterator[str]:
    """Yield the names of the public methods of an object, without running its properties."""
    if isinstance(obj, types.ModuleType):
        listed = getattr(obj, "__all__", None)
        for attribute in listed if listed is not None else dir(obj):
            value = getattr(obj, attribute, None)
            foreign = listed is None and getattr(value, "__module__", None) != obj.__name__
            if not attribute.startswith("_") and callable(value) and not isinstance(value, type) and not foreign:
                yield attribute
        return
    for attribute in dir(obj):
        if attribute.startswith("_"):
            continue
        static = inspect.getattr_static(obj, attribute, None)
        if not isinstance(static, property | functools.cached_property | type) and callable(
            getattr(obj, attribute, None)
        ):
            yield attribute


def _instance(cls: type) -> Any:
    """Return an instance; what its constructor raises is its user's to see."""
    try:
        inspect.signature(cls).bind()
    except ValueError:  # written in C, so nobody knows what it wants
        pass
    except TypeError as error:
        raise ZnbError(
            f"{cls.__qualname__} cannot be made without arguments ({error}); expose an instance: "
            f"znb.expose({cls.__name__}(…))"
        ) from None
    return cls()


def _method(name: str, function: Callable[..., Any]) -> Method:
    target = (
        function if inspect.isroutine(function) or isinstance(function, functools.partial) else type(function).__call__
    )
    kind: Kind = "call"
    if inspect.isgeneratorfunction(target):
        kind = "stream"
    elif inspect.isasyncgenfunction(target):
        kind = "async stream"
    elif inspect.iscoroutinefunction(target):
        kind = "coroutine"
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # written in C, without a text signature
        signature = None
    return Method(name, function, kind, signature)


# -- as it travels ---------------------------------------------------------------------------------------------


def describe(name: str, doc: str, methods: Mapping[str, Method]) -> dict[str, Any]:
    """Return the description of a service, as plain data."""
    return {"name": name, "doc": doc, "methods": {key: _describe_method(m) for key, m in sorted(methods.items())}}


def _describe_method(method: Method) -> dict[str, Any]:
    signature = method.signature
    params = returns = None
    if signature is not None:
        params = [
            [p.name, int(p.kind), _describe_default(p.default), _annotation_text(p.annotation)]
            for p in signature.parameters.values()
        ]
        returns = _annotation_text(signature.return_annotation)
    kind = "stream" if method.kind in {"stream", "async stream"} else "call"
    return {"doc": method.doc, "kind": kind, "params": params, "returns": returns}


def _describe_default(default: Any) -> list[Any] | None:
    if default is inspect.Parameter.empty:
        return None
    try:
        return ["value", values.encode(default, None, where="default", careful=True)]
    except SerializationError:
        return ["repr", _text(default)]


def _annotation_text(annotation: Any) -> str | None:
    if annotation is inspect.Parameter.empty:
        return None
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)[:MAX_TEXT]


def _text(value: Any) -> str:
    try:
        return repr(value)[:MAX_TEXT]
    except Exception as error:  # noqa: BLE001 - a repr is user code, and only decoration here
        return f"<{type(value).__name__}: its repr raised {type(error).__name__}>"


class Shown:
    """Stands for a default or annotation that did not travel, or travelled as text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def read_signature(params: Any, returns: Any) -> inspect.Signature | None:
    """Return the signature that a description tells; ``None`` if it is not known, or makes no sense."""
    if not isinstance(params, list):
        return None
    try:
        return inspect.Signature(
            [
                inspect.Parameter(
                    name,
                    inspect._ParameterKind(kind),
                    default=_read_default(default),
                    annotation=inspect.Parameter.empty if annotation is None else Shown(str(annotation)),
                )
                for name, kind, default, annotation in params
            ],
            return_annotation=inspect.Signature.empty if returns is None else Shown(str(returns)),
        )
    except (ValueError, TypeError):
        return None


def _read_default(default: Any) -> Any:
    match default:
        case None:
            return inspect.Parameter.empty
        case ["value", value]:
            return value
        case _:
            return Shown(str(default[-1]) if default else "…")


# -- as zerorpc tells it ---------------------------------------------------------------------------------------


def zerorpc_args(method: Method) -> list[Any]:
    """Return ``[names, varargs, keywords, defaults]``, as ``inspect.getargspec`` did."""
    names: list[str] = []
    varargs = keywords = None
    defaults: list[Any] = []
    for p in method.signature.parameters.values() if method.signature is not None else ():
        if p.kind is p.VAR_POSITIONAL:
            varargs = p.name
        elif p.kind is p.VAR_KEYWORD:
            keywords = p.name
        elif p.kind is not p.KEYWORD_ONLY:
            names.append(p.name)
            if p.default is not p.empty:
                defaults.append(_zerorpc_default(p.default))
    return [names, varargs, keywords, defaults or None]


def zerorpc_inspect(name: str, methods: Mapping[str, Method]) -> dict[str, Any]:
    """Return the answer to ``_zerorpc_inspect``."""
    described = {}
    for key, method in sorted(methods.items()):
        names, varargs, keywords, defaults = zerorpc_args(method)
        first_default = len(names) - len(defaults or ())
        args: list[dict[str, Any]] = [{"name": n} for n in names]
        for number, default in enumerate(defaults or ()):
            args[first_default + number]["default"] = default
        args += [{"name": f"*{varargs}"}] if varargs else []
        args += [{"name": f"**{keywords}"}] if keywords else []
        described[key] = {"args": args, "doc": method.doc}
    return {"name": name, "methods": described}


def _zerorpc_default(default: Any) -> Any:
    try:
        return values.encode(default, None, where="default", careful=True)
    except SerializationError:
        return _text(default)
