"""What travels when something was raised: plain data that can be shown without reading a pickle.

An ``ErrorRecord`` holds a list of ``Raised``: the exception itself first, then the ones it was chained to and, for
groups, their members; they refer to each other by their position. Everything but ``Raised.parts`` is text and numbers;
``parts`` are what ``znb.serialize.Codec`` made of the type and of values that msgpack cannot carry.

Invariants: records are immutable, hold no reference to live objects, and contain no lone surrogates, so encoding one
cannot fail.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
import traceback
from typing import Any

import msgspec

from znb.errors import ProtocolError

__all__ = [
    "ErrorRecord",
    "Excerpt",
    "Frame",
    "Origin",
    "Part",
    "Place",
    "Raised",
    "decode_record",
    "encode_record",
]

#: Addresses in default reprs differ between processes that failed alike.
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A process that code ran in.

    Attributes:
        worker: Its name; empty for a process that is no worker.
        host: Its machine.
        pid: Its process id there.
    """

    worker: str
    host: str
    pid: int

    @property
    def name(self) -> str:
        """What to call it where there is room for one word."""
        return self.worker or self.host

    def __str__(self) -> str:
        if self.worker:
            return f"{self.worker} (host {self.host}, pid {self.pid})"
        return f"host {self.host} (pid {self.pid})"


class Origin(msgspec.Struct, frozen=True):
    """Where a restored exception was raised, and how it came here.

    Attributes:
        place: The process that raised it.
        via: The processes it passed on its way, the nearest to ``place`` first.
        also: Names of other workers that raised the same.
    """

    place: Place
    via: tuple[Place, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def caller(self) -> Place:
        """The process that this one asked."""
        return self.via[-1] if self.via else self.place

    @property
    def worker(self) -> str:
        """Name of the worker that raised it."""
        return self.place.worker

    @property
    def host(self) -> str:
        """Machine that raised it."""
        return self.place.host

    @property
    def pid(self) -> int:
        """Process that raised it."""
        return self.place.pid

    @property
    def note(self) -> str:
        """One line for people: ``raised on w1 (host b, pid 22), called from w0 (host a, pid 11)``."""
        hops = "".join(f", called from {place}" for place in self.via)
        also = f"; the same on {', '.join(self.also)}" if self.also else ""
        return f"raised on {self.place}{hops}{also}"


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One line of a traceback.

    Attributes:
        line: The source line, as it stands in the file; empty where it is not known.
        first_lineno: Where the function begins.
        end_lineno: Last line of the failing expression; ``None`` where the compiler left no columns.
        col: First column of the failing expression, in UTF-8 bytes.
        module: ``__name__`` of the frame's globals.
        variables: Values and texts of its variables, if they were asked for.
        names: What its variables are called, and the global ones that its code speaks of.
        place: Set on a frame that stands for a hop: the frames after it ran there.
        skipped: Set on a frame that stands for this many frames left out.
    """

    filename: str
    lineno: int
    name: str
    line: str = ""
    qualname: str = ""
    first_lineno: int = 1
    end_lineno: int | None = None
    col: int | None = None
    end_col: int | None = None
    module: str = ""
    variables: dict[str, Any] | None = None
    place: Place | None = None
    skipped: int = 0
    names: tuple[str, ...] = ()


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A value that only the codec can carry.

    Attributes:
        name: ``type``, ``self`` (the exception as it pickles itself), ``args``, or ``.`` and an attribute's name.
    """

    name: str
    body: bytes
    buffers: tuple[bytes, ...] = ()
    definitions: tuple[bytes, ...] = ()


class Raised(msgspec.Struct, frozen=True, omit_defaults=True):
    """One exception of a record.

    Attributes:
        type_name: Qualified name within ``module``.
        message: ``str()`` of it, shortened.
        summary: Its last lines in a Python traceback, without notes.
        args: Its arguments if they are plain data, else ``None`` (see ``parts``).
        attributes: Those of its attributes that are plain data.
        lost: What of it could not travel, one line each.
        cause: Position of its ``__cause__`` in the record; -1 for none.
        context: Position of its ``__context__``; -1 for none.
        members: Positions of a group's members.
        origin: Where it was raised, if not in the process that captured it.
    """

    type_name: str
    module: str
    message: str
    summary: str
    frames: tuple[Frame, ...] = ()
    notes: tuple[str, ...] = ()
    args: tuple[Any, ...] | None = None
    attributes: dict[str, Any] = {}
    parts: tuple[Part, ...] = ()
    lost: tuple[str, ...] = ()
    cause: int = -1
    context: int = -1
    suppress_context: bool = False
    members: tuple[int, ...] = ()
    origin: Origin | None = None


class Excerpt(msgspec.Struct, frozen=True, array_like=True):
    """Some lines of a file that exists there.

    Attributes:
        start: Number of the first line.
    """

    filename: str
    start: int
    text: str


class ErrorRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception, as it travels.

    Attributes:
        worker: Name of the worker that captured it.
        host: Machine that captured it.
        pid: Process that captured it.
        raised: The exception, then those it is chained to.
        sources: Texts of files that exist on no disk, such as cells, by file name.
        excerpts: Lines around the frames of other files.
    """

    worker: str
    host: str
    pid: int
    raised: tuple[Raised, ...]
    sources: dict[str, str] = {}
    excerpts: tuple[Excerpt, ...] = ()

    @property
    def place(self) -> Place:
        """The process that captured it."""
        return Place(self.worker, self.host, self.pid)

    @property
    def type_name(self) -> str:
        """Qualified name of the exception's type, within its module."""
        return self.raised[0].type_name

    @property
    def module(self) -> str:
        """Module of the exception's type."""
        return self.raised[0].module

    @property
    def message(self) -> str:
        """The exception's text."""
        return self.raised[0].message

    @property
    def notes(self) -> tuple[str, ...]:
        """The exception's notes."""
        return self.raised[0].notes

    @property
    def frames(self) -> tuple[tuple[str, int, str, str], ...]:
        """File name, line number, function and source line of each frame, innermost last."""
        return tuple((f.filename, f.lineno, f.name, f.line) for f in self.raised[0].frames)

    @property
    def origin(self) -> Origin:
        """Where it was raised, as seen by whoever received the record."""
        return _passed_on(self.raised[0].origin, self.place)

    @property
    def definitions(self) -> tuple[bytes, ...]:
        """Keys of the definitions that its parts refer to, dependencies first; ship them before the record."""
        keys = (key for raised in self.raised for part in raised.parts for key in part.definitions)
        return tuple(dict.fromkeys(keys))

    @property
    def traceback_text(self) -> str:
        """The traceback as Python prints it, with the chain, notes and origin; plain text ending in a newline."""
        return _format(self, 0, with_origin=True)

    @property
    def fingerprint(self) -> str:
        """Equal for failures that look alike to a user: types, messages and lines; whoever raised them."""
        digest = hashlib.blake2b(digest_size=12)
        for raised in self.raised:
            lines = [(f.filename, f.lineno, f.name) for f in raised.frames if f.place is None]
            message = _ADDRESS.sub("0x", raised.message)
            key = (raised.module, raised.type_name, message, lines, raised.cause, raised.members)
            digest.update(repr(key).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def _passed_on(origin: Origin | None, place: Place) -> Origin:
    """Return the origin of what ``place`` raised, or of what it passed on from ``origin``."""
    if origin is None:
        return Origin(place)
    return Origin(origin.place, (*origin.via, place), origin.also)


def encode_record(record: ErrorRecord) -> bytes:
    """Return the msgpack form of a record."""
    return msgspec.msgpack.encode(record)


def decode_record(data: bytes | memoryview) -> ErrorRecord:
    """Return the record whose msgpack form is ``data``. Reads no pickle.

    Raises:
        ProtocolError: ``data`` is no record.
    """
    try:
        record = msgspec.msgpack.decode(data, type=ErrorRecord)
    except msgspec.DecodeError as error:
        message = f"expected an error record, got {len(data)} bytes that are none: {error}"
        raise ProtocolError(message) from error
    if not record.raised:
        raise ProtocolError("expected an error record, got one without an exception")
    return record


def _format(record: ErrorRecord, index: int, *, with_origin: bool = False) -> str:
    raised = record.raised[index]
    text = ""
    if index < raised.cause < len(record.raised):
        text += _format(record, raised.cause)
        text += "\nThe above exception was the direct cause of the following exception:\n\n"
    elif index < raised.context < len(record.raised) and not raised.suppress_context:
        text += _format(record, raised.context)
        text += "\nDuring handling of the above exception, another exception occurred:\n\n"
    if raised.frames:
        text += "Traceback (most recent call last):\n"
        text += "".join(traceback.StackSummary.from_list([_summary(f) for f in raised.frames]).format())
    text += raised.summary + "\n"
    text += "".join(f"{note}\n" for note in (*raised.notes, *raised.lost))
    if with_origin:
        text += f"{record.origin.note}\n"
    for number, member in enumerate(raised.members, 1):
        if index < member < len(record.raised):
            text += f"  +---------------- {number} of {len(raised.members)}\n"
            text += textwrap.indent(_format(record, member), "  | ", lambda _line: True)
    return text


def _summary(frame: Frame) -> traceback.FrameSummary:
    """Return the frame for the traceback module; columns only if they lie within the one line that is known."""
    columns: dict[str, Any] = {}
    if frame.end_lineno == frame.lineno and frame.line:
        columns = {"end_lineno": frame.end_lineno, "colno": frame.col, "end_colno": frame.end_col}
    # Python 3.11 places its marks by the length of the line with its end.
    line = frame.line and frame.line + "\n"
    return traceback.FrameSummary(frame.filename, frame.lineno, frame.name, lookup_line=False, line=line, **columns)
