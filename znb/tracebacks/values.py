"""What an exception is besides its frames: type, arguments, attributes, taken apart and put together again.

It is not pickled as a whole, because so often that fails: a constructor that takes other arguments than it passes on,
an attribute that holds a lock, a type that the other side lacks. Its pieces travel one by one and the constructor is
not run again, so what fails is lost alone, and said to be lost. A type that says itself how it is pickled
(``__reduce__`` and its kin) is asked first.

``SystemExit`` and its like would end, or stop, the process or task that merely asked for a result: what is restored is
``RemoteError`` for ``SystemExit`` and ``GeneratorExit``, and ``Cancelled`` for ``KeyboardInterrupt`` and asyncio's
``CancelledError``: the work was stopped there, nobody pressed a key here.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, Protocol

import msgspec

from znb.errors import Cancelled, RemoteError
from znb.serialize.records import MissingDefinitions
from znb.spans.plain import TEXTS, remembered, safe_text
from znb.tracebacks.record import Part, Raised
from znb.tracebacks.sources import clean

__all__ = ["PRIVATE", "Codec", "Packer", "Payload", "Values", "rebuild", "safe_str"]

#: Bytes of values sent with one record; a larger one is data, which belongs in a result.
MAX_BYTES = 16 * 1024 * 1024
#: Characters of an exception's text sent for showing; its arguments travel whole.
_MAX_MESSAGE = 10_000
#: Characters of plain text sent without the codec.
_MAX_PLAIN = 100_000
#: Attributes that are not the user's.
PRIVATE = frozenset({"__notes__", "_render_traceback_", "znb_origin", TEXTS})
_HEAP_TYPE = 1 << 9
_PICKLE_METHODS = frozenset({"__reduce__", "__reduce_ex__", "__getstate__", "__setstate__"})


class Payload(Protocol):
    """What a codec makes of an object (``znb.serialize.Payload``)."""

    @property
    def body(self) -> bytes:
        """The pickle."""

    @property
    def buffers(self) -> Sequence[bytes | memoryview]:
        """Its out-of-band buffers."""

    @property
    def definitions(self) -> Sequence[bytes]:
        """Keys of the definitions it refers to."""


class Codec(Protocol):
    """The part of ``znb.serialize.Codec`` that is used here."""

    def encode(self, obj: Any, /) -> Payload:
        """Return the payload of an object."""

    def decode(self, body: Any, buffers: Any = (), /) -> Any:
        """Return the object of a payload."""


class Values(msgspec.Struct, frozen=True):
    """An exception's pieces; see ``Raised`` for what they mean."""

    args: tuple[Any, ...] | None
    attributes: dict[str, Any]
    parts: tuple[Part, ...]
    lost: tuple[str, ...]


def safe_str(exc: BaseException) -> str:
    """Return the exception's text, or what stands for it if it cannot be had; shortened."""
    try:
        text = safe_text(exc)
        if len(text) > _MAX_MESSAGE:
            text = f"{text[:_MAX_MESSAGE]}... ({len(text):,} characters)"
        return clean(text)
    except BaseException as error:  # noqa: BLE001 - __str__ is user code; what it raises is the finding
        return f"<exception str() failed: {type(error).__name__}>"


# -- there


class Packer:
    """Takes exceptions apart; the bytes that one record may carry are shared among them."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._left = MAX_BYTES

    def take_apart(self, exc: BaseException) -> Values:
        """Return the pieces of an exception, what cannot travel left out and named."""
        parts: list[Part] = []
        lost: list[str] = []
        cls = type(exc)
        whole = False
        if not _is_builtin(cls):
            self._add("type", cls, parts, lost, f"its type {cls.__qualname__}")
            if _pickles_itself(cls):
                # Failing is no loss: the pieces travel as well.
                whole = self._add("self", exc, parts, [], "")
        args: tuple[Any, ...] | None = None
        if not isinstance(exc, BaseExceptionGroup):
            args = exc.args
            if not _is_plain(args):
                self._add_args(exc, parts, lost)
                args = None
        attributes = {}
        for name, value in _attributes(exc):
            if _is_plain(value):
                attributes[name] = value
            else:
                self._add(f".{name}", value, parts, lost, f"its attribute {name!r}")
        return Values(args, attributes, tuple(parts), () if whole else tuple(lost))

    def _add_args(self, exc: BaseException, parts: list[Part], lost: list[str]) -> None:
        args = exc.args
        if self._add("args", args, parts, [], ""):
            return

        def described(number: int) -> str:
            return remembered(exc, number, lambda: _short_repr(args[number]))

        kept: list[Any] = []
        for number, arg in enumerate(args):
            if _is_plain(arg) or self._add("", arg, [], lost, f"its argument {number}"):
                kept.append(arg)
            else:
                kept.append(described(number))
        if not self._add("args", tuple(kept), parts, [], ""):
            self._add("args", tuple(map(described, range(len(args)))), parts, lost, "its arguments")

    def _add(self, name: str, value: Any, parts: list[Part], lost: list[str], what: str) -> bool:
        """Append the part of a value, or the reason why there is none."""
        try:
            size = _size(value)
            if size <= self._left:
                payload = self._codec.encode(value)
                size = len(payload.body) + sum(memoryview(b).nbytes for b in payload.buffers)
            if size > self._left:
                limit = MAX_BYTES // 2**20
                lost.append(f"{what} was not sent: {size / 2**20:.0f} MB, and errors carry up to {limit} MB")
                return False
            if name:
                self._left -= size
                buffers = tuple(bytes(b) for b in payload.buffers)
                parts.append(Part(name, bytes(payload.body), buffers, tuple(payload.definitions)))
        except Exception as error:  # noqa: BLE001 - pickling runs user code; its failure is what is reported
            lost.append(f"{what} was not sent: {_one_line(error)}")
            return False
        return True


def _size(value: Any) -> int:
    """Return about how many bytes a value has, as far as it says so itself."""
    nbytes = getattr(value, "nbytes", 0)
    return max(nbytes if isinstance(nbytes, int) else 0, sys.getsizeof(value))


def _is_builtin(cls: type) -> bool:
    return getattr(builtins, cls.__name__, None) is cls


def _pickles_itself(cls: type) -> bool:
    return any(base.__flags__ & _HEAP_TYPE and _PICKLE_METHODS & vars(base).keys() for base in cls.__mro__)


def _is_plain(value: Any, depth: int = 3) -> bool:
    """Tell whether msgpack brings back an equal value of the same type (lists are read as tuples)."""
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return True
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    if kind is str:
        return len(value) <= _MAX_PLAIN and (value.isascii() or clean(value) == value)
    if kind is bytes:
        return len(value) <= _MAX_PLAIN
    return kind is tuple and depth > 0 and len(value) <= 100 and all(_is_plain(v, depth - 1) for v in value)


def _attributes(exc: BaseException) -> Iterator[tuple[str, Any]]:
    """Yield what is set on an exception: its dict, its slots, and the fields of its builtin base."""
    for name, value in list(exc.__dict__.items()):
        if isinstance(name, str) and name not in PRIVATE:
            yield name, value
    for base in type(exc).__mro__:
        # AttributeError.obj is the object that lacked something: anything, of any size. Pickle leaves it too.
        if base in (BaseException, object, BaseExceptionGroup, AttributeError):
            continue
        for name, field in vars(base).items():
            if isinstance(field, MemberDescriptorType | GetSetDescriptorType) and not name.startswith("__"):
                value = getattr(exc, name, None)
                if value is not None:
                    yield name, value


def _short_repr(value: Any) -> str:
    try:
        text = repr(value)
    except BaseException as error:  # noqa: BLE001 - a repr is user code; what it raises is the finding
        text = f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
    return clean(text[:_MAX_MESSAGE])


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {safe_str(error)}".splitlines()[0][:300]


# -- here


def rebuild(raised: Raised, codec: Codec, members: list[BaseException]) -> tuple[BaseException, list[str]]:
    """Put an exception together again.

    Args:
        raised: What came.
        codec: Decodes its parts.
        members: Of a group, put together already.

    Returns:
        The exception, without chain, frames and notes; and what was lost, one line each.
    """
    lost = list(raised.lost)
    parts = {part.name: part for part in raised.parts}
    decoded: dict[str, Any] = {}
    for name, part in parts.items():
        try:
            decoded[name] = codec.decode(part.body, part.buffers)
        except MissingDefinitions:  # they can be had: the caller asks the sender and restores again
            raise
        except Exception as error:  # noqa: BLE001 - unpickling runs user code; its failure is what is reported
            what = {"self": "its own pickle", "type": "its type", "args": "its arguments"}.get(
                name, f"its attribute {name[1:]!r}"
            )
            lost.append(f"{what} could not be loaded here: {_one_line(error)}")
    cls = decoded.get("type", getattr(builtins, raised.type_name, None) if raised.module == "builtins" else None)
    if not (isinstance(cls, type) and issubclass(cls, BaseException)):
        return _stand_in(raised, RemoteError), lost
    safe = _safe_type(cls)
    if safe is not None:
        return _stand_in(raised, safe), lost
    exc = decoded.get("self")
    if type(exc) is cls:
        return exc, lost
    try:
        exc = _construct(cls, raised, decoded, members)
    except Exception as error:  # noqa: BLE001 - classes may refuse in any way; the stand-in says so
        lost.append(f"its type {raised.type_name} could not be made here: {_one_line(error)}")
        return _stand_in(raised, RemoteError), lost
    if lost and safe_str(exc) != raised.message:
        lost.append(f"it said: {raised.message}")
    return exc, lost


def _stand_in(raised: Raised, cls: Callable[[str, str], BaseException]) -> BaseException:
    bare = raised.module in {"builtins", "__main__", ""}
    return cls(raised.type_name if bare else f"{raised.module}.{raised.type_name}", raised.message)


def _safe_type(cls: type) -> Callable[[str, str], BaseException] | None:
    """Return what to raise instead of a type that would end or stop who merely asked."""
    if issubclass(cls, SystemExit | GeneratorExit):
        return RemoteError
    # By name: asyncio takes 30 ms to import, and an exception of it says that it is not needed here otherwise.
    stops = ("KeyboardInterrupt", "builtins"), ("CancelledError", "asyncio.exceptions")
    if any((base.__name__, base.__module__) in stops for base in cls.__mro__):
        return _cancelled
    return None


def _cancelled(type_name: str, message: str) -> BaseException:
    return Cancelled(f"stopped by {type_name}" + (f": {message}" if message else ""))


def _construct(
    cls: type[BaseException], raised: Raised, decoded: dict[str, Any], members: list[BaseException]
) -> BaseException:
    if issubclass(cls, BaseExceptionGroup):
        message = raised.attributes.get("message", raised.message)
        exc: BaseException = BaseExceptionGroup.__new__(cls, message, members)
    else:
        args = _as_tuples(raised.args) if raised.args is not None else decoded.get("args", (raised.message,))
        exc = _construct_plain(cls, tuple(args))
    for name, value in raised.attributes.items():
        _set(exc, name, _as_tuples(value))
    for name, value in decoded.items():
        if name.startswith("."):
            _set(exc, name[1:], value)
    return exc


def _construct_plain(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception by its builtin base's constructor: no code of its own runs."""
    failure: Exception | None = None
    for base in cls.__mro__:
        if base.__flags__ & _HEAP_TYPE or not issubclass(base, BaseException):
            continue
        try:
            exc = base.__new__(cls, *args)
        except TypeError as error:  # not the base that lays out the instance, or other arguments: try the next
            failure = error
            continue
        # Without its arguments (they were lost, say) a base's fields stay unset; that is all.
        with contextlib.suppress(Exception):
            base.__init__(exc, *args)
        object.__setattr__(exc, "args", args)
        return exc
    raise failure or TypeError(f"{cls.__qualname__} has no builtin base")


def _set(exc: BaseException, name: str, value: Any) -> None:
    # Past the class's own __setattr__: frozen dataclasses have one that refuses. Fields that only the constructor
    # can set have been set by it.
    with contextlib.suppress(AttributeError, TypeError):
        object.__setattr__(exc, name, value)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
