"""Traces to explore: a pipeline over several workers with everything in it, and one as large as one likes."""

from __future__ import annotations

import random
from array import array

from made_traces import BASE
from znb.spans import KINDS, Process, SpanTable
from znb.spans.samples import Frame, SampleTable
from znb.spans.table import Event
from znb.traces import TraceData

MS = 1_000_000
TRACEBACK = """Traceback (most recent call last):
  File "{file}", line 4, in score
    return total / len(rows)
           ~~~~~~^~~~~~~~~~~
ZeroDivisionError: division by zero
"""


def pipeline(workers: int = 4, jobs: int = 40, *, slow: float = 1.0, file: str = "cell.py", seed: int = 1) -> TraceData:
    """Return a trace of a notebook that maps jobs over workers; each calls a service, one fails, all are sampled."""
    rng = random.Random(seed)
    table, samples = SpanTable(), SampleTable()
    names: dict[str, int] = {}
    notebook = Process("c0ffee0000000000", "", "here", 100, "boot")
    processes = [Process(f"c0ffee000000000{n + 1}", f"w{n}", "here", 101 + n, "boot") for n in range(workers)]

    def add(name, start, end, parent, process, kind="span", thread="MainThread", **more):
        number = len(table) + 1
        place = table.place(process, process.pid if thread == "MainThread" else process.pid + 1000, thread)
        table.add(number, parent, BASE + round(start * MS), BASE + round(end * MS), names.setdefault(name, len(names)),
                  place, kind=kind, **more)  # fmt: skip
        return number

    def sample(span, start, end, process, *stack):
        thread = samples.place(process, process.pid, "MainThread")
        node = -1
        for frame in stack:
            node = samples.node(node, frame)
        at = start
        while at + 10 <= end:
            at += 10
            samples.add(span, BASE + round(at * MS), 10 * MS, 9 * MS, thread, node)

    free = [22.0] * workers
    plan = []
    for job in range(jobs):
        worker = min(range(workers), key=free.__getitem__)
        took = rng.uniform(20, 70) * slow
        plan.append((job, worker, free[worker], took))
        free[worker] += took + rng.uniform(0.5, 3)
    end = max(free) + 30
    root = add("score the documents", 0, end, 0, notebook, "trace")
    load = add("load", 1, 20, root, notebook, attributes={"rows": 40_000, "path": "documents.parquet"})
    main = Frame("<module>", file, 1, 1, "user")
    sample(
        load,
        1,
        20,
        notebook,
        main,
        Frame("load", file, 2, 2, "user"),
        Frame("read_table", "/lib/parquet.py", 90, 80, "library"),
    )
    mapped = add("map score", 21, max(free) + 1, root, notebook, "map", attributes={"jobs": jobs, "chunksize": 1})
    for job, worker, start, took in plan:
        process = processes[worker]
        failed = job == 17
        error = [Event(BASE + round((start + took) * MS), "exception", {
            "exception.type": "ZeroDivisionError", "exception.message": "division by zero",
            "exception.stacktrace": TRACEBACK.format(file=file)})]  # fmt: skip
        queued = 0.4 + 0.1 * (job % 5)
        one = add("score", start, start + took, mapped, process, "job", status="error" if failed else "ok",
                  attributes={"queued_ns": round(queued * MS), "decoded_ns": round(0.3 * MS), "index": job},
                  events=error if failed else ())  # fmt: skip
        score = Frame("score", file, 3, 3, "user")
        sample(one, start + 1, start + took * 0.4, process, main, score, Frame("tokenize", file, 9, 8, "user"))
        called = add("call rank.top", start + took * 0.5, start + took * 0.9, one, process, "call",
                     attributes={"encoded_ns": round(0.5 * MS), "sent_ns": round(0.8 * MS)})  # fmt: skip
        server = processes[(worker + 1) % workers]
        add("rank.top", start + took * 0.5 + 2.5, start + took * 0.9 - 1.5, called, server, "serve", "znb-service",
            attributes={"taken_ns": round(1.1 * MS), "decoded_ns": round(1.3 * MS), "ran_ns": round((took * 0.4 - 4.5) * MS)})  # fmt: skip
    add("reduce", max(free) + 2, end - 1, root, notebook, attributes={"groups": 12})
    table.strings = list(names)
    return TraceData(0xABC0 + seed, table, samples)


def large(spans: int = 500_000, workers: int = 8) -> TraceData:
    """Return a trace of so many spans on some workers, four deep."""
    rng = random.Random(7)
    table = SpanTable()
    processes = [Process(f"beef{n:012x}", f"w{n}", "here", 200 + n, "boot") for n in range(workers)]
    threads = array("I", [table.place(process, process.pid, "MainThread") for process in processes])
    table.strings = ["root", *(f"step {n}" for n in range(40))]
    table.add(1, 0, BASE, BASE + spans * 4_000, 0, threads[0], kind="trace")
    rows = []
    number = 2
    clock = [BASE + 1_000] * workers
    while number < spans:
        worker = number // 4 % workers
        took = rng.randrange(20_000, 60_000)
        parent, start = 1, clock[worker]
        outer = number
        rows.append((number, parent, start, start + took, 1 + outer % 7, worker, 7))
        inner = start + 500
        for _ in range(3):
            long = rng.randrange(2_000, took // 4)
            number += 1
            rows.append((number, outer, inner, inner + long, 8 + number % 32, worker, 0))
            inner += long + 200
        clock[worker] += took + rng.randrange(200, 4_000)
        number += 1
    ids, parents, starts, ends, names, places, kinds = zip(*rows, strict=True)
    table.span_id.extend(ids)
    table.parent_id.extend(parents)
    table.start_ns.extend(starts)
    table.end_ns.extend(ends)
    table.name.extend(names)
    table.kind.extend(kinds)
    table.status.extend([1 if span % 50_021 == 0 else 0 for span in ids])
    table.thread.extend([threads[worker] for worker in places])
    table.extent.extend([0] * len(rows))
    table.end_ns[0] = max(ends) + 1_000
    assert KINDS[7] == "job"
    return TraceData(0xB16, table, SampleTable())
