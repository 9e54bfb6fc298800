"""Exception → record, in the process that raised it.

Invariants: ``capture`` returns a record whatever the exception is and does: one whose text, attributes or chain
misbehave loses these and says so. Cost and size are bounded: exceptions of the chain, frames, sources, values.
"""

from __future__ import annotations

import traceback
from collections.abc import Collection
from typing import Final

from znb.errors import ZnbError
from znb.tracebacks.frames import read_frames
from znb.tracebacks.record import ErrorRecord, Frame, Origin, Raised
from znb.tracebacks.sources import Sources, clean
from znb.tracebacks.values import Codec, Packer, Values, safe_str

__all__ = ["HIDDEN_MODULES", "capture"]

#: Top-level modules whose frames are no business of a user's.
HIDDEN_MODULES: Final = frozenset({"znb", "IPython", "ipykernel"})
#: Exceptions kept of one chain and its groups.
_MAX_RAISED = 128
#: Links followed from the exception to one that it is chained to.
_MAX_DEPTH = 50
#: Notes kept of one exception, and characters of each.
_MAX_NOTES, _MAX_NOTE = 50, 10_000


def capture(
    exc: BaseException,
    codec: Codec,
    *,
    worker: str,
    host: str,
    pid: int,
    hide: Collection[str] = HIDDEN_MODULES,
    with_locals: bool = False,
) -> ErrorRecord:
    """Return the record of an exception that was caught here. Never raises.

    An exception that was itself restored here keeps where it was raised: the way through this process is added.

    Args:
        exc: The exception; its ``__traceback__`` tells the frames.
        codec: Carries the type, and values that are no plain data.
        worker: Name of this worker; empty for a process that is none.
        host: Name of this machine.
        pid: Id of this process.
        hide: Top-level modules whose frames are left out.
        with_locals: Whether texts of the frames' variables are sent, names that sound secret masked.

    Example:
        >>> from znb.serialize import Codec
        >>> record = capture(ValueError("bad"), Codec(), worker="w0", host="nb", pid=7)
        >>> print(record.traceback_text, end="")
        ValueError: bad
        raised on w0 (host nb, pid 7)
    """
    failure = ""
    for carry in (True, False):
        try:
            return _Capture(codec if carry else None, hide, with_locals=with_locals).record(
                exc, worker, host, pid, failure
            )
        # User code (properties, reprs, pickling) may raise anything, an interrupt may arrive meanwhile, memory may be
        # short: the error that is being reported matters more than any of these.
        except BaseException as error:  # noqa: BLE001
            failure = f"not all of it could be captured: {type(error).__name__}"
    name = clean(type.__dict__["__name__"].__get__(type(exc)))  # past what a metaclass may make of it
    message = safe_str(exc)
    raised = Raised(name, "", message, f"{name}: {message}" if message else name, lost=(failure,))
    return ErrorRecord(worker, host, pid, (raised,))


class _Capture:
    """Reads one exception and its chain."""

    def __init__(self, codec: Codec | None, hide: Collection[str], *, with_locals: bool) -> None:
        self._packer = Packer(codec) if codec is not None else None
        self._hide = hide
        self._with_locals = with_locals
        self._sources = Sources()
        self._raised: list[Raised | None] = []
        self._positions: dict[int, int] = {}
        self._path: set[int] = set()

    def record(self, exc: BaseException, worker: str, host: str, pid: int, failure: str) -> ErrorRecord:
        self._read(exc)
        raised = [entry for entry in self._raised if entry is not None]
        if failure:
            raised[0] = _with_lost(raised[0], failure)
        sources, excerpts = self._sources.collect()
        return ErrorRecord(worker, host, pid, tuple(raised), sources, excerpts)

    def _read(self, exc: BaseException | None) -> int:
        """Read an exception and what it is chained to; return its position, -1 if it is left out.

        One that stands on the way here already would close a circle: following it would never end.
        """
        if exc is None or id(exc) in self._path:
            return -1
        if (position := self._positions.get(id(exc))) is not None:
            return position
        if len(self._raised) >= _MAX_RAISED or len(self._path) >= _MAX_DEPTH:
            return -1
        position = self._positions[id(exc)] = len(self._raised)
        self._raised.append(None)
        self._path.add(id(exc))
        frames = self._frames(exc)
        values = self._packer.take_apart(exc) if self._packer is not None else Values(None, {}, (), ())
        lost = values.lost
        members: tuple[int, ...] = ()
        if isinstance(exc, BaseExceptionGroup):
            members = tuple(m for m in map(self._read, exc.exceptions) if m >= 0)
            if missing := len(exc.exceptions) - len(members):
                lost = (*lost, f"{missing} of its {len(exc.exceptions)} exceptions were left out")
        cause, context = self._read(exc.__cause__), self._read(exc.__context__)
        self._path.discard(id(exc))
        origin = exc.__dict__.get("znb_origin")
        origin = origin if isinstance(origin, Origin) else None
        message = safe_str(exc)
        self._raised[position] = Raised(
            clean(type(exc).__qualname__),
            _module(exc),
            message,
            _summary(exc, message),
            frames,
            _notes(exc, origin),
            values.args,
            _with_message(exc, values.attributes),
            values.parts,
            lost,
            cause,
            context,
            exc.__suppress_context__,
            members,
            origin,
        )
        return position

    def _frames(self, exc: BaseException) -> tuple[Frame, ...]:
        # Where the framework itself raised, its frames tell users of a ZnbError nothing, and those of a SyntaxError
        # are the compiler's. Any other exception without a visible frame is a defect that has to be found.
        keep = not isinstance(exc, ZnbError | SyntaxError)
        frames = read_frames(
            exc.__traceback__, self._hide, self._sources, keep_innermost=keep, with_locals=self._with_locals
        )
        if isinstance(exc, SyntaxError) and isinstance(exc.filename, str) and isinstance(exc.lineno, int):
            self._sources.need(clean(exc.filename), exc.lineno)
        return frames


def _module(exc: BaseException) -> str:
    module = type(exc).__module__
    return clean(module) if isinstance(module, str) else ""


def _summary(exc: BaseException, message: str) -> str:
    if isinstance(exc, SyntaxError):
        text = "".join(traceback.TracebackException(type(exc), exc, None).format_exception_only())
        notes = getattr(exc, "__notes__", None)
        for note in reversed(notes if isinstance(notes, list) else []):
            text = text.removesuffix(f"{note}\n")
        return clean(text.rstrip("\n"))
    module, name = _module(exc), clean(type(exc).__qualname__)
    if module not in {"builtins", "__main__", ""}:
        name = f"{module}.{name}"
    return f"{name}: {message}" if message else name


def _notes(exc: BaseException, origin: Origin | None) -> tuple[str, ...]:
    """Return the user's notes; the one about the origin is made anew by whoever restores it."""
    notes = getattr(exc, "__notes__", None)
    if not isinstance(notes, list | tuple):
        return ()
    ours = origin.note if origin is not None else None
    return tuple(clean(n[:_MAX_NOTE]) for n in notes[:_MAX_NOTES] if isinstance(n, str) and n != ours)


def _with_message(exc: BaseException, attributes: dict[str, object]) -> dict[str, object]:
    """Add the message of a group, whose ``str()`` counts its members as well."""
    if isinstance(exc, BaseExceptionGroup):
        return {**attributes, "message": clean(exc.message)}
    return attributes


def _with_lost(raised: Raised, failure: str) -> Raised:
    fields = {name: getattr(raised, name) for name in raised.__struct_fields__}
    return Raised(**{**fields, "lost": (*raised.lost, failure)})
