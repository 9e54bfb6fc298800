"""Time that the sampler could not see: C code that held the GIL, so that no other thread, the sampler included, ran.

The sampler then looks when it is over. If the span has ended by then it has no sample; else one sample stands for all
of the time, perhaps at a line that ran for none of it. Where a thread was not running in such a time, the machine was
busy, or another thread: that is not counted.

Invariants: pure; nothing is told of spans that run no code of their own (they wait for a call or a job), that have not
ended, or that nobody watched; nor of a process that has sent no samples, but for the one that began the trace.
"""

from __future__ import annotations

from typing import Final

from znb.spans.samples import SampleTable
from znb.spans.table import KINDS
from znb.traces.analysis import own_ns
from znb.traces.listing import duration
from znb.traces.model import TraceData

__all__ = ["INTERVAL", "REASON", "unseen_ns", "unseen_text"]

#: Why.
REASON: Final = "C code that held the GIL"
#: The attribute of a trace that tells the milliseconds between two samples, where these are not the usual ones.
INTERVAL: Final = "interval_ms"
#: Nanoseconds, and times the time between two samples, that a look has to come late to be told.
LATE_NS: Final = 50_000_000
LATE_TIMES: Final = 5
#: Part of a span's own time that has to be unseen to be told.
PART_MIN: Final = 0.1
#: Kinds of spans whose code runs on the span's thread from its start to its end.
_RUNNING: Final = frozenset(KINDS.index(kind) for kind in ("span", "trace", "serve", "job"))
_TRACE: Final = KINDS.index("trace")
#: Statuses of spans that ended by themselves.
_ENDED: Final = 2


def unseen_text(unseen: int) -> str:
    """Return what to tell of a time, in nanoseconds."""
    return f"{duration(unseen)} not seen by the sampler: {REASON}"


def unseen_ns(data: TraceData) -> dict[int, int]:
    """Return nanoseconds that the sampler did not see, by row, of the spans where that is worth telling."""
    if not data.sampled or _TRACE not in data.table.kind:
        return {}
    table, samples = data.table, data.samples
    late = _late(data)
    seen = _seen(samples, late)
    sampled = {samples.processes[number] for number, _, _ in samples.threads}
    sampled.update(table.process(row) for row, kind in enumerate(table.kind) if kind == _TRACE)
    found = {}
    for row, (start, end) in enumerate(zip(table.start_ns, table.end_ns, strict=True)):
        if end - start < late or table.kind[row] not in _RUNNING or table.status[row] > _ENDED:
            continue
        if table.process(row) not in sampled or all(table.kind[up] != _TRACE for up in data.path(row)):
            continue
        own = own_ns(data, row)
        missing = own - seen.get(table.span_id[row], 0)
        if missing >= late and missing >= own * PART_MIN:
            found[row] = missing
    return found


def _late(data: TraceData) -> int:
    """Return from which time on that a sample stands for the sampler was kept from looking."""
    traces = (data.table.attributes(row) for row, kind in enumerate(data.table.kind) if kind == _TRACE)
    told = [every for found in traces if isinstance(every := found.get(INTERVAL), int)]
    return max(LATE_NS, LATE_TIMES * 1_000_000 * max(told, default=0))


def _seen(samples: SampleTable, late: int) -> dict[int, int]:
    """Return nanoseconds seen of each span, by its id."""
    seen: dict[int, int] = {}
    for span_id, wall, cpu in zip(samples.span_id, samples.wall_ns, samples.cpu_ns, strict=True):
        # The thread that ran all the time in which nobody could look is the one that held the GIL.
        blind = wall >= late and 2 * cpu >= wall
        seen[span_id] = seen.get(span_id, 0) + (wall - cpu if blind else wall)
    return seen
