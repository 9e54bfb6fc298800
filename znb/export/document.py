"""A trace as one JSON document: what the HTML file holds, for its own viewer and to be read back.

Times are nanoseconds since ``start_ns``, which JavaScript's numbers hold exactly for 104 days; ids are hexadecimal.
"""

from __future__ import annotations

from typing import Any

import msgspec

from znb.spans import KINDS, STATUSES, Process, SpanTable
from znb.spans.samples import Frame, SampleTable
from znb.spans.table import Event, by_name
from znb.traces.model import ClockError, TraceData

__all__ = ["FORMAT", "read_document", "to_document"]

#: Tells the document, and its version.
FORMAT = "znb document 1"


def to_document(data: TraceData, title: str) -> dict[str, Any]:
    """Return the document."""
    table, samples, base = data.table, data.samples, data.start_ns
    processes = list(dict.fromkeys((*table.processes, *samples.processes)))
    return {
        "format": FORMAT,
        "title": title,
        "trace_id": f"{data.trace_id:032x}",
        "start_ns": str(base),
        "length_ns": data.end_ns - base,
        "notes": data.notes,
        "clocks": [
            [processes.index(c.process), c.offset_ns, c.error_ns] for c in data.clocks if c.process in processes
        ],
        "processes": [list(msgspec.to_builtins(process)) for process in processes],
        "kinds": list(KINDS),
        "statuses": list(STATUSES),
        "strings": table.strings,
        "threads": [[processes.index(table.processes[p]), ident, name] for p, ident, name in table.threads],
        "spans": {
            "id": [f"{span_id:016x}" for span_id in table.span_id],
            "parent": [f"{parent:016x}" if parent else "" for parent in table.parent_id],
            "up": list(data.parent),
            "start": [start - base for start in table.start_ns],
            "end": [end - base if end else -1 for end in table.end_ns],
            "name": list(table.name),
            "kind": list(table.kind),
            "status": list(table.status),
            "thread": list(table.thread),
            "attributes": {str(row): found for row in range(len(table)) if (found := table.attributes(row))},
            "events": {
                str(row): [[event.time_ns - base, event.name, event.attributes] for event in events]
                for row, events in table.events.items()
            },
        },
        "frames": [list(msgspec.to_builtins(frame)) for frame in samples.frames],
        "stacks": {"parent": list(samples.stack_parent), "frame": list(samples.stack_frame)},
        "sample_threads": [[processes.index(samples.processes[p]), ident, name] for p, ident, name in samples.threads],
        "samples": {
            "span": [f"{span_id:016x}" for span_id in samples.span_id],
            "time": [time - base for time in samples.time_ns],
            "wall": list(samples.wall_ns),
            "cpu": list(samples.cpu_ns),
            "thread": list(samples.thread),
            "stack": list(samples.stack),
        },
    }


def read_document(document: dict[str, Any]) -> tuple[TraceData, str]:
    """Return the trace of a document, and its title.

    Raises:
        KeyError, TypeError, ValueError, IndexError, OverflowError: It is damaged.
    """
    base = int(document["start_ns"])
    processes = [msgspec.convert(process, Process) for process in document["processes"]]
    table, spans = SpanTable(), document["spans"]
    places = msgspec.convert(document["threads"], list[tuple[int, int, str]])
    threads = [table.place(processes[p], ident, name) for p, ident, name in places]
    table.strings = [str(text) for text in document["strings"]]
    for row, span_id in enumerate(spans["id"]):
        end = spans["end"][row]
        if not 0 <= spans["name"][row] < len(table.strings):
            raise ValueError(f"the name of span {span_id} is not there")
        table.add(
            int(span_id, 16),
            int(spans["parent"][row] or "0", 16),
            base + spans["start"][row],
            base + end if end >= 0 else 0,
            spans["name"][row],
            threads[spans["thread"][row]],
            kind=document["kinds"][spans["kind"][row]],
            status=document["statuses"][spans["status"][row]],
            attributes=by_name(spans["attributes"].get(str(row), {})),
            events=[Event(base + time, str(name), by_name(e)) for time, name, e in spans["events"].get(str(row), ())],
        )
    found = msgspec.convert(document["clocks"], list[tuple[int, int, int]])
    clocks = [ClockError(processes[p], offset, error) for p, offset, error in found]
    notes = msgspec.convert(document["notes"], list[str])
    data = TraceData(int(document["trace_id"], 16), table, _read_samples(document, processes, base), notes, clocks)
    return data, str(document["title"])


def _read_samples(document: dict[str, Any], processes: list[Process], base: int) -> SampleTable:
    samples = SampleTable()
    frames = [msgspec.convert(frame, Frame) for frame in document["frames"]]
    nodes: list[int] = []
    for parent, number in zip(document["stacks"]["parent"], document["stacks"]["frame"], strict=True):
        nodes.append(samples.node(nodes[parent] if parent >= 0 else -1, frames[number]))
    places = msgspec.convert(document["sample_threads"], list[tuple[int, int, str]])
    threads = [samples.place(processes[p], ident, name) for p, ident, name in places]
    found = document["samples"]
    columns = [found[key] for key in ("span", "time", "wall", "cpu", "thread", "stack")]
    for span, time, wall, cpu, thread, stack in zip(*columns, strict=True):
        samples.add(int(span, 16), base + time, wall, cpu, threads[thread], nodes[stack])
    return samples
