"""Finished spans as columns: how they travel, and how a client keeps them.

A span as an object of its own takes some 500 bytes; as a row of these columns about 50, and its attributes as msgpack
about as much again. ``Span`` objects are made when somebody looks.

=============== ======= ==========================================================================
column           type    content
=============== ======= ==========================================================================
span_id          uint64
parent_id        uint64  0: none
start_ns         int64   of the process's clock, until ``shift`` makes it Unix time
end_ns           int64   0: it has not ended
name             uint32  index into ``strings``
kind             uint8   index into ``KINDS``
status           uint8   index into ``STATUSES``
thread           uint32  index into ``threads``
extent           uint32  end of its attributes in ``blob``, which begin where those of the row before end
=============== ======= ==========================================================================

Invariants: columns have one length; a table is only appended to; little-endian on the wire. Not owned by a thread.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from znb.spans.plain import scrub, valid_text

__all__ = [
    "CANCELLED",
    "ERROR",
    "KINDS",
    "LOST",
    "STATUSES",
    "Event",
    "Process",
    "Span",
    "SpanTable",
    "TracePart",
    "pack_entries",
]

#: What spans stand for. ``call`` is a request as its caller sees it, ``serve`` the same where it is answered; ``map``
#: and ``submit`` are the caller's side of jobs, ``job`` the run of one (or of several short ones) on a worker.
KINDS: Final = ("span", "trace", "cell", "call", "serve", "map", "submit", "job", "put", "publish")
#: How spans ended. ``open`` ones had not when they were last heard of; ``lost`` ones never will: their process is gone.
STATUSES: Final = ("ok", "error", "cancelled", "open", "lost")
#: Three of them as tables hold them.
ERROR, CANCELLED, LOST = map(STATUSES.index, ("error", "cancelled", "lost"))

_KIND: Final = {kind: number for number, kind in enumerate(KINDS)}
_STATUS: Final = {status: number for number, status in enumerate(STATUSES)}
#: Columns and their ``array`` type codes.
_COLUMNS: Final = {
    "span_id": "Q", "parent_id": "Q", "start_ns": "q", "end_ns": "q", "name": "I", "kind": "B", "status": "B", "thread":
    "I", "extent": "I",
}  # fmt: skip
#: Bytes of attributes that one table holds: what ``extent`` can count.
BLOB_MAX = (1 << 32) - 1

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Process(msgspec.Struct, frozen=True, array_like=True):
    """A process that has recorded spans.

    Attributes:
        key: Tells it from all others (``Recorder.key``).
        worker: Its name; empty where it is no worker.
        host: Its machine.
        pid: Its process id there.
        boot: Id of the machine's boot: processes of one boot share a clock. Empty where that is not known.
    """

    key: str
    worker: str
    host: str
    pid: int
    boot: str = ""

    @property
    def label(self) -> str:
        """What to call it where there is room for one word."""
        return self.worker or f"pid {self.pid}"


class Event(msgspec.Struct, frozen=True, array_like=True):
    """Something that happened in a span; ``time_ns`` is Unix time once the trace is assembled."""

    time_ns: int
    name: str
    attributes: dict[str, Any]


class Span(msgspec.Struct, frozen=True):
    """A span, as a trace shows it.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them.
        parent_id: The same; ``None`` for a root.
        start_ns: Unix time.
        end_ns: Unix time; ``None`` if it has not ended.
        status: One of ``STATUSES``.
        worker: Name of the worker that it ran on, or what else tells its process.
        thread: Name of its thread.
    """

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int | None
    status: str
    attributes: dict[str, Any]
    events: tuple[Event, ...]
    worker: str
    host: str
    pid: int
    thread: str

    @property
    def duration(self) -> float | None:
        """Seconds from start to end; ``None`` if it has not ended."""
        return None if self.end_ns is None else (self.end_ns - self.start_ns) / 1e9

    def __repr__(self) -> str:
        took = "" if self.duration is None else f" {self.duration * 1e3:.3g} ms"
        return f"<Span {self.name!r} {self.kind} {self.status}{took} on {self.worker}>"


def by_name(attributes: Any) -> dict[str, Any]:
    """Return attributes that came from elsewhere, if they are a dict by text; else raise ``TypeError``."""
    if not isinstance(attributes, dict) or not all(isinstance(key, str) for key in attributes):
        raise TypeError(f"expected attributes by name, got {attributes!r:.50}")
    return attributes


class SpanTable:
    """Spans of one trace as columns, from one process or many.

    Attributes:
        strings: Names.
        threads: Where spans ran: index of the process, the thread's id and its name.
        processes: Where the threads are.
        blob: Attributes, as msgpack.
        events: By row, those that have any.
    """

    __slots__ = (*_COLUMNS, "blob", "events", "processes", "strings", "threads")

    span_id: array[int]
    parent_id: array[int]
    start_ns: array[int]
    end_ns: array[int]
    name: array[int]
    kind: array[int]
    status: array[int]
    thread: array[int]
    extent: array[int]

    def __init__(self) -> None:
        for column, code in _COLUMNS.items():
            setattr(self, column, array(code))
        self.blob = bytearray()
        self.events: dict[int, list[Event]] = {}
        self.strings: list[str] = []
        self.threads: list[tuple[int, int, str]] = []
        self.processes: list[Process] = []

    def __len__(self) -> int:
        return len(self.span_id)

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, nearly."""
        columns = sum(len(getattr(self, column)) * getattr(self, column).itemsize for column in _COLUMNS)
        events = sum(400 * len(found) for found in self.events.values())
        return int(columns + len(self.blob) + events + 64 * (len(self.strings) + len(self.threads)) + 1024)

    def attributes(self, row: int) -> dict[str, Any]:
        """Return the attributes of a row: a dict of its own, which may be kept."""
        start, end = self.extent[row - 1] if row else 0, self.extent[row]
        return _decode(memoryview(self.blob)[start:end]) if end > start else {}

    def process(self, row: int) -> Process:
        """Return the process of a row."""
        return self.processes[self.threads[self.thread[row]][0]]

    def place(self, process: Process, ident: int, name: str) -> int:
        """Return the index of a thread, adding it if it is new."""
        return _index(self.threads, (_index(self.processes, process), ident, name))

    def add(
        self,
        span_id: int,
        parent_id: int,
        start_ns: int,
        end_ns: int,
        name: int,
        thread: int,
        *,
        kind: str = "span",
        status: str = "ok",
        attributes: dict[str, Any] | None = None,
        events: Sequence[Event] = (),
    ) -> None:
        """Append one row; ``name`` and ``thread`` are indexes into ``strings`` and ``threads``.

        Raises:
            OverflowError: An id or a time does not fit its column.
            TypeError: The attributes are no dict of texts.
        """
        row = len(self)
        encoded = _encode(by_name(attributes)) if attributes else b""
        self.span_id.append(span_id)
        try:
            self.parent_id.append(parent_id)
            self.start_ns.append(start_ns)
            self.end_ns.append(end_ns)
        except OverflowError:
            for column in (self.span_id, self.parent_id, self.start_ns):
                del column[row:]
            raise
        self.name.append(name)
        self.kind.append(_KIND.get(kind, 0))
        self.status.append(_STATUS.get(status, 0))
        self.thread.append(thread)
        self.blob += encoded
        self.extent.append(len(self.blob))
        if events:
            self.events[row] = list(events)

    def check(self) -> None:
        """Raise ``ValueError`` if indexes of a table that came from elsewhere lead nowhere."""
        limits = {"name": len(self.strings), "kind": len(KINDS), "status": len(STATUSES), "thread": len(self.threads)}
        for column, limit in limits.items():
            values = getattr(self, column)
            if values and max(values) >= limit:
                raise ValueError(f"expected {column}s below {limit}, got {max(values)}")
        if any(not 0 <= process < len(self.processes) for process, _, _ in self.threads):
            raise ValueError("expected threads of processes that exist")
        if self.extent and (self.extent[-1] > len(self.blob) or any(map(_greater, self.extent, self.extent[1:]))):
            raise ValueError("expected extents that grow up to the length of the attributes")
        if any(not 0 <= row < len(self) for row in self.events):
            raise ValueError("expected events of rows that exist")

    def append(self, other: SpanTable, *, offset_ns: int = 0) -> None:
        """Append the rows of another table, its times moved by ``offset_ns``."""
        base, extent = len(self), len(self.blob)
        if extent + len(other.blob) > BLOB_MAX:
            raise OverflowError("the attributes of one trace have grown past 4 GB")
        processes = [_index(self.processes, process) for process in other.processes]
        threads = [_index(self.threads, (processes[p], ident, name)) for p, ident, name in other.threads]
        known = {text: number for number, text in enumerate(self.strings)}
        strings = [known.setdefault(text, len(known)) for text in other.strings]
        self.strings[:] = known
        for column in ("span_id", "parent_id", "kind", "status"):
            getattr(self, column).extend(getattr(other, column))
        self.name.extend(map(strings.__getitem__, other.name))
        self.thread.extend(map(threads.__getitem__, other.thread))
        self.extent.extend([end + extent for end in other.extent] if extent else other.extent)
        self.start_ns.extend([t + offset_ns for t in other.start_ns] if offset_ns else other.start_ns)
        self.end_ns.extend([t and t + offset_ns for t in other.end_ns] if offset_ns else other.end_ns)
        self.blob += other.blob
        for row, events in other.events.items():
            self.events[base + row] = [Event(e.time_ns + offset_ns, e.name, e.attributes) for e in events]


def _index(known: list[Any], wanted: Any) -> int:
    try:
        return known.index(wanted)
    except ValueError:
        known.append(wanted)
        return len(known) - 1


class TracePart(msgspec.Struct, frozen=True, array_like=True):
    """What one process has recorded of one trace, as it travels.

    Attributes:
        trace_id: 16 bytes, big-endian.
        columns: As in the module's table, in its order.
        events: By row.
    """

    trace_id: bytes
    columns: list[bytes]
    strings: list[str]
    threads: list[tuple[int, str]]
    blob: bytes
    events: dict[int, list[Event]] = {}

    @property
    def first_ns(self) -> int:
        """The first start."""
        starts = array("q", self.columns[2])
        if sys.byteorder == "big":
            starts.byteswap()
        return min(starts)

    def table(self, process: Process) -> SpanTable:
        """Return it as a table.

        Raises:
            ValueError: The columns are not those of a table.
        """
        table = SpanTable()
        if len(self.columns) != len(_COLUMNS):
            raise ValueError(f"expected {len(_COLUMNS)} columns of spans, got {len(self.columns)}")
        for column, data in zip(_COLUMNS, self.columns, strict=True):
            values = getattr(table, column)
            values.frombytes(data)
            if sys.byteorder == "big":
                values.byteswap()
        if len({len(getattr(table, column)) for column in _COLUMNS}) != 1:
            raise ValueError("expected columns of one length")
        table.blob += self.blob
        table.strings = list(self.strings)
        table.processes = [process]
        table.threads = [(0, ident, name) for ident, name in self.threads]
        table.events = dict(self.events)
        table.check()
        return table


def _greater(first: int, second: int) -> bool:
    return first > second


def _encode_any(attributes: dict[str, Any]) -> bytes:
    """Encode attributes, also those that did not go through ``plain.clean``."""
    try:
        return _encode(attributes)
    except (TypeError, ValueError, OverflowError):
        return _encode(scrub(attributes))


def pack_entries(entries: Iterable[Sequence[Any]], thread_name: Any) -> list[TracePart]:
    """Return entries of a ring (see ``recorder.FIELDS``), by trace.

    Args:
        entries: Finished spans.
        thread_name: Returns the name of a thread by its ident.
    """
    traces: dict[int, list[Sequence[Any]]] = {}
    for entry in entries:
        traces.setdefault(entry[1], []).append(entry)
    return [_pack_trace(trace_id, rows, thread_name) for trace_id, rows in traces.items()]


def _pack_trace(trace_id: int, rows: list[Sequence[Any]], thread_name: Any) -> TracePart:
    _, _, span_ids, parent_ids, names, kinds, starts, ends, statuses, threads, attributes, all_events = zip(
        *rows, strict=True
    )
    strings = {name: number for number, name in enumerate(dict.fromkeys(names))}
    idents = {ident: number for number, ident in enumerate(dict.fromkeys(threads))}
    blob = bytearray()
    extents: list[int] = []
    for found in attributes:
        if found:
            blob += _encode_any(found)
        extents.append(len(blob))
    columns = [
        array("Q", span_ids),
        array("Q", parent_ids),
        array("q", starts),
        array("q", ends),
        array("I", map(strings.__getitem__, names)),
        array("B", [_KIND.get(kind, 0) for kind in kinds]),
        array("B", [_STATUS.get(status, 0) for status in statuses]),
        array("I", map(idents.__getitem__, threads)),
        array("I", extents),
    ]
    if sys.byteorder == "big":
        for column in columns:
            column.byteswap()
    return TracePart(
        trace_id.to_bytes(16, "big"),
        [column.tobytes() for column in columns],
        [valid_text(str(name)) for name in strings],
        [(ident, thread_name(ident)) for ident in idents],
        bytes(blob),
        {
            row: [Event(time_ns, valid_text(name), scrub(found)) for time_ns, name, found in events]
            for row, events in enumerate(all_events)
            if events
        },
    )
