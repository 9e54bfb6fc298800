"""Part of a trace: a span, and all that is below it. Pure."""

from __future__ import annotations

from znb.spans.samples import SampleTable
from znb.spans.table import SpanTable
from znb.traces.assemble import open_notes, take_rows
from znb.traces.model import TraceData

__all__ = ["subtree"]


def subtree(data: TraceData, span_id: int) -> TraceData:
    """Return a trace's span, with everything below it, as a trace of the same id; an empty one if it has not come."""
    if span_id not in data.table.span_id:
        return TraceData(data.trace_id, SpanTable(), SampleTable(), data.notes, data.clocks, sampled=data.sampled)
    pending, rows = [data.table.span_id.index(span_id)], []
    while pending:
        row = pending.pop()
        rows.append(row)
        pending.extend(data.children(row))
    table = take_rows(data.table, sorted(rows))
    _leave_out_rest(table)
    samples = _of_spans(data.samples, set(table.span_id))
    found = TraceData(data.trace_id, table, samples, (), data.clocks, sampled=data.sampled)
    above = set(open_notes(data))
    found.notes = [note for note in data.notes if note not in above] + open_notes(found)
    return found


def _leave_out_rest(table: SpanTable) -> None:
    """Leave out names that none of the spans has, and threads and processes in which none of them is."""
    names = sorted(set(table.name))
    table.name = type(table.name)("I", map({old: new for new, old in enumerate(names)}.__getitem__, table.name))
    table.strings = [table.strings[number] for number in names]
    threads = sorted(set(table.thread))
    processes = sorted({table.threads[number][0] for number in threads})
    places = [table.threads[number] for number in threads]
    table.thread = type(table.thread)("I", map({old: new for new, old in enumerate(threads)}.__getitem__, table.thread))
    table.threads = [(processes.index(number), ident, name) for number, ident, name in places]
    table.processes = [table.processes[number] for number in processes]


def _of_spans(samples: SampleTable, span_ids: set[int]) -> SampleTable:
    """Return the samples of some spans; stacks are shared."""
    taken = SampleTable()
    for name in ("stack_parent", "stack_frame", "frames", "threads", "processes"):
        setattr(taken, name, getattr(samples, name))
    rows = [row for row, span_id in enumerate(samples.span_id) if span_id in span_ids]
    for name in ("span_id", "time_ns", "wall_ns", "cpu_ns", "thread", "stack"):
        values = getattr(samples, name)
        getattr(taken, name).extend([values[row] for row in rows])
    return taken
