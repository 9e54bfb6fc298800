"""Chrome's trace event format, which Perfetto opens too: spans, call arrows, exceptions, process names, samples.

======== =============================================================================================
phase     used for
======== =============================================================================================
``M``     names and order of processes (workers) and threads (lanes)
``X``     a span; ``args`` has its ids, status and attributes
``s f``   an arrow from a span to a child in another process
``i``     an event of a span, such as an exception
======== =============================================================================================

Times are microseconds since ``otherData.start_ns``, with three decimals, so that none is lost in a double. Samples
stand in
``stackFrames`` and ``samples``, as the format has them. What ``otherData`` and ``args`` hold lets znb read the file
back without loss. Source: "Trace Event Format", Google, 2016 (document CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from znb.export.lanes import lanes
from znb.spans import Process, SpanTable
from znb.spans.samples import Frame, SampleTable
from znb.spans.table import ERROR, KINDS, LOST, STATUSES, Event, by_name
from znb.traces.model import ClockError, TraceData

__all__ = ["FORMAT", "read_chrome", "write_chrome"]

#: Tells files that znb has written, and their version.
FORMAT = "znb trace 1"
#: What Python calls a process's first thread.
MAIN = "MainThread"

_encode = msgspec.json.Encoder().encode


def write_chrome(data: TraceData, title: str) -> Iterator[bytes]:
    """Yield the file, piece by piece."""
    yield b'{"displayTimeUnit":"ms","otherData":' + _encode(_other(data, title)) + b',"traceEvents":[\n'
    separator = b""
    for events in _events(data):
        if events:
            yield separator + b",\n".join(map(_encode, events))
            separator = b",\n"
    yield b"\n]"
    if len(data.samples):
        yield from _samples(data)
    yield b"}\n"


def _other(data: TraceData, title: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "title": title,
        "trace_id": f"{data.trace_id:032x}",
        "start_ns": str(data.start_ns),
        "notes": data.notes,
        "processes": [list(msgspec.to_builtins(process)) for process in data.table.processes],
        "threads": [list(thread) for thread in data.table.threads],
        "clocks": [[list(msgspec.to_builtins(c.process)), c.offset_ns, c.error_ns] for c in data.clocks],
    }


def _events(data: TraceData) -> Iterator[list[dict[str, Any]]]:
    table, base, finish = data.table, data.start_ns, data.end_ns
    names = []
    for number, process in enumerate(table.processes, 1):
        label = f"{process.label} ({process.host}, pid {process.pid})"
        names.append({"ph": "M", "pid": number, "tid": 0, "name": "process_name", "args": {"name": label}})
        names.append({"ph": "M", "pid": number, "tid": 0, "name": "process_sort_index", "args": {"sort_index": number}})
    yield names
    where: dict[int, tuple[int, int]] = {}
    for lane in lanes(data):
        _, _, thread = table.threads[lane.thread]
        # Viewers take the thread whose number is that of its process for the main one.
        main = thread == MAIN and not lane.nth
        pid = lane.process + 1
        tid = pid if main else len(table.processes) + lane.number + 1
        name = thread if lane.nth == 0 else f"{thread} #{lane.nth + 1}"
        found: list[dict[str, Any]] = [
            {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": name}}
        ]
        for row in lane.rows:
            where[row] = (pid, tid)
            args: dict[str, Any] = {"span_id": f"{table.span_id[row]:016x}", "thread": table.thread[row]}
            if table.parent_id[row]:
                args["parent_id"] = f"{table.parent_id[row]:016x}"
            if table.status[row]:
                args["status"] = STATUSES[table.status[row]]
            attributes = table.attributes(row)
            if attributes:
                args["attributes"] = attributes
            event: dict[str, Any] = {
                "ph": "X",
                "pid": pid,
                "tid": tid,
                "ts": (table.start_ns[row] - base) / 1000,
                "dur": ((table.end_ns[row] or finish) - table.start_ns[row]) / 1000,
                "name": table.strings[table.name[row]],
                "cat": KINDS[table.kind[row]],
                "args": args,
            }
            if table.status[row] in {ERROR, LOST}:
                event["cname"] = "terrible"
            found.append(event)
        yield found
    yield [_instant(event, data, row, where[row]) for row in table.events for event in table.events[row]]
    yield list(_arrows(data, where))


def _instant(event: Event, data: TraceData, row: int, where: tuple[int, int]) -> dict[str, Any]:
    args = {"span_id": f"{data.table.span_id[row]:016x}", "attributes": event.attributes}
    time = (event.time_ns - data.start_ns) / 1000
    return {
        "ph": "i",
        "pid": where[0],
        "tid": where[1],
        "ts": time,
        "s": "t",
        "name": event.name,
        "cat": "event",
        "args": args,
    }


def _arrows(data: TraceData, where: dict[int, tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Yield the arrows; each begins and ends inside the spans that it connects, as viewers want it."""
    table, base = data.table, data.start_ns
    for row, parent in enumerate(data.parent):
        if parent < 0 or where[row][0] == where[parent][0]:
            continue
        leaves = min(max(table.start_ns[row], table.start_ns[parent]), data.end(parent))
        common = {"id": f"{table.span_id[row]:016x}", "cat": "call", "name": "call"}
        leaving: tuple[Any, ...] = ("s", parent, leaves, {})
        for phase, at, time, more in (leaving, ("f", row, table.start_ns[row], {"bp": "e"})):
            yield {"ph": phase, "pid": where[at][0], "tid": where[at][1], "ts": (time - base) / 1000, **common, **more}


def _samples(data: TraceData) -> Iterator[bytes]:
    samples, base = data.samples, data.start_ns
    frames = {}
    for node, (parent, number) in enumerate(zip(samples.stack_parent, samples.stack_frame, strict=True)):
        frame = samples.frames[number]
        frames[str(node)] = {
            "name": frame.name,
            "category": frame.origin,
            "file": frame.file,
            "line": frame.line,
            "first_line": frame.first_line,
            **({"parent": str(parent)} if parent >= 0 else {}),
        }
    yield b',"stackFrames":' + _encode(frames)
    yield b',"sampleThreads":' + _encode([
        [list(msgspec.to_builtins(samples.processes[number])), ident, name] for number, ident, name in samples.threads
    ])  # fmt: skip
    yield b',"samples":['
    rows = zip(
        samples.span_id, samples.time_ns, samples.wall_ns, samples.cpu_ns, samples.thread, samples.stack, strict=True
    )
    for number, (span_id, time, wall, cpu, thread, stack) in enumerate(rows):
        yield (b"," if number else b"") + _encode({
            "cpu": 0, "tid": thread, "ts": (time - base) / 1000, "name": "sample", "sf": str(stack), "weight": wall,
            "cpu_ns": cpu, "span_id": f"{span_id:016x}",
        })  # fmt: skip
    yield b"]"


def read_chrome(document: dict[str, Any]) -> tuple[TraceData, str]:
    """Return the trace of a file that ``write_chrome`` has written, and its title.

    Raises:
        KeyError, TypeError, ValueError, IndexError, OverflowError: It is damaged.
    """
    other = document["otherData"]
    base = int(other["start_ns"])
    table = SpanTable()
    table.processes = [msgspec.convert(process, Process) for process in other["processes"]]
    table.threads = msgspec.convert(other["threads"], list[tuple[int, int, str]])
    names: dict[str, int] = {}
    rows: dict[str, int] = {}
    for event in document["traceEvents"]:
        if event["ph"] != "X":
            continue
        args = event["args"]
        rows[args["span_id"]] = len(table)
        start = round(event["ts"] * 1000)
        status = args.get("status", "ok")
        ended = status not in {"open", "lost"}
        if not 0 <= args["thread"] < len(table.threads) or event["cat"] not in KINDS or status not in STATUSES:
            raise ValueError(f"thread, kind or status of span {args['span_id']} is not one")
        table.add(
            int(args["span_id"], 16),
            int(args.get("parent_id", "0"), 16),
            base + start,
            base + start + round(event["dur"] * 1000) if ended else 0,
            names.setdefault(str(event["name"]), len(names)),
            args["thread"],
            kind=event["cat"],
            status=status,
            attributes=by_name(args.get("attributes", {})),
        )
    table.strings = list(names)
    for event in document["traceEvents"]:
        if event["ph"] == "i":
            args = event["args"]
            happened = Event(base + round(event["ts"] * 1000), str(event["name"]), by_name(args["attributes"]))
            table.events.setdefault(rows[args["span_id"]], []).append(happened)
    clocks = [ClockError(*clock) for clock in msgspec.convert(other["clocks"], list[tuple[Process, int, int]])]
    samples = _read_samples(document, base) if "samples" in document else SampleTable()
    notes = msgspec.convert(other["notes"], list[str])
    return TraceData(int(other["trace_id"], 16), table, samples, notes, clocks), str(other["title"])


def _read_samples(document: dict[str, Any], base: int) -> SampleTable:
    samples = SampleTable()
    nodes: list[int] = []
    for number in range(len(document["stackFrames"])):
        found = document["stackFrames"][str(number)]
        fields = [found[key] for key in ("name", "file", "line", "first_line", "category")]
        frame = msgspec.convert(fields, Frame)
        nodes.append(samples.node(nodes[int(found["parent"])] if "parent" in found else -1, frame))
    places = msgspec.convert(document["sampleThreads"], list[tuple[Process, int, str]])
    threads = [samples.place(*place) for place in places]
    for row in document["samples"]:
        time = base + round(row["ts"] * 1000)
        samples.add(
            int(row["span_id"], 16), time, row["weight"], row["cpu_ns"], threads[row["tid"]], nodes[int(row["sf"])]
        )
    return samples
