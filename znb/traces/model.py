"""A trace, assembled: its spans as one table on one clock, their tree, and the samples.

=============== ======= ==========================================================================
column           type    content
=============== ======= ==========================================================================
parent           int32   row of the parent; -1: a root, or the parent is not there
order            uint32  rows of children, those of one parent together, by start
first            uint32  where the children of a row begin in ``order``; one entry more than rows
by_start         uint32  all rows, by start
=============== ======= ==========================================================================

Invariants: immutable once made; times are Unix time in nanoseconds; every row is reached from ``roots`` once; memory is
some 75 bytes a span beside the attributes. Not owned by a thread.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

from znb.spans.samples import SampleTable
from znb.spans.table import KINDS, STATUSES, Event, Process, Span, SpanTable
from znb.traces.listing import LINES_MAX, duration, in_columns, printable

__all__ = ["ClockError", "SpanList", "TraceData"]


class ClockError(NamedTuple):
    """How sure the times of a process are, compared to those of the process that began the trace.

    Attributes:
        process: Whose times.
        offset_ns: What its clock was ahead of ours; already taken off.
        error_ns: How far its times may be off.
    """

    process: Process
    offset_ns: int
    error_ns: int


class TraceData:
    """One trace.

    Args:
        trace_id: 128 bits.
        table: Its spans.
        samples: Its samples.
        notes: What is missing or uncertain, a sentence each.
        clocks: How sure times are.
        sampled: Whether samples that were taken are there; files of some formats have none.

    Attributes:
        roots: Rows without a parent here, by start.
        orphans: How many of them have a parent that is missing.
        start_ns: When the first span began; 0 if there is none.
        end_ns: When the last one ended, as far as that is known.
    """

    def __init__(
        self,
        trace_id: int,
        table: SpanTable,
        samples: SampleTable,
        notes: Sequence[str] = (),
        clocks: Sequence[ClockError] = (),
        *,
        sampled: bool = True,
    ) -> None:
        self.trace_id = trace_id
        self.table = table
        self.samples = samples
        self.notes = list(notes)
        self.clocks = list(clocks)
        self.sampled = sampled
        self.parent = self._find_parents()
        self.by_start = array("I", sorted(range(len(table)), key=table.start_ns.__getitem__))
        self.order, self.first, self.roots = self._sort_children()
        self.orphans = sum(1 for row in self.roots if table.parent_id[row])
        self.start_ns = min(table.start_ns, default=0)
        self.end_ns = max(max(table.end_ns, default=0), max(table.start_ns, default=0), max(samples.time_ns, default=0))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, nearly."""
        return self.table.size_bytes + self.samples.size_bytes + 16 * len(self.table)

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def root_name(self) -> str:
        """The name of the first root; empty if there is none."""
        return self.name(self.roots[0]) if self.roots else ""

    def _find_parents(self) -> array[int]:
        """Return the row of each row's parent; a row is never its own ancestor, whatever a file says."""
        ids, parents = self.table.span_id, self.table.parent_id
        rows = dict(zip(ids, range(len(ids)), strict=True))
        rows.pop(0, None)
        found = array("i", [rows.get(parent, -1) for parent in parents])
        seen = bytearray(len(found))  # 1: on the path from here, 2: known to lead to a root
        for row in range(len(found)):
            path = []
            step = row
            while step >= 0 and not seen[step]:
                seen[step] = 1
                path.append(step)
                step = found[step]
            if step >= 0 and seen[step] == 1:
                found[path[-1]] = -1  # a circle is cut where it closes
            for done in path:
                seen[done] = 2
        return found

    def _sort_children(self) -> tuple[array[int], array[int], list[int]]:
        count = len(self.table)
        by_start = self.by_start
        parent = self.parent
        counts = [0] * (count + 1)
        for row in parent:
            counts[row] += 1  # roots at -1: the last place
        counts[count] = 0
        first, total = array("I"), 0
        for children in counts[:count]:
            first.append(total)
            total += children
        # The last count was that of the roots until it was cleared; children of real rows end at the total.
        first.append(total)
        place = list(first)
        order = array("I", bytes(4 * total))
        roots: list[int] = []
        for row in by_start:
            up = parent[row]
            if up < 0:
                roots.append(row)
            else:
                order[place[up]] = row
                place[up] += 1
        return order, first, roots

    def children(self, row: int) -> array[int]:
        """Return the rows of a span's children, by start."""
        return self.order[self.first[row] : self.first[row + 1]]

    def end(self, row: int) -> int:
        """Return when a span ended; for one that has not, when the trace did."""
        return self.table.end_ns[row] or self.end_ns

    def name(self, row: int) -> str:
        """Return a span's name."""
        return self.table.strings[self.table.name[row]]

    def status(self, row: int) -> str:
        """Return a span's status."""
        return STATUSES[self.table.status[row]]

    def walk(self) -> Iterator[tuple[int, int]]:
        """Yield each row and its depth, parents before children, siblings by start."""
        pending = [(row, 0) for row in reversed(self.roots)]
        while pending:
            row, depth = pending.pop()
            yield row, depth
            below = self.children(row)
            if below:
                pending.extend([(child, depth + 1) for child in reversed(below)])

    def path(self, row: int) -> list[int]:
        """Return the rows from the root to a span."""
        found = []
        while row >= 0:
            found.append(row)
            row = self.parent[row]
        return found[::-1]

    def row_of(self, span: Span | str) -> int:
        """Return the row of a span, or of the span with this id.

        Raises:
            KeyError: There is none.
        """
        wanted = span if isinstance(span, str) else span.span_id
        try:
            return self.table.span_id.index(int(wanted, 16))
        except ValueError:
            raise KeyError(f"there is no span {wanted!r} in trace {self.trace_id:032x}") from None

    def span(self, row: int) -> Span:
        """Return a row as an object."""
        table = self.table
        number, _, thread = table.threads[table.thread[row]]
        process = table.processes[number]
        parent = table.parent_id[row]
        return Span(
            table.strings[table.name[row]],
            KINDS[table.kind[row]],
            f"{self.trace_id:032x}",
            f"{table.span_id[row]:016x}",
            f"{parent:016x}" if parent else None,
            table.start_ns[row],
            table.end_ns[row] or None,
            STATUSES[table.status[row]],
            table.attributes(row),
            tuple(table.events.get(row, ())),
            process.label,
            process.host,
            process.pid,
            thread,
        )

    def events(self, row: int) -> list[Event]:
        """Return what happened in a span."""
        return self.table.events.get(row, [])


class SpanList(Sequence[Span]):
    """Spans of a trace, made when they are looked at."""

    def __init__(self, data: TraceData, rows: Sequence[int]) -> None:
        self._data = data
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Span: ...
    @overload
    def __getitem__(self, index: slice) -> SpanList: ...
    def __getitem__(self, index: int | slice) -> Span | SpanList:
        if isinstance(index, slice):
            return SpanList(self._data, self._rows[index])
        return self._data.span(self._rows[index])

    def __repr__(self) -> str:
        head = ("span", "kind", "took", "status", "where")
        rows = [
            (printable(s.name), s.kind, duration((s.duration or 0) * 1e9) if s.end_ns else "", s.status, s.worker)
            for s in self[:LINES_MAX]
        ]
        return in_columns(head, rows, len(self)) if rows else "(no spans)"
