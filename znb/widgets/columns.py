"""A trace as the page takes it: columns as binary buffers, in numbered chunks.

The byte table is at the head of ``js/src/explorer/chunk.ts``, which is the other end. Columns are sent as they lie in
memory, so a chunk costs the kernel little beside its copy: names and threads are renumbered, and the few attributes
that the picture needs are picked out.

Invariants: what has been sent is not sent again within a run, open spans aside; a chunk has at most ``ROWS_MAX``
finished spans. Pure; not owned by a thread.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from znb.spans import KINDS, STATUSES, Process, SpanTable
from znb.spans.samples import SampleTable
from znb.traces.model import TraceData

__all__ = ["Chunk", "Encoder", "Source", "source_of"]

#: Finished spans, and samples, of one chunk: about 2 MB, decoded in the time of a frame or two.
ROWS_MAX = 40_000
#: Attributes that the picture needs: see ``znb.traces.pieces``.
MARKS: Final = (
    "encoded_ns", "sent_ns", "replied_ns", "decoding_ns", "taken_ns", "decoded_ns", "ran_ns", "queued_ns",
    "suspended_ns",
)  # fmt: skip
_MARK_KEY: Final = {mark: key for key, mark in enumerate(MARKS)}


class Chunk(NamedTuple):
    """A message: what goes as JSON, and the buffers."""

    header: dict[str, Any]
    buffers: list[bytes]


class Source(NamedTuple):
    """Where spans come from: tables of one process, or of a whole trace.

    Attributes:
        key: Tells it from others.
        spans: Only grows from one look to the next.
        opened: Open spans as of now.
        samples: Only grows.
        offset_ns: What its clock is ahead of the trace's.
    """

    key: str
    spans: SpanTable | None
    opened: SpanTable | None = None
    samples: SampleTable | None = None
    offset_ns: int = 0


def source_of(data: TraceData) -> Source:
    """Return an assembled trace as a source."""
    return Source("trace", data.table, None, data.samples)


@dataclass
class _Sent:
    """How much of a source has been sent, and what its numbers are here."""

    spans: int = 0
    samples: int = 0
    nodes: int = 0
    frames: int = 0
    names: list[int] = field(default_factory=list)
    #: Numbers of frames and nodes in the run.
    frame_numbers: array[int] = field(default_factory=lambda: array("I"))
    node_numbers: array[int] = field(default_factory=lambda: array("i"))


class Encoder:
    """Encodes one run.

    Args:
        run: Its number; a later run replaces an earlier one.
        title: Of the trace.
        trace_id: 128 bits.
        base_ns: What times are shown from, by the trace's clock.
    """

    def __init__(self, run: int, title: str, trace_id: int, base_ns: int) -> None:
        self.run = run
        self.base_ns = base_ns
        self._head: dict[str, Any] | None = {
            "title": title,
            "trace_id": f"{trace_id:032x}",
            "base": str(base_ns),
            "kinds": list(KINDS),
            "statuses": list(STATUSES),
        }
        self._seq = 0
        self._sent: dict[str, _Sent] = {}
        self._names: dict[str, int] = {}
        self._processes: dict[Process, int] = {}
        self._threads: dict[tuple[Process, int, str], int] = {}
        self._frames = self._nodes = 0
        self._fresh: dict[str, list[Any]] = {}

    def chunks(
        self, sources: Sequence[Source], *, live: bool, length_ns: int, notes: Sequence[str] = ()
    ) -> Iterator[Chunk]:
        """Yield what has come since the last time: at least one chunk.

        Args:
            sources: All of them, each time.
            live: Whether the trace goes on.
            length_ns: How long it is so far.
            notes: What is missing or uncertain.
        """
        pending = [piece for source in sources for piece in self._pieces(source)] or [lambda _counts: []]
        for number, encode in enumerate(pending):
            self._fresh = {"names": [], "processes": [], "threads": [], "frames": []}
            counts = {"spans": 0, "open": 0, "marks": 0, "samples": 0, "nodes": 0}
            buffers = encode(counts)
            header: dict[str, Any] = {"kind": "chunk", "run": self.run, "seq": self._seq}
            if self._head is not None:
                header["head"], self._head = self._head, None
            self._seq += 1
            more = number + 1 < len(pending)
            yield Chunk(
                {
                    **header,
                    "live": live,
                    "more": more,
                    "length": length_ns,
                    "notes": list(notes),
                    **self._fresh,
                    **counts,
                },
                buffers,
            )

    # -- what there is to send

    def _pieces(self, source: Source) -> Iterator[Callable[[dict[str, int]], list[bytes]]]:
        """Yield what encodes the parts of a source that have not been sent."""
        sent = self._sent.setdefault(source.key, _Sent())
        if source.spans is not None:
            for start in range(sent.spans, len(source.spans), ROWS_MAX):
                stop = min(start + ROWS_MAX, len(source.spans))
                yield partial(self._rows, source.spans, sent.names, source.offset_ns, range(start, stop), "spans")
            sent.spans = len(source.spans)
        if source.opened is not None and len(source.opened):
            rows = range(len(source.opened))
            yield partial(self._rows, source.opened, [], source.offset_ns, rows, "open")
        if source.samples is not None:
            for start in range(sent.samples, len(source.samples), ROWS_MAX):
                stop = min(start + ROWS_MAX, len(source.samples))
                yield partial(self._samples, source.samples, sent, source.offset_ns, range(start, stop))
            sent.samples = len(source.samples)

    # -- how

    def _rows(
        self, table: SpanTable, names: list[int], offset_ns: int, wanted: range, what: str, counts: dict[str, int]
    ) -> list[bytes]:
        counts[what] = len(wanted)
        names.extend([self._name(name) for name in table.strings[len(names) :]])
        threads = [self._thread(table.processes[p], ident, name, offset_ns) for p, ident, name in table.threads]
        rows = slice(wanted.start, wanted.stop)
        columns = [
            table.span_id[rows],
            table.parent_id[rows],
            table.start_ns[rows],
            table.end_ns[rows],
            array("I", map(names.__getitem__, table.name[rows])),
            table.kind[rows],
            table.status[rows],
            array("I", map(threads.__getitem__, table.thread[rows])),
        ]
        return [_bytes(column) for column in columns] + self._marks(table, wanted, counts)

    @staticmethod
    def _marks(table: SpanTable, wanted: range, counts: dict[str, int]) -> list[bytes]:
        """Pick out when calls were handed on."""
        low = table.extent[wanted.start - 1] if wanted.start else 0
        blob = bytes(memoryview(table.blob)[low : table.extent[wanted.stop - 1]])
        if not any(mark.encode() in blob for mark in MARKS):
            return []
        rows, keys, values = array("I"), array("B"), array("d")
        for row in wanted:
            end = table.extent[row]
            found = table.attributes(row) if end > low else {}
            for mark in _MARK_KEY.keys() & found.keys():
                if isinstance(found[mark], int):
                    rows.append(row - wanted.start)
                    keys.append(_MARK_KEY[mark])
                    values.append(found[mark])
            low = end
        counts["marks"] = len(rows)
        return [_bytes(rows), _bytes(keys), _bytes(values)] if rows else []

    def _samples(
        self, table: SampleTable, sent: _Sent, offset_ns: int, wanted: range, counts: dict[str, int]
    ) -> list[bytes]:
        for frame in table.frames[sent.frames :]:
            sent.frame_numbers.append(self._frames)
            self._frames += 1
            self._fresh["frames"].append([frame.name, frame.file, frame.line, frame.first_line, frame.origin])
        sent.frames = len(table.frames)
        up, numbers = array("i"), array("I")
        for parent, number in zip(table.stack_parent[sent.nodes :], table.stack_frame[sent.nodes :], strict=True):
            up.append(sent.node_numbers[parent] if parent >= 0 else -1)
            numbers.append(sent.frame_numbers[number])
            sent.node_numbers.append(self._nodes)
            self._nodes += 1
        sent.nodes = len(table.stack_parent)
        counts["samples"], counts["nodes"] = len(wanted), len(up)
        threads = [self._thread(table.processes[p], i, name, offset_ns) for p, i, name in table.threads]
        rows = slice(wanted.start, wanted.stop)
        columns = [
            table.span_id[rows],
            table.time_ns[rows],
            table.wall_ns[rows],
            table.cpu_ns[rows],
            array("I", map(threads.__getitem__, table.thread[rows])),
            array("I", map(sent.node_numbers.__getitem__, table.stack[rows])),
        ]
        return [_bytes(column) for column in columns] + ([_bytes(up), _bytes(numbers)] if up else [])

    def _name(self, name: str) -> int:
        number = self._names.get(name)
        if number is None:
            number = self._names[name] = len(self._names)
            self._fresh["names"].append(name)
        return number

    def _thread(self, process: Process, ident: int, name: str, offset_ns: int) -> int:
        key = (process, ident, name)
        number = self._threads.get(key)
        if number is None:
            if process not in self._processes:
                self._processes[process] = len(self._processes)
                self._fresh["processes"].append([process.worker, process.host, process.pid, process.label])
            number = self._threads[key] = len(self._threads)
            self._fresh["threads"].append([self._processes[process], name, offset_ns])
        return number


def _bytes(column: array[Any]) -> bytes:
    """Return a column as it travels: little-endian."""
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()
