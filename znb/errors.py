"""The exception tree: one class per reaction a caller may have.

Failures of the user's own code are not in here: they arrive as the exception type that was raised
(see ``znb.tracebacks``). Every class takes fields, builds its own message and survives pickling with its
fields, because errors cross process boundaries.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

__all__ = [
    "AuthError",
    "CallTimeout",
    "Cancelled",
    "NoWorkers",
    "ProtocolError",
    "RemoteError",
    "SerializationError",
    "ServiceUnavailable",
    "WorkerLost",
    "ZnbError",
]


class ZnbError(Exception):
    """Root of every failure that is not the user's code's.

    ::

        ZnbError
        ├── RemoteError          remote code raised a type that cannot be loaded here
        ├── WorkerLost           a process that ran the work is gone: retry, or look at the certificate
        ├── NoWorkers            nothing can run this: start, scale or restart
        ├── CallTimeout          (TimeoutError) took longer than you allowed
        ├── Cancelled            (concurrent.futures.CancelledError) you, or the interrupt key, stopped it
        ├── ServiceUnavailable   (ConnectionError) nobody answers at that address
        ├── SerializationError   (TypeError) this object cannot travel
        ├── ProtocolError        a peer broke the wire protocol, or speaks another version of it
        └── AuthError            (PermissionError) keys or file permissions are not right

    Attributes:
        fields: What the constructor was given, by name; they survive pickling.
    """

    fields: dict[str, Any]

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), str(self), self.fields), {"__notes__": getattr(self, "__notes__", [])})

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        for note in (state or {}).get("__notes__", ()):
            self.add_note(note)


def _rebuild(cls: type[ZnbError], message: str, fields: dict[str, Any]) -> ZnbError:
    """Make an error again from its message and fields, without running its constructor."""
    error = cls.__new__(cls)
    ZnbError.__init__(error, message, **fields)
    return error


class RemoteError(ZnbError):
    """Remote code raised an exception whose type cannot be loaded here.

    Attributes:
        type_name: Qualified name of the remote type, such as ``"mypkg.Oops"``.
    """

    type_name: str

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name, type_name=type_name)


class WorkerLost(ZnbError):
    """The process that ran (or held) the work is gone, or unreachable.

    Attributes:
        worker: The worker's name, such as ``"w0"``.
        reason: What is known: the signal and its meaning, the exit status, or how contact was lost.
    """

    worker: str
    reason: str

    def __init__(self, worker: str, reason: str, *, running: str = "", hint: str = "") -> None:
        parts = [f"{worker} {reason}"]
        if running:
            parts.append(f"while it ran {running}")
        message = " ".join(parts) + (f". {hint}" if hint else "")
        super().__init__(message, worker=worker, reason=reason, running=running)


class NoWorkers(ZnbError):
    """There is no worker that could run this, and none is coming."""


class CallTimeout(ZnbError, TimeoutError):
    """It took longer than the caller allowed.

    Attributes:
        timeout: The limit in seconds.
    """

    timeout: float

    def __init__(self, what: str, timeout: float) -> None:
        super().__init__(f"{what} took longer than the {timeout:g} s allowed", timeout=timeout)


class Cancelled(ZnbError, concurrent.futures.CancelledError):
    """The work was cancelled by its owner, or by an interrupt."""


class ServiceUnavailable(ZnbError, ConnectionError):
    """Nobody answers at this address, or the process behind it ended.

    Attributes:
        endpoint: The address or service name.
    """

    endpoint: str

    def __init__(self, endpoint: str, reason: str, *, hint: str = "") -> None:
        message = f"{endpoint}: {reason}" + (f". {hint}" if hint else "")
        super().__init__(message, endpoint=endpoint, reason=reason)


class SerializationError(ZnbError, TypeError):
    """An object cannot travel to another process.

    Attributes:
        path: Where it sits in what was sent, such as ``"args[0]['lock']"``.
    """

    path: str

    def __init__(self, what: str, reason: str, *, path: str = "", hint: str = "") -> None:
        where = f" (at {path})" if path else ""
        message = f"cannot send {what}{where}: {reason}" + (f". {hint}" if hint else "")
        super().__init__(message, path=path, reason=reason)


class ProtocolError(ZnbError):
    """A peer sent what the protocol does not allow, or speaks another version of it."""


class AuthError(ZnbError, PermissionError):
    """Keys are missing or wrong, or a secret file can be read by others."""
