"""From what processes have sent to a trace: one table, one clock, one tree, and what is missing said.

Invariants: a span that came twice is there once, the finished one; a span whose parent never came is a root; spans that
a process had open when it was lost are ``lost``; nothing is invented. Not owned by a thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from znb.spans import Process, SpanTable, TracePart
from znb.spans.samples import SamplePart, SampleTable
from znb.spans.table import KINDS, LOST, Event
from znb.traces.clock import Estimate, Interval, chain
from znb.traces.model import ClockError, TraceData
from znb.traces.names import CellNames, rename_events, rename_frames

__all__ = ["Parts", "assemble", "open_notes", "take_rows"]

_CELL = KINDS.index("cell")
_JOB = KINDS.index("job")
#: How reasons begin that follow the name of a worker.
_HOW = ("(pid ", "was ", "exited ")
#: Bytes that one trace may take; what comes later is dropped and counted.
BYTES_MAX = 256 << 20


class Parts:
    """What has come of one trace so far.

    Args:
        trace_id: 128 bits.
        bytes_max: Bytes that it may take.
        cell_of: What people call files, where this process knows cells.

    Attributes:
        trace_id: 128 bits.
        tables: Spans by process.
        opened: Open spans by process, as of the last time.
        samples: By process.
        size_bytes: What it takes in memory, nearly.
        dropped: Spans that found no room here.
    """

    def __init__(self, trace_id: int, bytes_max: int = BYTES_MAX, cell_of: CellNames | None = None) -> None:
        self.trace_id = trace_id
        self._cell_of = cell_of
        self.tables: dict[Process, SpanTable] = {}
        self.opened: dict[Process, SpanTable] = {}
        self.samples: dict[Process, SampleTable] = {}
        self.size_bytes = 0
        self.dropped = 0
        self._bytes_max = bytes_max

    def add(self, process: Process, part: TracePart) -> int:
        """Add finished spans; return how many bytes more it takes.

        Raises:
            ValueError: The part is damaged.
        """
        table = self._table(process, part)
        if self.size_bytes + table.size_bytes > self._bytes_max:
            self.dropped += len(table)
            return 0
        known = self.tables.get(process)
        before = self.size_bytes
        if known is None:
            self.tables[process] = table
            self.size_bytes += table.size_bytes
        else:
            size = known.size_bytes
            known.append(table)
            self.size_bytes += known.size_bytes - size
        return self.size_bytes - before

    def root_name(self) -> str:
        """Return the name of a span without a parent, else of the first; empty if none has come yet."""
        tables = [table for table in (*self.tables.values(), *self.opened.values()) if len(table)]
        for table in tables:
            if 0 in table.parent_id:
                return table.strings[table.name[table.parent_id.index(0)]]
        for table in tables:
            return table.strings[table.name[table.start_ns.index(min(table.start_ns))]]
        return ""

    def set_open(self, process: Process, part: TracePart | None) -> None:
        """Take the spans that a process has open now; ``None`` for none."""
        if part is None:
            self.opened.pop(process, None)
        else:
            self.opened[process] = self._table(process, part)

    def add_samples(self, process: Process, part: SamplePart) -> int:
        """Add samples; return how many bytes more it takes.

        Raises:
            ValueError: The part is damaged.
        """
        table = self.samples.setdefault(process, SampleTable())
        before = table.size_bytes
        if self.size_bytes < self._bytes_max:
            rename_frames(part, self._cell_of).add_to(table, process)
        self.size_bytes += table.size_bytes - before
        return table.size_bytes - before

    def _table(self, process: Process, part: TracePart) -> SpanTable:
        table = part.table(process)
        rename_events(table, self._cell_of)
        return table


def assemble(
    parts: Parts,
    root: Process,
    *,
    intervals: Mapping[str, Interval] | None = None,
    lost: Mapping[str, str] | None = None,
    lost_ns: Mapping[str, int] | None = None,
    missed: Mapping[str, int] | None = None,
    epoch_ns: int | None = None,
) -> TraceData:
    """Return the trace.

    Args:
        parts: What has come.
        root: The process whose clock counts.
        intervals: By process key, bounds for its clock minus that of ``root``, from round trips.
        lost: By process key, why a process is gone.
        lost_ns: And when that was heard, on the clock of ``root``.
        missed: By process key, spans that were overwritten before they were read.
        epoch_ns: Unix time minus the clock of ``root``; ``None`` to look now.
    """
    if epoch_ns is None:
        epoch_ns = time.time_ns() - time.perf_counter_ns()
    table = SpanTable()
    for found in (*parts.tables.values(), *parts.opened.values()):
        table.append(found)
    table = _told_once(_without_doubles(table), lost or {})
    estimates = _estimate(table, root, intervals or {})
    samples = _merge_samples(parts.samples.values())
    notes, clocks = _apply(table, samples, root, estimates, epoch_ns)
    _mark_lost(table, lost or {}, {key: epoch_ns + at for key, at in (lost_ns or {}).items()})
    data = TraceData(parts.trace_id, table, samples, (), clocks)
    notes += _notes(data, parts, lost or {}, missed or {})
    data.notes = notes
    return data


def _without_doubles(table: SpanTable) -> SpanTable:
    """Return the table with one row for each span: the finished one, if there is one."""
    rows: dict[int, int] = {}
    for row, span_id in enumerate(table.span_id):
        known = rows.get(span_id)
        if known is None or not table.end_ns[known]:
            rows[span_id] = row
    if len(rows) == len(table):
        return table
    return take_rows(table, sorted(rows.values()))


def _told_once(table: SpanTable, lost: Mapping[str, str]) -> SpanTable:
    """Return the table without what this side recorded of lost jobs that their workers had told of while they ran."""
    ours = [row for row in range(len(table)) if table.status[row] == LOST and table.kind[row] == _JOB]
    if not ours:
        return table
    gone = {thread for thread, (number, _, _) in enumerate(table.threads) if table.processes[number].key in lost}
    open_jobs = (row for row in range(len(table)) if table.kind[row] == _JOB and not table.end_ns[row])
    told = {_which(table, row) for row in open_jobs if table.thread[row] in gone}
    double = {row for row in ours if _which(table, row) in told}
    return take_rows(table, [row for row in range(len(table)) if row not in double]) if double else table


def _which(table: SpanTable, row: int) -> tuple[int, Any, Any]:
    """Return what tells an attempt at a job from all others."""
    attributes = table.attributes(row)
    return table.parent_id[row], attributes.get("index"), attributes.get("attempt")


def take_rows(table: SpanTable, rows: list[int]) -> SpanTable:
    """Return a table of some rows of another one."""
    taken = SpanTable()
    taken.strings, taken.threads, taken.processes = table.strings, table.threads, table.processes
    for column in ("span_id", "parent_id", "start_ns", "end_ns", "name", "kind", "status", "thread"):
        values = getattr(table, column)
        getattr(taken, column).extend([values[row] for row in rows])
    for number, row in enumerate(rows):
        start = table.extent[row - 1] if row else 0
        taken.blob += table.blob[start : table.extent[row]]
        taken.extent.append(len(taken.blob))
        if row in table.events:
            taken.events[number] = table.events[row]
    return taken


def clock_of(process: Process) -> str:
    """Return what tells the clock of a process: the boot of its machine, or itself."""
    return f"{process.host}/{process.boot}" if process.boot else process.key


def _estimate(table: SpanTable, root: Process, intervals: Mapping[str, Interval]) -> dict[str, Estimate]:
    """Return the offset of each clock from that of ``root``."""
    clocks = [clock_of(process) for process in table.processes]
    ours = clock_of(root)
    if all(clock == ours for clock in clocks):
        return {ours: Estimate(0, 0)}
    pairs: dict[tuple[str, str], Interval] = {}
    for process, clock in zip(table.processes, clocks, strict=True):
        known = intervals.get(process.key)
        if known is not None:
            pairs[ours, clock] = pairs.get((ours, clock), Interval()).narrowed(*known)
    clock_at = [clocks[number] for number, _, _ in table.threads]
    rows = dict(zip(table.span_id, range(len(table)), strict=True))
    for row, parent_id in enumerate(table.parent_id):
        parent = rows.get(parent_id, -1)
        if parent < 0:
            continue
        above, below = clock_at[table.thread[parent]], clock_at[table.thread[row]]
        if above == below:
            continue
        # It was served within the time that its caller saw: it began after the caller's start, ended before its end.
        high = table.start_ns[row] - table.start_ns[parent]
        low = table.end_ns[row] - table.end_ns[parent] if table.end_ns[row] and table.end_ns[parent] else None
        pairs[above, below] = pairs.get((above, below), Interval()).narrowed(low, high)
    return chain(ours, _both_ways(pairs))


def _both_ways(pairs: Mapping[tuple[str, str], Interval]) -> dict[tuple[str, str], Interval]:
    """Return intervals with both directions of a pair of clocks taken together."""
    found: dict[tuple[str, str], Interval] = {}
    for (first, second), interval in pairs.items():
        if (second, first) in found:
            low, high = interval
            turned = (None if high is None else -high, None if low is None else -low)
            found[second, first] = found[second, first].narrowed(*turned)
        else:
            found[first, second] = interval
    return found


def _merge_samples(tables: Iterable[SampleTable]) -> SampleTable:
    merged = SampleTable()
    for table in tables:
        nodes: list[int] = []
        for parent, frame in zip(table.stack_parent, table.stack_frame, strict=True):
            nodes.append(merged.node(nodes[parent] if parent >= 0 else -1, table.frames[frame]))
        threads = [merged.place(table.processes[number], ident, name) for number, ident, name in table.threads]
        for column in ("span_id", "time_ns", "wall_ns", "cpu_ns"):
            getattr(merged, column).extend(getattr(table, column))
        merged.thread.extend([threads[number] for number in table.thread])
        merged.stack.extend([nodes[number] for number in table.stack])
    return merged


def _apply(
    table: SpanTable, samples: SampleTable, root: Process, estimates: Mapping[str, Estimate], epoch_ns: int
) -> tuple[list[str], list[ClockError]]:
    """Turn all times into Unix time; return what is uncertain about that."""
    notes: list[str] = []
    clocks: list[ClockError] = []
    shifts: dict[Process, int] = {}
    for process in dict.fromkeys((*table.processes, *samples.processes)):
        estimate = estimates.get(clock_of(process))
        if estimate is None:
            notes.append(f"the clock of {process.label} on {process.host} is not known: its times are as it told them")
        elif not estimate.consistent:
            notes.append(
                f"the clock of {process.label} on {process.host} was set meanwhile, or runs at another rate: its times "
                f"are off by up to {estimate.error_ns / 1e6:.3g} ms"
            )
        offset, error, _ = estimate or Estimate(0, 0)
        shifts[process] = epoch_ns - offset
        if clock_of(process) != clock_of(root):
            clocks.append(ClockError(process, offset, error))
    by_thread = [shifts[table.processes[number]] for number, _, _ in table.threads]
    _shift(table, by_thread)
    moved = [shifts[samples.processes[number]] for number, _, _ in samples.threads]
    for row, thread in enumerate(samples.thread):
        samples.time_ns[row] += moved[thread]
    return notes, clocks


def _shift(table: SpanTable, by_thread: list[int]) -> None:
    """Move the times of each row by what its thread's clock needs."""
    if len(set(by_thread)) == 1:
        by = by_thread[0]
        table.start_ns = type(table.start_ns)("q", [t + by for t in table.start_ns])
        table.end_ns = type(table.end_ns)("q", [t and t + by for t in table.end_ns])
    else:
        rows = range(len(table))
        by_row = [by_thread[thread] for thread in table.thread]
        table.start_ns = type(table.start_ns)("q", [table.start_ns[r] + by_row[r] for r in rows])
        table.end_ns = type(table.end_ns)("q", [table.end_ns[r] and table.end_ns[r] + by_row[r] for r in rows])
    for row, events in table.events.items():
        by = by_thread[table.thread[row]]
        table.events[row] = [Event(e.time_ns + by, e.name, e.attributes) for e in events]


def _mark_lost(table: SpanTable, lost: Mapping[str, str], lost_ns: Mapping[str, int]) -> None:
    """Mark what lost processes had open, which ended then at the latest."""
    if not lost:
        return
    gone = {thread for thread, (number, _, _) in enumerate(table.threads) if table.processes[number].key in lost}
    for row, thread in enumerate(table.thread):
        if thread in gone and not table.end_ns[row]:
            table.status[row] = LOST
            key = table.process(row).key
            at = lost_ns.get(key, table.start_ns[row])
            table.end_ns[row] = max(at, table.start_ns[row]) if key in lost_ns else 0
            table.events.setdefault(row, []).append(Event(at, "lost", {"reason": lost[key]}))


def _notes(data: TraceData, parts: Parts, lost: Mapping[str, str], missed: Mapping[str, int]) -> list[str]:
    """Say what is missing."""
    notes: list[str] = []
    there = {process.key: process for process in data.table.processes}
    for key, reason in lost.items():
        if key in there:
            how = reason if reason.startswith(_HOW) else f"is gone: {reason}"
            notes.append(f"{there[key].label} {how}; what it had not told by then is missing")
    for key, count in missed.items():
        if count and key in there:
            notes.append(f"{count} spans of {there[key].label} came faster than they were read and are missing")
    if parts.dropped:
        notes.append(f"{parts.dropped} spans found no room in the {parts.size_bytes >> 20} MB of this trace")
    # A root may have a parent: that of a caller who is no part of znb, or in another's trace.
    missing = {data.table.parent_id[row] for row in data.roots} - {0}
    if missing and len(data.roots) > 1:
        what = "1 span stands" if data.orphans == 1 else f"{data.orphans} spans stand"
        notes.append(f"{what} alone, as {len(missing)} of the spans above are missing")
    return notes + open_notes(data)


def open_notes(data: TraceData) -> list[str]:
    """Say what has not ended."""
    # The root of a script stays open as long as the script runs.
    rows = zip(data.table.end_ns, data.table.kind, data.table.status, strict=True)
    open_rows = sum(1 for end, kind, status in rows if not end and kind != _CELL and status != LOST)
    if not open_rows:
        return []
    return ["1 span has not ended yet" if open_rows == 1 else f"{open_rows} spans have not ended yet"]
