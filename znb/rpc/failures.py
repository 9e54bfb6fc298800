"""Exceptions of services: their own type where it is safe, and never a pickle.

Between holders of a cluster's keys exceptions travel as pickles; a stranger's must not. Here a type is a name, which is
looked up and never imported on a stranger's word (the standard library aside), arguments are plain values
(``znb.rpc.values``), and the constructor is not run. What cannot be restored is ``znb.RemoteError``.

Not owned by a thread; run it on the thread that wants the exception.
"""

from __future__ import annotations

import builtins
import importlib
import os
import platform
import sys
from typing import Any, Final, NamedTuple

import msgspec

from znb import tracebacks
from znb.errors import ProtocolError, RemoteError, ZnbError
from znb.rpc import values
from znb.rpc.request import Request

__all__ = ["PlainCodec", "fail", "is_remote", "restore"]

#: Modules of the standard library that do something when they are imported.
NEVER_IMPORTED: Final = frozenset(
    {"antigravity", "this", "idlelib", "test", "tkinter", "turtle", "turtledemo", "lib2to3"}
)
#: Bytes of plain values that may travel with one exception; more is data, which belongs in a result.
MAX_BYTES = 1_000_000


class PlainPayload(NamedTuple):
    """What ``znb.tracebacks`` expects of a codec."""

    body: bytes
    buffers: tuple[Any, ...] = ()
    definitions: tuple[bytes, ...] = ()


class PlainCodec:
    """Carries exception types by name and values as msgpack; reads nothing that runs code."""

    def encode(self, obj: Any, /) -> PlainPayload:
        """Return the payload of an exception type or a plain value.

        Raises:
            SerializationError: It is neither.
        """
        if isinstance(obj, type) and issubclass(obj, BaseException):
            return PlainPayload(msgspec.msgpack.encode(["type", obj.__module__, obj.__qualname__]))
        buffers: list[Any] = []
        content = values.encode(obj, buffers, where="exception", careful=True)
        return PlainPayload(msgspec.msgpack.encode(["value", content]), tuple(buffers))

    def decode(self, body: Any, buffers: Any = (), /) -> Any:
        """Return the object of a payload.

        Raises:
            ProtocolError: It is none.
            LookupError: The type is not known here.
        """
        match values.decode(body, list(buffers)):
            case ["type", str(module), str(name)]:
                return find_type(module, name)
            case ["value", value]:
                return value
        raise ProtocolError("expected a type or a value in an error record, got something else")


def find_type(module: str, name: str) -> type[BaseException]:
    """Return an exception type of a module that is imported already, or of the standard library.

    Raises:
        LookupError: There is none of that name.
    """
    root = module.partition(".")[0]
    found: Any = sys.modules.get(module)
    if found is None and root in sys.stdlib_module_names - NEVER_IMPORTED and not root.startswith("_"):
        try:
            found = importlib.import_module(module)
        except ImportError:
            raise LookupError(f"there is no module {module}") from None
    for part in name.split("."):
        found = getattr(found, part, None) if not part.startswith("__") else None
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    raise LookupError(f"{module}.{name} is no exception that is known here")


def fail(request: Request, error: BaseException, *, service: str) -> None:
    """End a call with what it raised."""
    if not request.from_znb:
        record = tracebacks.capture(error, PlainCodec(), worker=service, host=platform.node(), pid=os.getpid())
        request.fail(record.type_name, record.message, record.traceback_text)
        return
    record = tracebacks.capture(error, PlainCodec(), worker=service, host=platform.node(), pid=os.getpid())
    encoded = tracebacks.encode_record(record)
    if len(encoded) > MAX_BYTES:
        request.fail(record.type_name, record.message, record.traceback_text[-MAX_BYTES:])
    else:
        request.fail(record.type_name, record.message, record.traceback_text, error=encoded)


def restore(args: Any, headers: dict[str, Any], *, endpoint: str) -> BaseException:
    """Return the exception that an ``ERR`` tells of, to be raised on this thread."""
    encoded = headers.get("error")
    if isinstance(encoded, bytes):
        try:
            record = tracebacks.decode_record(encoded)
            return tracebacks.restore(record, PlainCodec())
        except ZnbError as error:
            return error
    name, message, text = (*map(str, args), "", "", "")[:3]
    known = getattr(builtins, name, None)
    made: BaseException = RemoteError(name, message)
    if name == "ProtocolError":
        made = ProtocolError(message)
    elif isinstance(known, type) and issubclass(known, Exception) and not issubclass(known, BaseExceptionGroup):
        made = _make_builtin(known, message)
    made.add_note(f"raised by {endpoint}" + (f":\n{text.rstrip()}" if text else ""))
    object.__setattr__(made, "znb_endpoint", endpoint)
    return made


def is_remote(error: BaseException) -> bool:
    """Whether a method raised this, as opposed to what calls it."""
    return hasattr(error, "znb_origin") or hasattr(error, "znb_endpoint")


def _make_builtin(cls: type[Exception], message: str) -> BaseException:
    """Make a builtin exception from its text alone; some want more."""
    try:
        return cls(message)
    except TypeError:  # UnicodeDecodeError and its like
        return RemoteError(cls.__name__, message)
